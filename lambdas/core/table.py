"""The one DynamoDB table: checkpoints, locks and the states of tasks, distinguished by their keys.

    pk                     sk                        written by
    run#{run id}           step#{step}               core.checkpoints
    object#{bucket}/{key}  content#{etag}[.version]  ingest.locks
    task#{run id}#{group}  {task number}             fan_out.tasks

Every item has `expires_at` (epoch seconds), after which DynamoDB deletes it, within days: correctness must
not depend on it. Values are Python's str, int, bool and None; no numbers with a fraction.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from core.clients import dynamodb
from core.settings import settings

# Longer than the 90 days for which Step Functions holds an execution's name.
KEEP_SECONDS = 100 * 24 * 3600

Item = dict[str, Any]

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


def expires_at() -> int:
    """When an item written now may be deleted, in epoch seconds."""
    return int(time.time()) + KEEP_SECONDS


def get_item(key: Mapping[str, str]) -> Item | None:
    """The item of this `pk` and `sk` as it is now (a consistent read), or None."""
    answer = dynamodb().get_item(TableName=settings().table, Key=_attributes(key), ConsistentRead=True)
    return _item(answer["Item"]) if "Item" in answer else None


def query_items(pk: str) -> Iterator[Item]:
    """All items of one partition as they are now, in the order of `sk`."""
    pages = (
        dynamodb()
        .get_paginator("query")
        .paginate(
            TableName=settings().table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=_attributes({":pk": pk}),
            ConsistentRead=True,
        )
    )
    for page in pages:
        yield from map(_item, page["Items"])


def put_if(condition: str, item: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Item | None:
    """Puts the item, with `expires_at`, where the condition holds.

    Returns None where it was written; else the existing item, {} where there is none. `condition`: an
    expression of DynamoDB's, with `values` for its `:names`; a reserved attribute name is written `#name`.
    """
    attributes = _attributes({"expires_at": expires_at(), **item})
    return _write_if(dynamodb().put_item, condition, values, Item=attributes)


def update_if(condition: str, key: Mapping[str, str], update: str, values: Mapping[str, Any]) -> Item | None:
    """Updates the item of a key by DynamoDB's expression `update`; returns as `put_if` does."""
    return _write_if(
        dynamodb().update_item, condition, values, update, Key=_attributes(key), UpdateExpression=update
    )


def delete_if(condition: str, key: Mapping[str, str], values: Mapping[str, Any]) -> Item | None:
    """Deletes the item of a key; returns as `put_if` does."""
    return _write_if(dynamodb().delete_item, condition, values, Key=_attributes(key))


def _write_if(
    operation: Callable[..., Any],
    condition: str,
    values: Mapping[str, Any] | None,
    update: str = "",
    **request: Any,
) -> Item | None:
    names = {f"#{name}": name for name in re.findall(r"#(\w+)", f"{condition} {update}")}
    if names:
        request["ExpressionAttributeNames"] = names
    if values:
        request["ExpressionAttributeValues"] = _attributes(values)
    try:
        operation(
            TableName=settings().table,
            ConditionExpression=condition,
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **request,
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        return _item(error.response.get("Item", {}))  # type: ignore[arg-type]
    return None


def _attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _serialize(value) for name, value in values.items()}


def _item(attributes: Mapping[str, Any]) -> Item:
    values = ((name, _deserialize(value)) for name, value in attributes.items())
    # DynamoDB's numbers are Decimals in Python; those that are stored here are whole.
    return {name: int(value) if isinstance(value, Decimal) else value for name, value in values}
