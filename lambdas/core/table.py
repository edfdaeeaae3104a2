"""The one DynamoDB table: checkpoints, locks and task records, told apart by their keys.

    pk                     sk                        written by
    run#{run id}           step#{step}               core.checkpoints
    object#{bucket}/{key}  content#{etag}[.version]  ingest.locks
    task#{run id}#{group}  {task number}             fan_out.tasks

Every item has `expires_at` (epoch seconds), after which DynamoDB deletes it, within days: correctness
must not lean on it.
"""

import time
from functools import cache
from typing import TYPE_CHECKING

from core.clients import dynamodb
from core.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.service_resource import Table

# Longer than the 90 days for which Step Functions holds an execution's name.
KEEP_SECONDS = 100 * 24 * 3600


@cache
def table() -> "Table":
    """The stack's table."""
    return dynamodb().Table(settings().table)


def expires_at() -> int:
    """When an item written now may be deleted, in epoch seconds."""
    return int(time.time()) + KEEP_SECONDS
