"""One lock for each content of each object, by conditional writes: who is at work on it, or who finished it.

A lock is held by an owner (an execution) until its lease runs out. Then, and not before, another owner may
take it; so may the owner's own resumption, which names the same run. Only the owner renews, completes or
releases: whoever comes late, with its lease gone to another, gets LockLost and changes nothing.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError

from core.errors import TaskError
from core.table import expires_at, table
from ingest.landed_objects import Content

# Longer than anything the ingest machine does without renewing: one Task of 300 s and the retries after it.
LEASE_SECONDS = 600

Clock = Callable[[], float]


class LockLost(TaskError):
    """The lock is another's by now, or nobody's; the message says whose."""


@dataclass(frozen=True)
class Lock:
    """A lock as it stands. `lease_until`: epoch seconds; `result`: what was recorded, None while held."""

    owner: str
    run_id: str
    lease_until: int
    result: dict[str, Any] | None

    @property
    def lease_end(self) -> str:
        """The end of the lease for people, as UTC."""
        return datetime.fromtimestamp(self.lease_until, UTC).isoformat()


def acquire(content: Content, owner: str, run_id: str, *, clock: Clock = time.time) -> Lock:
    """Takes the lock if it may be taken, and returns it as it stands now: whose it is, its `owner` says.

    It may be taken where nobody has it, where its lease has run out, and where `owner` (a retry) or an
    earlier run of the same `run_id` (a resumption) holds it. A completed lock is never taken again.
    """
    now = int(clock())
    lock = Lock(owner, run_id, now + LEASE_SECONDS, None)
    try:
        table().put_item(
            Item={
                **_key(content),
                "state": "held",
                "lock_owner": owner,
                "run_id": run_id,
                "lease_until": lock.lease_until,
                "expires_at": expires_at(),
            },
            ConditionExpression="attribute_not_exists(pk) OR (#state = :held AND "
            "(lease_until < :now OR lock_owner = :owner OR run_id = :run_id))",
            ExpressionAttributeNames={"#state": "state"},
            ExpressionAttributeValues={":held": "held", ":now": now, ":owner": owner, ":run_id": run_id},
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except ClientError as error:
        found = _found(error)
        if found is None:
            raise
        return found
    return lock


def renew(content: Content, owner: str, *, clock: Clock = time.time) -> None:
    """Begins the lease anew, and counts that. Raises LockLost where the lock is not this owner's."""
    try:
        table().update_item(
            Key=_key(content),
            UpdateExpression="SET lease_until = :until ADD renewals :one",
            ConditionExpression="lock_owner = :owner AND #state = :held",
            ExpressionAttributeNames={"#state": "state"},
            ExpressionAttributeValues={
                ":until": int(clock()) + LEASE_SECONDS,
                ":one": 1,
                ":owner": owner,
                ":held": "held",
            },
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except ClientError as error:
        raise _lost(error, content) from error


def complete(content: Content, owner: str, result: dict[str, Any]) -> None:
    """Records for good that the content is done, and with what result. Raises LockLost. Safe to repeat."""
    try:
        table().update_item(
            Key=_key(content),
            UpdateExpression="SET #state = :done, #result = :result, expires_at = :expires",
            ConditionExpression="lock_owner = :owner",
            ExpressionAttributeNames={"#state": "state", "#result": "result"},
            ExpressionAttributeValues={
                ":done": "done",
                ":result": json.dumps(result, ensure_ascii=False),
                ":expires": expires_at(),
                ":owner": owner,
            },
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    except ClientError as error:
        raise _lost(error, content) from error


def release(content: Content, owner: str) -> bool:
    """Gives the lock back, so that anybody may try again. False where it is not this owner's to give."""
    try:
        table().delete_item(
            Key=_key(content),
            ConditionExpression="lock_owner = :owner AND #state = :held",
            ExpressionAttributeNames={"#state": "state"},
            ExpressionAttributeValues={":owner": owner, ":held": "held"},
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        return False
    return True


def _key(content: Content) -> dict[str, str]:
    return {"pk": f"object#{content.bucket}/{content.key}", "sk": f"content#{content.name}"}


def _found(error: ClientError) -> Lock | None:
    """The lock that a failed condition found; None where the error is another, or there was no lock."""
    item: dict[str, Any] | None = error.response.get("Item")  # type: ignore[assignment]
    if error.response["Error"]["Code"] != "ConditionalCheckFailedException" or not item:
        return None
    # Errors keep DynamoDB's own notation, {"S": "text"}, where answers have Python values.
    values = {name: TypeDeserializer().deserialize(value) for name, value in item.items()}
    result = json.loads(values["result"]) if "result" in values else None
    return Lock(values["lock_owner"], values["run_id"], int(values["lease_until"]), result)


def _lost(error: ClientError, content: Content) -> Exception:
    if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
        return error
    found = _found(error)
    if found is None:
        return LockLost(f"nobody holds the lock on {content} any more; run it again")
    what = f"holds it until {found.lease_end}" if found.result is None else "completed it"
    return LockLost(f"the lock on {content} was lost: run {found.owner} {what}")
