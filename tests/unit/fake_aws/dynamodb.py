"""Amazon DynamoDB in memory: two tables with the keys `pk` and `sk`, and their expressions evaluated."""

import copy
import itertools
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from tests.unit.fake_aws.expressions import (
    KEYS,
    Attribute,
    Condition,
    Expression,
    Item,
    Substitutions,
    invalid,
)
from tests.unit.fake_aws.faults import AwsError

TABLE = "table"
REUSE_TABLE = "reuse"
PAGE_ITEMS = 50
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
MAX_BATCH_KEYS = 100
MAX_BATCH_BYTES = 16 << 20
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
MAX_BATCH_REQUESTS = 25
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html
MAX_ITEM_BYTES = 400 << 10
MAX_KEY_BYTES = {"pk": 2048, "sk": 1024}

Key = tuple[str, str]
# What a write makes of the item that is there.
Change = Callable[[Item | None], Item | None]


class FakeDynamoDB:
    """`items`, and `reuse_items` of the second table: by `pk` and `sk`, their attributes with their types."""

    def __init__(self) -> None:
        self.items: dict[Key, Item] = {}
        self.reuse_items: dict[Key, Item] = {}
        self._tables = {TABLE: self.items, REUSE_TABLE: self.reuse_items}
        self._lock = threading.Lock()

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool) -> dict[str, Any]:
        items = self._items(TableName)
        assert ConsistentRead, "nothing here may read what is no longer true"
        with self._lock:
            item = items.get(_key(Key))
            return {"Item": copy.deepcopy(item)} if item else {}

    def put_item(
        self, *, TableName: str, Item: Item, ConditionExpression: str = "", **request: Any
    ) -> dict[str, Any]:
        key = _key_of(Item)
        return self._write(TableName, key, ConditionExpression, lambda _: lambda _old: Item, **request)

    def update_item(
        self,
        *,
        TableName: str,
        Key: Item,
        UpdateExpression: str,
        ConditionExpression: str = "",
        **request: Any,
    ) -> dict[str, Any]:
        def change(substitutions: Substitutions) -> Change:
            update = Expression(UpdateExpression, substitutions).update()
            return lambda old: update(old or dict(Key))

        return self._write(TableName, _key(Key), ConditionExpression, change, **request)

    def delete_item(
        self, *, TableName: str, Key: Item, ConditionExpression: str = "", **request: Any
    ) -> dict[str, Any]:
        key = _key(Key)
        return self._write(TableName, key, ConditionExpression, lambda _: lambda _old: None, **request)

    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Mapping[str, Attribute],
        ConsistentRead: bool,
        ProjectionExpression: str = "",
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExclusiveStartKey: Item | None = None,
    ) -> dict[str, Any]:
        """In pages of PAGE_ITEMS. As on AWS, a full page may be the last."""
        assert ConsistentRead, "nothing here may read what is no longer true"
        substitutions = Substitutions(ExpressionAttributeNames, ExpressionAttributeValues)
        is_wanted = Expression(KeyConditionExpression, substitutions).condition()
        return self._page(TableName, is_wanted, ProjectionExpression, substitutions, ExclusiveStartKey)

    def scan(
        self,
        *,
        TableName: str,
        Segment: int,
        TotalSegments: int,
        ConsistentRead: bool,
        ProjectionExpression: str = "",
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExclusiveStartKey: Item | None = None,
    ) -> dict[str, Any]:
        """As `query`, of one of TotalSegments parts; a partition is in one of them."""
        assert ConsistentRead, "nothing here may read what is no longer true"
        substitutions = Substitutions(ExpressionAttributeNames, None)

        def is_wanted(item: Item) -> bool:
            return zlib.crc32(item["pk"]["S"].encode()) % TotalSegments == Segment

        return self._page(TableName, is_wanted, ProjectionExpression, substitutions, ExclusiveStartKey)

    def _page(
        self,
        table: str,
        is_wanted: Condition,
        projection: str,
        substitutions: Substitutions,
        start: Item | None,
    ) -> dict[str, Any]:
        names = [substitutions.find(name.strip()) for name in projection.split(",")] if projection else None
        substitutions.check_used()
        after = _key(start) if start else ("", "")
        with self._lock:
            items = (
                item for key, item in sorted(self._items(table).items()) if key > after and is_wanted(item)
            )
            page = copy.deepcopy(list(itertools.islice(items, PAGE_ITEMS)))
        shown = page
        if names is not None:
            shown = [{name: item[name] for name in names if name in item} for item in page]
        answer: dict[str, Any] = {"Items": shown, "Count": len(page)}
        if len(page) == PAGE_ITEMS:
            answer["LastEvaluatedKey"] = {name: page[-1][name] for name in KEYS}
        return answer

    def batch_get_item(
        self, *, RequestItems: Mapping[str, Mapping[str, Any]], unprocessed: int = 0
    ) -> dict[str, Any]:
        """Items in no useful order, as on AWS. `unprocessed`: so many keys are not looked up."""
        for request in RequestItems.values():
            assert set(request) == {"Keys", "ConsistentRead"}, "the fake knows no others"
            assert request["ConsistentRead"], "nothing here may read what is no longer true"
        keys = [(table, key) for table, request in RequestItems.items() for key in request["Keys"]]
        _check_batch([(table, _key(key)) for table, key in keys], MAX_BATCH_KEYS)
        found: dict[str, list[Item]] = {table: [] for table in RequestItems}
        size, processed = 0, 0
        with self._lock:
            for table, key in keys[: _processed(len(keys), unprocessed)]:
                item = self._items(table).get(_key(key))
                size += _size(item or {})
                if size > MAX_BATCH_BYTES:
                    break
                processed += 1
                if item:
                    found[table].insert(0, copy.deepcopy(item))
        left: dict[str, Any] = {}
        for table, key in keys[processed:]:
            left.setdefault(table, {"Keys": [], "ConsistentRead": True})["Keys"].append(key)
        return {"Responses": found, "UnprocessedKeys": left}

    def batch_write_item(
        self, *, RequestItems: Mapping[str, list[dict[str, Any]]], unprocessed: int = 0
    ) -> dict[str, Any]:
        """Puts and deletes. `unprocessed`: so many requests are not carried out."""
        requests = [(table, request) for table, each in RequestItems.items() for request in each]
        writes = [(table, *_put_or_delete(request)) for table, request in requests]
        _check_batch([(table, key) for table, key, _ in writes], MAX_BATCH_REQUESTS)
        for _, _, item in writes:
            _check_size(item or {})
        processed = _processed(len(writes), unprocessed)
        tables = {table: self._items(table) for table in RequestItems}
        with self._lock:
            for table, key, item in writes[:processed]:
                _store(tables[table], key, copy.deepcopy(item))
        left: dict[str, Any] = {}
        for table, request in requests[processed:]:
            left.setdefault(table, []).append(request)
        return {"UnprocessedItems": left}

    def _items(self, table: str) -> dict[Key, Item]:
        if table not in self._tables:
            raise AwsError("ResourceNotFoundException", "Requested resource not found")
        return self._tables[table]

    def _write(
        self,
        table: str,
        key: Key,
        condition: str,
        change: Callable[[Substitutions], Change],
        *,
        ExpressionAttributeNames: Mapping[str, str] | None = None,
        ExpressionAttributeValues: Mapping[str, Attribute] | None = None,
        ReturnValues: Literal["NONE", "ALL_NEW"] = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> dict[str, Any]:
        substitutions = Substitutions(ExpressionAttributeNames, ExpressionAttributeValues)
        is_allowed = Expression(condition, substitutions).condition() if condition else bool
        changed = change(substitutions)
        substitutions.check_used()
        items = self._items(table)
        with self._lock:
            old = items.get(key)
            if condition and not is_allowed(old or {}):
                shown = old and ReturnValuesOnConditionCheckFailure == "ALL_OLD"
                members = {"Item": copy.deepcopy(old)} if shown else {}
                raise AwsError("ConditionalCheckFailedException", "The conditional request failed", **members)
            new = changed(old)
            _check_size(new or {})
            _store(items, key, copy.deepcopy(new))
            return {"Attributes": copy.deepcopy(new)} if ReturnValues == "ALL_NEW" else {}


def _store(items: dict[Key, Item], key: Key, item: Item | None) -> None:
    if item is None:
        items.pop(key, None)
    else:
        items[key] = item


def _key(attributes: Item) -> Key:
    values = [attributes.get(name, {}).get("S") for name in KEYS]
    if len(attributes) != len(values) or not all(values):
        raise invalid("The provided key element does not match the schema")
    for name, value in zip(KEYS, values, strict=True):
        if len(str(value).encode()) > MAX_KEY_BYTES[name]:
            raise invalid(f"Size of {name} has exceeded the limit of {MAX_KEY_BYTES[name]} bytes")
    return str(values[0]), str(values[1])


def _key_of(item: Item) -> Key:
    return _key({name: item[name] for name in KEYS if name in item})


def _put_or_delete(request: dict[str, Any]) -> tuple[Key, Item | None]:
    if set(request) == {"PutRequest"}:
        return _key_of(request["PutRequest"]["Item"]), request["PutRequest"]["Item"]
    if set(request) == {"DeleteRequest"}:
        return _key(request["DeleteRequest"]["Key"]), None
    raise invalid("Supplied AttributeValue has more than one datatypes set, or none")


def _check_batch(keys: list[tuple[str, Key]], at_most: int) -> None:
    if len(keys) > at_most:
        raise invalid(f"Too many items requested: {len(keys)} of at most {at_most}")
    if len(set(keys)) < len(keys):
        raise invalid("Provided list of item keys contains duplicates")


def _processed(count: int, unprocessed: int) -> int:
    """How many of a batch are processed. Where none can be, DynamoDB refuses the batch."""
    if unprocessed >= count:
        raise AwsError("ThrottlingException", "Throughput exceeds the current capacity of your table")
    return count - unprocessed


def _check_size(item: Item) -> None:
    if _size(item) > MAX_ITEM_BYTES:
        raise invalid("Item size has exceeded the maximum allowed size")


def _size(item: Item) -> int:
    """An item's size: its names and values.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(attribute: Attribute) -> int:
    ((kind, value),) = attribute.items()
    if kind == "M":
        return 3 + _size(value) + len(value)
    if kind == "L":
        return 3 + sum(map(_value_size, value)) + len(value)
    return {"N": len(str(value)) // 2 + 1, "BOOL": 1, "NULL": 1}.get(kind) or len(str(value).encode())
