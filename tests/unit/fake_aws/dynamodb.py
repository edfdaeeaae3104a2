"""Amazon DynamoDB in memory: one table with the keys `pk` and `sk`, and its expressions evaluated."""

import copy
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.fake_aws.expressions import Attribute, Expression, Item, Substitutions, invalid
from tests.unit.fake_aws.faults import AwsError

TABLE = "table"
PAGE_ITEMS = 50

Key = tuple[str, str]


class FakeDynamoDB:
    """`items`: by `pk` and `sk`, their attributes with their types."""

    def __init__(self) -> None:
        self.items: dict[Key, Item] = {}
        self._lock = threading.Lock()

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool) -> dict[str, Any]:
        _check_table(TableName)
        assert ConsistentRead, "nothing here may read what is no longer true"
        with self._lock:
            item = self.items.get(_key(Key))
            return {"Item": copy.deepcopy(item)} if item else {}

    def put_item(self, *, TableName: str, Item: Item, ConditionExpression: str, **request: Any) -> None:
        _check_table(TableName)
        key = _key({name: Item[name] for name in ("pk", "sk") if name in Item})
        self._write(key, ConditionExpression, lambda _old, _: copy.deepcopy(Item), **request)

    def update_item(
        self, *, TableName: str, Key: Item, UpdateExpression: str, ConditionExpression: str, **request: Any
    ) -> None:
        _check_table(TableName)

        def change(old: Item | None, substitutions: Substitutions) -> Item:
            return Expression(UpdateExpression, substitutions).update()(old or dict(Key))

        self._write(_key(Key), ConditionExpression, change, **request)

    def delete_item(self, *, TableName: str, Key: Item, ConditionExpression: str, **request: Any) -> None:
        _check_table(TableName)
        self._write(_key(Key), ConditionExpression, lambda _old, _: None, **request)

    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Mapping[str, Attribute],
        ConsistentRead: bool,
        ExclusiveStartKey: Item | None = None,
    ) -> dict[str, Any]:
        """In pages of PAGE_ITEMS. As on AWS, a full page may be the last."""
        _check_table(TableName)
        assert ConsistentRead, "nothing here may read what is no longer true"
        substitutions = Substitutions(None, ExpressionAttributeValues)
        is_wanted = Expression(KeyConditionExpression, substitutions).condition()
        substitutions.check_used()
        start = _key(ExclusiveStartKey) if ExclusiveStartKey else ("", "")
        with self._lock:
            items = (item for key, item in sorted(self.items.items()) if key > start and is_wanted(item))
            page = copy.deepcopy(list(itertools.islice(items, PAGE_ITEMS)))
        answer: dict[str, Any] = {"Items": page, "Count": len(page)}
        if len(page) == PAGE_ITEMS:
            answer["LastEvaluatedKey"] = {name: page[-1][name] for name in ("pk", "sk")}
        return answer

    def _write(
        self,
        key: Key,
        condition: str,
        change: Callable[[Item | None, Substitutions], Item | None],
        *,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Attribute] | None = None,
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> None:
        substitutions = Substitutions(ExpressionAttributeNames, ExpressionAttributeValues)
        is_allowed = Expression(condition, substitutions).condition()
        with self._lock:
            old = self.items.get(key)
            new = change(old, substitutions)
            substitutions.check_used()
            if not is_allowed(old or {}):
                shown = old and ReturnValuesOnConditionCheckFailure == "ALL_OLD"
                members = {"Item": copy.deepcopy(old)} if shown else {}
                raise AwsError("ConditionalCheckFailedException", "The conditional request failed", **members)
            if new is None:
                self.items.pop(key, None)
            else:
                self.items[key] = new


def _check_table(table: str) -> None:
    if table != TABLE:
        raise AwsError("ResourceNotFoundException", "Requested resource not found")


def _key(attributes: Item) -> Key:
    values = [attributes.get(name, {}).get("S") for name in ("pk", "sk")]
    if len(attributes) != len(values) or not all(values):
        raise invalid("The provided key element does not match the schema")
    return str(values[0]), str(values[1])
