"""Conditional writes to the table, and what they return where the condition does not hold."""

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from core import table
from core.settings import settings
from core.table import (
    KEEP_SECONDS,
    add,
    change_if,
    delete_if,
    get_item,
    get_items,
    put_if,
    put_items,
    query_items,
    update_if,
)
from tests.unit.fake_aws import FakeAws
from tests.unit.fake_aws.dynamodb import PAGE_ITEMS, REUSE_TABLE

KEY = {"pk": "run#r", "sk": "step#a"}
IS_NEW = "attribute_not_exists(pk)"

pytestmark = pytest.mark.usefixtures("aws")


def test_an_item_is_returned_as_it_was_put() -> None:
    values = {"text": "日本", "empty": "", "number": 12, "large": 10**20, "flag": True, "none": None}

    assert put_if(IS_NEW, {**KEY, **values, "expires_at": 7}) is None

    item = get_item(KEY)
    assert item == {**KEY, **values, "expires_at": 7}
    assert {name: type(item[name]) for name in values} == {name: type(values[name]) for name in values}


def test_an_item_that_does_not_exist_is_none() -> None:
    assert get_item(KEY) is None


def test_an_item_is_kept_longer_than_step_functions_keeps_names() -> None:
    before = int(time.time())

    put_if(IS_NEW, KEY)

    item = get_item(KEY)
    assert item
    assert 90 * 24 * 3600 < KEEP_SECONDS <= item["expires_at"] - before <= KEEP_SECONDS + 60


def test_where_the_condition_does_not_hold_the_item_is_unchanged_and_returned() -> None:
    put_if(IS_NEW, {**KEY, "owner": "a", "count": 1, "expires_at": 7})

    item = put_if(IS_NEW, {**KEY, "owner": "b"})

    assert item == get_item(KEY) == {**KEY, "owner": "a", "count": 1, "expires_at": 7}
    assert type(item["count"]) is int


def test_where_there_is_no_item_to_return_it_is_empty() -> None:
    assert put_if("#owner = :owner", KEY, {":owner": "a"}) == {}
    assert update_if("#owner = :owner", KEY, "SET x = :x", {":owner": "a", ":x": 1}) == {}
    assert delete_if("#owner = :owner", KEY, {":owner": "a"}) == {}
    assert get_item(KEY) is None


def test_an_update_sets_and_adds() -> None:
    put_if(IS_NEW, {**KEY, "owner": "a", "state": "held", "expires_at": 7})

    for until in (10, 20):
        assert update_if(
            "#owner = :owner AND #state = :held",
            KEY,
            "SET lease_until = :until, #result = :result ADD renewals :one",
            {":owner": "a", ":held": "held", ":until": until, ":result": "r", ":one": 1},
        ) is None  # fmt: skip

    expected = {"owner": "a", "state": "held", "lease_until": 20, "result": "r", "renewals": 2}
    assert get_item(KEY) == {**KEY, **expected, "expires_at": 7}


def test_an_update_or_a_delete_that_is_not_allowed_changes_nothing() -> None:
    put_if(IS_NEW, {**KEY, "owner": "a", "expires_at": 7})
    there = get_item(KEY)

    assert update_if("#owner = :owner", KEY, "SET x = :x", {":owner": "b", ":x": 1}) == there
    assert delete_if("#owner = :owner", KEY, {":owner": "b"}) == there
    assert get_item(KEY) == there


def test_a_deleted_item_does_not_exist() -> None:
    put_if(IS_NEW, {**KEY, "owner": "a"})

    assert delete_if("#owner = :owner", KEY, {":owner": "a"}) is None
    assert get_item(KEY) is None


ITEM = {"a": "1", "n": 9, "owner": "me"}


