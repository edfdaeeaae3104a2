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


def run(chunks: int) -> collect.Done:
    return collect.handler({"execution": "e", "batch": batch(chunks).to_input()}, CONTEXT)


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
