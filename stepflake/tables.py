"""Items of a deployed stack's tables, with Python's values."""

import itertools
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from core.attributes import to_attributes, to_item
from core.errors import is_throttle
from stepflake.errors import UserError

Item = dict[str, Any]

# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
MAX_BATCH_WRITES = 25

# How often a batch is asked for again of which nothing was written; the bounds of the pauses before that.
_ATTEMPTS = 12
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 5.0


class TableError(UserError):
    """A table that can't be read or written; the message says why."""


class Table:
    """A table with the keys `pk` and `sk`. For several threads.

    `client`: boto3's for DynamoDB. All methods raise TableError.
    """

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    def get(self, pk: str, sk: str) -> Item | None:
        """The item as it is now, or None."""
        with self._errors():
            answer = self._client.get_item(
                TableName=self._name, Key=to_attributes({"pk": pk, "sk": sk}), ConsistentRead=True
            )
        return to_item(answer["Item"]) if "Item" in answer else None

    def query(self, pk: str, attributes: Sequence[str] = ()) -> Iterator[Item]:
        """The items of a partition as they are now, in the order of `sk`. `attributes`: all if not named."""
        return self._pages(
            "query",
            attributes,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues=to_attributes({":pk": pk}),
            ConsistentRead=True,
        )

    def scan(self, attributes: Sequence[str], segment: int, segments: int) -> Iterator[Item]:
        """The items of one of `segments` parts of the table as they are now."""
        return self._pages("scan", attributes, Segment=segment, TotalSegments=segments, ConsistentRead=True)

    def update_if(
        self, condition: str, key: Mapping[str, str], update: str, values: Mapping[str, Any]
    ) -> bool:
        """Updates an item by DynamoDB's expressions; False where the condition does not hold.

        `#name` in them stands for the attribute of this name, which may be a reserved word.
        """
        names = {
            word: word[1:] for word in f"{condition} {update}".replace(",", " ").split() if word[0] == "#"
        }
        with self._errors():
            try:
                self._client.update_item(
                    TableName=self._name,
                    Key=to_attributes(key),
                    ConditionExpression=condition,
                    UpdateExpression=update,
                    ExpressionAttributeValues=to_attributes(values),
                    **({"ExpressionAttributeNames": names} if names else {}),
                )
            except self._client.exceptions.ConditionalCheckFailedException:
                return False
        return True

    def delete(self, keys: Iterable[Mapping[str, str]]) -> Iterator[list[Mapping[str, str]]]:
        """Deletes the items of these keys; yields the keys of each batch when they are deleted."""
        rest = iter(keys)
        while batch := list(itertools.islice(rest, MAX_BATCH_WRITES)):
            self._delete(batch)
            yield batch

    def _delete(self, batch: list[Mapping[str, str]]) -> None:
        """Repeats what DynamoDB leaves unprocessed, as long as it writes some of it now and then."""
        asked: list[Any] = [{"DeleteRequest": {"Key": to_attributes(key)}} for key in batch]
        attempts = 0
        while asked:
            left = self._left(asked)
            attempts = attempts + 1 if len(left) == len(asked) else 0
            if attempts == _ATTEMPTS:
                raise TableError(f"The table {self._name} is throttled, again and again; try later")
            if left:
                bound = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**attempts)
                time.sleep(random.uniform(0, bound))  # noqa: S311 - so that threads do not come back together
            asked = left

    def _left(self, asked: list[Any]) -> list[Any]:
        """What is left of a batch after one attempt. Where none of it can be written, DynamoDB refuses it."""
        with self._errors():
            try:
                answer = self._client.batch_write_item(RequestItems={self._name: asked})
            except self._client.exceptions.ClientError as error:
                if not is_throttle(error):
                    raise
                return asked
        unprocessed: list[Any] = (answer.get("UnprocessedItems") or {}).get(self._name, [])
        return unprocessed

    def _pages(self, operation: str, attributes: Sequence[str], **request: Any) -> Iterator[Item]:
        if attributes:
            request["ProjectionExpression"] = ", ".join(f"#{name}" for name in attributes)
            request["ExpressionAttributeNames"] = {f"#{name}": name for name in attributes}
        with self._errors():
            for page in self._client.get_paginator(operation).paginate(TableName=self._name, **request):
                yield from map(to_item, page["Items"])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise TableError(f"The table {self._name}: {error}") from error
