"""DynamoDB. One table has checkpoints, locks, the states of tasks and limits, distinguished by their keys:

    pk                     sk                        written by
    run#{run id}           step#{step}               core.checkpoints
    object#{bucket}/{key}  content#{etag}[.version]  ingest.locks
    task#{run id}#{group}  {task number}             fan_out.tasks
    rate#{limit}           bucket                    core.calls.rates
    rate#{limit}           batch#{execution}         core.calls.rates
    rate#{limit}           slots                     core.calls.slots

Another has the results that are reused (core.calls.reuse): it is not backed up, and is deleted with the
stack.

Every item has `expires_at` (epoch seconds), after which DynamoDB deletes it, within days: correctness must
not depend on it. Values are Python's (core.attributes).
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from core.attributes import to_attributes, to_item
from core.clients import dynamodb
from core.settings import settings

# Longer than the 90 days for which Step Functions holds an execution's name.
KEEP_SECONDS = 100 * 24 * 3600

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
MAX_BATCH_READS, MAX_BATCH_WRITES = 100, 25

# How often what DynamoDB leaves undone of a batch is asked for again, with pauses of up to so long, doubled
# each time up to the longest: about 2 s together.
_BATCH_ATTEMPTS = 8
_BATCH_PAUSE_SECONDS, _LONGEST_BATCH_PAUSE_SECONDS = 0.05, 1.0

Item = dict[str, Any]


def expires_at() -> int:
    """When an item written now may be deleted, in epoch seconds."""
    return int(time.time()) + KEEP_SECONDS


def get_item(key: Mapping[str, str]) -> Item | None:
    """The item of this `pk` and `sk` as it is now (a consistent read), or None."""
    answer = dynamodb().get_item(TableName=settings().table, Key=to_attributes(key), ConsistentRead=True)
    return to_item(answer["Item"]) if "Item" in answer else None


def query_items(pk: str, table: str | None = None) -> Iterator[Item]:
    """All items of one partition as they are now, in the order of `sk`.

    `table`: the stack's, if not named.
    """
    pages = (
        dynamodb()
        .get_paginator("query")
        .paginate(
            TableName=table or settings().table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=to_attributes({":pk": pk}),
            ConsistentRead=True,
        )
    )
    for page in pages:
        yield from map(to_item, page["Items"])


def put_if(condition: str, item: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Item | None:
    """Puts the item, with `expires_at`, where the condition holds.

    Returns None where it was written; else the existing item, {} where there is none. `condition`: an
    expression of DynamoDB's, with `values` for its `:names`; a reserved attribute name is written `#name`.
    """
    attributes = to_attributes({"expires_at": expires_at(), **item})
    return _write_if(dynamodb().put_item, condition, values, Item=attributes)


def change_if(
    condition: str, key: Mapping[str, str], update: str, values: Mapping[str, Any]
) -> tuple[bool, Item]:
    """Updates as `update_if` does. Returns (True, the item as it is now), or (False, the existing item)."""
    written: dict[str, Any] = {}

    def operation(**request: Any) -> None:
        written.update(dynamodb().update_item(ReturnValues="ALL_NEW", **request)["Attributes"])

    existing = _write_if(
        operation, condition, values, update, Key=to_attributes(key), UpdateExpression=update
    )
    return (True, to_item(written)) if existing is None else (False, existing)


def update_if(condition: str, key: Mapping[str, str], update: str, values: Mapping[str, Any]) -> Item | None:
    """Updates the item of a key by DynamoDB's expression `update`; returns as `put_if` does."""
    return _write_if(
        dynamodb().update_item, condition, values, update, Key=to_attributes(key), UpdateExpression=update
    )


def delete_if(condition: str, key: Mapping[str, str], values: Mapping[str, Any]) -> Item | None:
    """Deletes the item of a key; returns as `put_if` does."""
    return _write_if(dynamodb().delete_item, condition, values, Key=to_attributes(key))


def get_items(table: str, keys: Sequence[Mapping[str, str]]) -> list[Item]:
    """The items of at most MAX_BATCH_READS different keys as they are now, in any order.

    Those that DynamoDB still leaves out after several attempts are left out.
    """
    items: list[Item] = []
    asked: dict[str, Any] = {table: {"Keys": [to_attributes(key) for key in keys], "ConsistentRead": True}}
    for attempt in range(_BATCH_ATTEMPTS):
        _pause(attempt)
        answer = dynamodb().batch_get_item(RequestItems=asked)
        items += map(to_item, answer["Responses"].get(table, []))
        asked = answer.get("UnprocessedKeys") or {}
        if not asked:
            break
    return items


def put_items(table: str, items: Sequence[Mapping[str, Any]]) -> int:
    """Puts at most MAX_BATCH_WRITES items of different keys.

    Returns how many of them DynamoDB left out after several attempts.
    """
    asked: dict[str, Any] = {table: [{"PutRequest": {"Item": to_attributes(item)}} for item in items]}
    for attempt in range(_BATCH_ATTEMPTS):
        _pause(attempt)
        asked = dynamodb().batch_write_item(RequestItems=asked).get("UnprocessedItems") or {}
        if not asked:
            break
    return len(asked.get(table, []))


def add(
    table: str, key: Mapping[str, str], amounts: Mapping[str, int], expires_at: int, **values: Any
) -> None:
    """Adds to the numbers of an item, which is made if it is not there, and sets other `values` of it."""
    values = {"expires_at": expires_at, **values}
    sets = ", ".join(f"#{name} = :{name}" for name in values)
    adds = ", ".join(f"#{name} :{name}" for name in amounts)
    dynamodb().update_item(
        TableName=table,
        Key=to_attributes(key),
        UpdateExpression=f"SET {sets} ADD {adds}",
        ExpressionAttributeNames={f"#{name}": name for name in (*values, *amounts)},
        ExpressionAttributeValues=to_attributes(
            {f":{name}": value for name, value in {**values, **amounts}.items()}
        ),
    )


def _pause(attempt: int) -> None:
    """Before a further attempt; drawn, so that not all come back at once."""
    if attempt:
        bound = min(_LONGEST_BATCH_PAUSE_SECONDS, _BATCH_PAUSE_SECONDS * 2**attempt)
        time.sleep(random.uniform(0, bound))  # noqa: S311


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
        request["ExpressionAttributeValues"] = to_attributes(values)
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
        return to_item(error.response.get("Item", {}))  # type: ignore[arg-type]
    return None