@pytest.mark.parametrize(
    ("condition", "values", "holds"),
    [
        ("a = :a", {":a": "1"}, True),
        ("a = :a", {":a": 1}, False),
        ("b = :a", {":a": "1"}, False),
        ("n < :n", {":n": 10}, True),
        ("n < :n", {":n": 9}, False),
        ("n < :n", {":n": "a"}, False),
        ("b < :n", {":n": 10}, False),
        ("attribute_not_exists(b)", None, True),
        ("attribute_not_exists(#owner)", None, False),
        ("a = :x OR a = :a AND n = :n", {":x": "1", ":a": "1", ":n": 0}, True),
        ("(a = :x OR a = :a) AND n = :n", {":x": "1", ":a": "1", ":n": 0}, False),
        ("a = :x AND n = :n OR #owner = :me", {":x": "0", ":n": 9, ":me": "me"}, True),
        (f"{IS_NEW} OR (#owner = :me AND (n < :n OR a = :a))", {":me": "me", ":n": 0, ":a": "1"}, True),
        (f"{IS_NEW} OR (#owner = :me AND (n < :n OR a = :a))", {":me": "me", ":n": 0, ":a": "0"}, False),
    ],
)
def test_a_condition_is_evaluated(condition: str, values: dict[str, Any] | None, holds: bool) -> None:
    put_if(IS_NEW, {**KEY, **ITEM})

    assert (put_if(condition, {**KEY, "a": "new"}, values) is None) is holds


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ("owner = :a", {":a": "1"}),  # a reserved word
        ("a = :b", {":a": "1"}),
        ("a = :a", {":a": "1", ":unused": "1"}),
        ("a == :a", {":a": "1"}),
        ("(a = :a", {":a": "1"}),
        ("a = :a AND", {":a": "1"}),
        ("a = :a ; a = :a", {":a": "1"}),
    ],
)
def test_an_invalid_condition_is_an_error(condition: str, values: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        put_if(condition, KEY, values)


@pytest.mark.parametrize("count", [0, 1, PAGE_ITEMS, PAGE_ITEMS + 1, 3 * PAGE_ITEMS - 1])
def test_all_items_of_a_partition_are_returned_in_order(aws: FakeAws, count: int) -> None:
    for number in reversed(range(count)):
        put_if(IS_NEW, {"pk": "task#r#0", "sk": f"{number:06}", "number": number})
    for other in ("task#r#1", "task#r", "task#"):
        put_if(IS_NEW, {"pk": other, "sk": "000000"})
    aws.faults.calls.clear()

    assert [item["number"] for item in query_items("task#r#0")] == list(range(count))
    assert len(aws.faults.calls) == count // PAGE_ITEMS + 1


def test_a_retried_write_returns_the_item_of_its_first_attempt(aws: FakeAws) -> None:
    aws.faults.lose_answer("put_item")

    assert put_if(IS_NEW, {**KEY, "owner": "a", "expires_at": 7}) == {**KEY, "owner": "a", "expires_at": 7}


# --- several items at once ---

ITEMS = [{"pk": f"p{n % 3}", "sk": f"{n}", "text": "é" * n, "n": n} for n in range(20)]
KEYS = [{"pk": str(item["pk"]), "sk": str(item["sk"])} for item in ITEMS]
BATCHES = ["batch_get_item", "batch_write_item"]


def by_key(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda item: int(item["sk"]))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left undone is asked for again without a pause."""
    monkeypatch.setattr(table, "_BATCH_PAUSE_SECONDS", 0.0)


def test_items_are_put_and_read_in_batches(aws: FakeAws) -> None:
    assert put_items(REUSE_TABLE, ITEMS) == 0
    assert by_key(get_items(REUSE_TABLE, [*KEYS, {"pk": "p0", "sk": "none"}])) == ITEMS
    assert aws.faults.operations() == ["batch_write_item", "batch_get_item"]
    assert not aws.dynamodb.items


@pytest.mark.usefixtures("at_once")
def test_what_is_left_unprocessed_is_asked_for_again_and_nothing_else(aws: FakeAws) -> None:
    for operation in BATCHES:
        for left in (15, 5, 1):
            aws.faults.leave_unprocessed(operation, left)

    assert put_items(REUSE_TABLE, ITEMS) == 0
    assert by_key(get_items(REUSE_TABLE, KEYS)) == ITEMS

    sizes: dict[str, list[int]] = {name: [] for name in BATCHES}
    for call in aws.faults.calls:
        requests = call.parameters["RequestItems"][REUSE_TABLE]
        is_read = call.operation == "batch_get_item"
        sizes[call.operation].append(len(requests["Keys"] if is_read else requests))
    assert sizes == {operation: [20, 15, 5, 1] for operation in BATCHES}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "error",
    ["ProvisionedThroughputExceededException", EndpointConnectionError(endpoint_url="https://x")],
    ids=str,
)
def test_where_the_rest_is_refused_as_a_whole_it_is_left_out(aws: FakeAws, error: str | Exception) -> None:
    for operation in BATCHES:
        aws.faults.leave_unprocessed(operation, 2)
        aws.faults.fail(operation, error)

    assert put_items(REUSE_TABLE, ITEMS) == 2
    assert len(get_items(REUSE_TABLE, KEYS)) == 18


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("code", "earlier"), [("ThrottlingException", False), ("AccessDeniedException", True)]
)
def test_an_error_of_a_batch_is_raised(aws: FakeAws, code: str, earlier: bool) -> None:
    for operation in BATCHES:
        if earlier:
            aws.faults.leave_unprocessed(operation, 2)
        aws.faults.fail(operation, code)

    with pytest.raises(ClientError, match=code):
        put_items(REUSE_TABLE, ITEMS)
    with pytest.raises(ClientError, match=code):
        get_items(REUSE_TABLE, KEYS)


def test_numbers_are_added_to_an_item_that_need_not_be_there(aws: FakeAws) -> None:
    for hits in (1, 2):
        add(REUSE_TABLE, KEY, {"hits": hits, "bytes": 10}, 7 * hits, version=f"v{hits}")

    expected = {**KEY, "hits": 3, "bytes": 20, "version": "v2", "expires_at": 14}
    assert get_items(REUSE_TABLE, [KEY]) == [expected]


def test_a_change_returns_the_item_as_it_is_then() -> None:
    assert change_if("attribute_exists(pk)", KEY, "SET n = :n", {":n": 1}) == (False, {})
    put_if(IS_NEW, {**KEY, "n": 1, "expires_at": 7})

    assert change_if("n = :one", KEY, "SET n = n + :one", {":one": 1}) == (
        True,
        {**KEY, "n": 2, "expires_at": 7},
    )
    assert change_if("n = :one", KEY, "SET n = n + :one", {":one": 1}) == (
        False,
        {**KEY, "n": 2, "expires_at": 7},
    )


# --- errors ---

WRITES = {
    "put_item": lambda: put_if(IS_NEW, KEY),
    "update_item": lambda: update_if(IS_NEW, KEY, "SET a = :a", {":a": 1}),
    "delete_item": lambda: delete_if("a = :a", KEY, {":a": 1}),
}


@pytest.mark.parametrize(
    ("operation", "code"),
    [(name, code) for name in WRITES for code in ("ThrottlingException", "AccessDeniedException")],
)
def test_other_errors_are_raised(aws: FakeAws, operation: str, code: str) -> None:
    aws.faults.fail(operation, code)

    with pytest.raises(ClientError, match=code):
        WRITES[operation]()


def test_a_table_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABLE", "other")
    settings.cache_clear()

    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        table.get_item(KEY)
