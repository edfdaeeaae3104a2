"""A chunk through its function: stored once, retried by the machine, and not repeated when finished."""

import gzip
import importlib
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from batch import process
from batch.store import FunctionBatch, store_rows
from batch.wire import Rows
from core.calls.rates import REMEDY
from core.errors import (
    FunctionError,
    RateLimited,
    RateLimitExceeded,
    ResultError,
    TaskError,
    TransientError,
)
from core.exact_json import dump_json
from core.patience import ATTEMPTS
from tests.unit.conftest import Deploy
from tests.unit.fake_aws import CONTEXT, FakeAws, FakeContext

COUNT = """
    @remote_function(chunk_rows=2)
    def count(n: int) -> int:
        return n + 100
"""
ROWS = [[n] for n in range(5)]


def batch(function: str = "count", rows: list[list[Any]] = ROWS, chunk_rows: int = 2) -> FunctionBatch:
    text = dump_json(rows)
    return FunctionBatch(
        batch_id="b",
        query_id="q",
        digest="d" * 64,
        row_count=len(rows),
        chunk_rows=chunk_rows,
        chunks=-(-len(rows) // chunk_rows),
        function=function,
        rows=text,
    )


def run(of: FunctionBatch, chunk: int = 0, *, again: bool = False) -> process.Done:
    event = process.Event(
        execution="e", batch=json.loads(json.dumps(of.to_input())), chunk=chunk, again=again
    )
    return process.handler(event, CONTEXT)


def stored(aws: FakeAws, name: str) -> str:
    return gzip.decompress(aws.s3.objects[f"batches/e/{name}.json.gz"].body).decode()


def test_a_chunk_is_its_rows_with_their_numbers(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    assert run(batch(), 1) == {"chunk": 1, "rows": 2}
    assert run(batch(), 2) == {"chunk": 2, "rows": 1}
    assert stored(aws, "chunk-00001") == "[2,102],[3,103]"
    assert stored(aws, "chunk-00002") == "[4,104]"


def test_a_batch_of_one_chunk_is_its_result(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    assert run(batch(chunk_rows=5)) == {"chunk": 0, "rows": 5}
    assert json.loads(stored(aws, "result"))["data"] == [[n, n + 100] for n in range(5)]
    assert aws.s3.objects["batches/e/result.json.gz"].metadata == {"digest": "d" * 64}


def test_rows_in_s3_are_read_from_there(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    store_rows("e", Rows(ROWS, dump_json(ROWS), "d" * 64))
    document = batch().to_input() | {"rows": None}
    assert process.handler({"execution": "e", "batch": document, "chunk": 0, "again": False}, CONTEXT)
    assert stored(aws, "chunk-00000") == "[0,100],[1,101]"


@pytest.mark.parametrize(("chunk_rows", "name"), [(2, "chunk-00000"), (5, "result")])
def test_what_is_finished_is_not_repeated(aws: FakeAws, deploy: Deploy, chunk_rows: int, name: str) -> None:
    deploy(count=COUNT)
    done = run(batch(chunk_rows=chunk_rows))
    before = stored(aws, name)
    deploy(count=COUNT.replace("return n + 100", "raise SystemExit"))
    assert run(batch(chunk_rows=chunk_rows), again=True) == done
    assert stored(aws, name) == before


def test_a_first_attempt_does_not_check_whether_it_is_done(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    run(batch())
    assert aws.faults.operations() == ["put_object"]


@pytest.mark.parametrize(("chunk_rows", "name"), [(2, "chunk-00000"), (5, "result")])
def test_of_two_workers_the_first_one_s_rows_are_kept(
    aws: FakeAws, deploy: Deploy, chunk_rows: int, name: str
) -> None:
    deploy(count=COUNT)
    run(batch(chunk_rows=chunk_rows))
    before = stored(aws, name)
    deploy(count=COUNT.replace("n + 100", "n + 200"))
    run(batch(chunk_rows=chunk_rows))
    assert stored(aws, name) == before


@pytest.mark.parametrize(
    "code", ["SlowDown", "InternalError", "ServiceUnavailable", "ConditionalRequestConflict"]
)
@pytest.mark.parametrize("chunk_rows", [2, 5])
def test_storing_what_was_computed_is_repeated(
    aws: FakeAws, deploy: Deploy, code: str, chunk_rows: int
) -> None:
    deploy(count=COUNT)
    aws.faults.fail("put_object", code, times=ATTEMPTS - 1)
    assert run(batch(chunk_rows=chunk_rows)) == {"chunk": 0, "rows": chunk_rows}
    assert aws.faults.operations() == ["put_object"] * ATTEMPTS


@pytest.mark.parametrize(
    "code", ["SlowDown", "InternalError", "ServiceUnavailable", "ConditionalRequestConflict"]
)
def test_a_throttle_that_lasts_is_a_transient_error(aws: FakeAws, deploy: Deploy, code: str) -> None:
    deploy(count=COUNT)
    aws.faults.fail("put_object", code, times=ATTEMPTS)
    with pytest.raises(TransientError):
        run(batch())
    assert run(batch(), again=True) == {"chunk": 0, "rows": 2}


def test_a_throttled_check_for_a_finished_chunk_is_retried(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    aws.faults.fail("head_object", "SlowDown")
    with pytest.raises(TransientError):
        run(batch(), again=True)


def test_storage_that_denies_is_not_retried(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    aws.faults.fail("put_object", "AccessDenied")
    with pytest.raises(ClientError, match="AccessDenied"):
        run(batch())


def test_a_function_that_raises_stores_nothing(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT.replace("return n + 100", "raise KeyError(n)"))
    with pytest.raises(FunctionError, match="count, row 2: KeyError: 2"):
        run(batch(), 1)
    assert not aws.s3.objects


def test_a_function_that_has_been_removed_meanwhile_is_named(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    with pytest.raises(FunctionError, match="'removed' is not deployed any more"):
        run(batch("removed"))


def test_a_function_that_cannot_be_imported_is_named(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count="import a_module_that_does_not_exist\n" + COUNT.replace("\n    ", "\n"))
    with pytest.raises(FunctionError, match="count: ModuleNotFoundError: No module named 'a_module"):
        run(batch())


def test_deleted_rows_are_named(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    with pytest.raises(ResultError, match="the rows of e are gone"):
        process.handler(
            {"execution": "e", "batch": batch().to_input() | {"rows": None}, "chunk": 0, "again": False},
            CONTEXT,
        )


def test_rows_that_are_not_those_of_the_batch_are_refused(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT)
    document = batch().to_input() | {"row_count": 6}
    with pytest.raises(ResultError, match="the batch has 6 rows, and 5 were stored"):
        process.handler({"execution": "e", "batch": document, "chunk": 0, "again": False}, CONTEXT)


# --- calls that wait for a limit ---

LIMITED = """
    CALLS = []

    @remote_function(rate_limit="2/second")
    def limited(n: int) -> int:
        CALLS.append(n)
        return n + 100
"""


def attempt(rows: int, *, again: bool, seconds_left: float = 20, until: float | None = None) -> process.Done:
    """One attempt at the only chunk of a batch. `until`: when the batch's time ends, in epoch seconds."""
    document = batch("limited", [[n] for n in range(rows)], chunk_rows=rows).to_input()
    event = process.Event(execution="e", batch=document, chunk=0, again=again)
    if until is not None:
        event["until"] = int(until * 1000)
    return process.handler(event, FakeContext(seconds_left))


def test_an_attempt_without_time_for_the_limit_is_repeated_and_goes_on_where_it_was(
    aws: FakeAws, deploy: Deploy
) -> None:
    deploy(limited=LIMITED)
    calls = importlib.import_module("functions.limited").CALLS
    until = aws.clock.now + 590
    for again in (False, True, True):
        before = len(calls)
        with pytest.raises(RateLimited, match="limited allows 2 calls a second"):
            attempt(100, again=again, until=until)
        assert len(calls) > before + 20

    assert attempt(100, again=True, until=until, seconds_left=280) == {"chunk": 0, "rows": 100}
    assert sorted(calls) == list(range(100))
    assert json.loads(stored(aws, "result"))["data"] == [[n, n + 100] for n in range(100)]


@pytest.mark.parametrize(("seconds", "is_last"), [(60, False), (40, True), (10, True)])
def test_where_the_batch_has_no_time_for_another_attempt_the_error_is_final(
    aws: FakeAws, deploy: Deploy, seconds: float, is_last: bool
) -> None:
    deploy(limited=LIMITED)

    with pytest.raises(TaskError) as raised:
        attempt(1000, again=False, until=aws.clock.now + seconds)

    assert type(raised.value) is (RateLimitExceeded if is_last else RateLimited)
    assert str(raised.value).startswith("limited allows 2 calls a second, for all queries together")
    assert str(raised.value).endswith(REMEDY)


def test_an_attempt_ends_with_the_batchs_time_and_not_only_with_the_lambdas(
    aws: FakeAws, deploy: Deploy
) -> None:
    deploy(limited=LIMITED)
    began = aws.clock.now

    with pytest.raises(RateLimitExceeded):
        attempt(1000, again=False, seconds_left=280, until=began + 50)

    assert 30 < aws.clock.now - began <= 50


def test_executions_of_an_earlier_version_have_no_end_of_their_time(aws: FakeAws, deploy: Deploy) -> None:
    deploy(limited=LIMITED)

    with pytest.raises(RateLimited):
        attempt(1000, again=False, until=None)


def test_after_a_final_error_a_redrive_calls_only_what_was_not_answered(aws: FakeAws, deploy: Deploy) -> None:
    deploy(count=COUNT.replace("return n + 100", "return 1 // (n - 3)"))
    with pytest.raises(FunctionError, match="count, row 3: ZeroDivisionError"):
        run(batch(chunk_rows=5))

    # Where the function was corrected meanwhile, it answers the rows that it had not answered.
    deploy(count=COUNT)
    assert run(batch(chunk_rows=5), again=True) == {"chunk": 0, "rows": 5}
    assert json.loads(stored(aws, "result"))["data"] == [[0, -1], [1, -1], [2, -1], [3, 103], [4, 104]]
