"""What is stored of a batch: written once, read back, and never confused with another batch."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

from batch import store
from batch.store import FunctionBatch
from batch.wire import Rows
from core.errors import TransientError
from core.exact_json import dump_json
from tests.unit.fake_aws import FakeAws

ROWS: list[list[Any]] = [["é", Decimal("1.10")], [None, 12345678901234567890123456789012345678]]


def batch(rows: str | None = None, **changes: Any) -> FunctionBatch:
    fields: dict[str, Any] = {
        "batch_id": "b",
        "query_id": "q",
        "digest": "d" * 64,
        "row_count": 10,
        "chunk_rows": 4,
        "chunks": 3,
        "function": "f",
        "rows": rows,
    }
    return FunctionBatch(**fields | changes)


def test_a_batch_is_unchanged_by_the_execution_s_input() -> None:
    for one in (batch(), batch(dump_json(ROWS))):
        assert FunctionBatch.from_input(json.loads(json.dumps(one.to_input()))) == one


def test_an_input_with_more_in_it_is_read() -> None:
    assert FunctionBatch.from_input(batch().to_input() | {"later": 1}) == batch()


@pytest.mark.parametrize(("rows", "chunk_rows"), [(10, 4), (8, 4), (1, 4), (4, 4), (5, 1)])
def test_chunks_cover_the_rows_once(rows: int, chunk_rows: int) -> None:
    one = batch(row_count=rows, chunk_rows=chunk_rows)
    ranges = [one.chunk_range(chunk) for chunk in range(-(-rows // chunk_rows))]
    assert [number for numbers in ranges for number in numbers] == list(range(rows))


def test_rows_come_back_with_all_digits(aws: FakeAws) -> None:
    text = dump_json(ROWS)
    store.store_rows("e", Rows(ROWS, text, "d" * 64))
    for one in (batch(), batch(text)):
        loaded = store.load_rows("e", one)
        assert dump_json(loaded) == text


def test_other_rows_of_the_same_batch_do_not_overwrite(aws: FakeAws) -> None:
    store.store_rows("e", Rows([[1]], "[[1]]", "1" * 64))
    store.store_rows("e", Rows([[2]], "[[2]]", "2" * 64))
    assert store.load_rows("e", batch(digest="1" * 64)) == [[1]]
    assert store.load_rows("e", batch(digest="2" * 64)) == [[2]]


def test_what_does_not_exist_is_none(aws: FakeAws) -> None:
    assert store.load_chunk("e", 0) is None
    assert store.load_result("e") is None
    assert not store.has_chunk("e", 0)
    assert not store.has_result("e")


def test_the_first_writer_wins(aws: FakeAws) -> None:
    store.store_chunk("e", batch(), 0, "[0,1]")
    store.store_chunk("e", batch(), 0, "[0,2]")
    assert store.load_chunk("e", 0) == "[0,1]"
    assert store.has_chunk("e", 0)
    store.store_result("e", batch(), ["[0,1]"])
    first = store.load_result("e")
    store.store_result("e", batch(), ["[0,2]"])
    assert store.load_result("e") == first
    assert first
    assert first.digest == "d" * 64
    assert store.has_result("e")


def test_two_writers_at_the_same_time_are_retried(aws: FakeAws) -> None:
    aws.faults.fail("put_object", "ConditionalRequestConflict")
    with pytest.raises(TransientError, match="another writer is putting batches/e/result"):
        store.store_result("e", batch(), ["[0,1]"])


@pytest.mark.parametrize("operation", ["get_object", "head_object", "put_object"])
def test_other_errors_of_s3_are_not_taken_for_an_absence(aws: FakeAws, operation: str) -> None:
    aws.faults.fail(operation, "AccessDenied")
    calls: dict[str, Callable[[], object]] = {
        "get_object": lambda: store.load_result("e"),
        "head_object": lambda: store.has_result("e"),
        "put_object": lambda: store.store_result("e", batch(), []),
    }
    with pytest.raises(ClientError, match="AccessDenied"):
        calls[operation]()
