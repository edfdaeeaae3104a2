"""Chunks become the result: in order, once, and only when all are stored."""

import gzip
import json
from typing import Any

import pytest

from batch import collect
from batch.store import FunctionBatch, store_chunk
from core.errors import ResultError, TransientError
from tests.unit.fake_aws import CONTEXT, FakeAws


def batch(chunks: int) -> FunctionBatch:
    return FunctionBatch(
        batch_id="b",
        query_id="q",
        digest="d" * 64,
        row_count=chunks,
        chunk_rows=1,
        chunks=chunks,
        function="f",
        rows=None,
    )


def run(chunks: int, *, not_started: list[int] | None = None) -> collect.Done:
    event: collect.Event = {"execution": "e", "batch": batch(chunks).to_input()}
    if not_started is not None:
        event["not_started"] = not_started
    return collect.handler(event, CONTEXT)


def data(aws: FakeAws) -> Any:
    return json.loads(gzip.decompress(aws.s3.objects["batches/e/result.json.gz"].body))["data"]


def test_chunks_are_joined_in_their_order(aws: FakeAws) -> None:
    for chunk in reversed(range(30)):
        store_chunk("e", batch(30), chunk, f"[{chunk},{chunk}.10]")
    assert run(30) == {"chunks": 30, "rows": 30}
    assert data(aws) == [[n, float(f"{n}.10")] for n in range(30)]
    assert aws.s3.objects["batches/e/result.json.gz"].metadata["digest"] == "d" * 64


def test_a_missing_chunk_is_named_and_nothing_is_answered(aws: FakeAws) -> None:
    store_chunk("e", batch(2), 0, "[0,0]")
    with pytest.raises(ResultError, match="chunk 1 of e is gone"):
        run(2)
    assert "batches/e/result.json.gz" not in aws.s3.objects


@pytest.mark.parametrize("not_started", [[], [2], [1, 2], [0, 1, 2, 3]])
def test_a_row_whose_run_was_not_started_says_so_and_the_others_keep_their_values(
    aws: FakeAws, not_started: list[int]
) -> None:
    for chunk in set(range(4)) - set(not_started):
        store_chunk("e", batch(4), chunk, f"[{chunk},true]")
    assert run(4, not_started=not_started) == {"chunks": 4, "rows": 4}
    values = dict(data(aws))
    assert list(values) == [0, 1, 2, 3]
    assert {row for row, value in values.items() if value is not True} == set(not_started)
    assert all(values[row]["error"] == "RunNotStarted" for row in not_started)
    assert all("MAX_BATCH_ROWS" in values[row]["cause"] for row in not_started)


def test_a_row_that_is_missing_without_a_reason_is_still_an_error(aws: FakeAws) -> None:
    store_chunk("e", batch(3), 0, "[0,0]")
    with pytest.raises(ResultError, match="chunk 1 of e is gone"):
        run(3, not_started=[2])


@pytest.mark.parametrize(("operation", "code"), [("get_object", "SlowDown"), ("put_object", "InternalError")])
def test_a_throttle_is_a_transient_error(aws: FakeAws, operation: str, code: str) -> None:
    store_chunk("e", batch(1), 0, "[0,0]")
    aws.faults.fail(operation, code)
    with pytest.raises(TransientError):
        run(1)
    assert run(1) == {"chunks": 1, "rows": 1}


def test_a_second_collect_changes_nothing(aws: FakeAws) -> None:
    store_chunk("e", batch(1), 0, "[0,0]")
    run(1)
    aws.s3.put("batches/e/chunk-00000.json.gz", gzip.compress(b"[0,1]"))
    run(1)
    assert data(aws) == [[0, 0]]
