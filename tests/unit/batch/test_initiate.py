"""POST: one batch is one execution, however often, and in whatever state, the POST is repeated."""

import base64
import gzip
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import simplejson
from botocore.exceptions import ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from batch import api, initiate, wire
from core.catalog import Signature
from core.executions import MAX_PAYLOAD_BYTES, execution_name
from core.settings import settings
from tests.unit.batch.machine import finish, only_execution, run_batch
from tests.unit.conftest import Deploy
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import BATCH_ID, api_event, post_event

Answer = tuple[int, Any]


def send(sent: dict[str, Any]) -> Answer:
    """The status and the parsed body of a POST's answer."""
    answer = initiate.handler(sent, CONTEXT)
    body = answer["body"]
    if answer["isBase64Encoded"]:
        body = gzip.decompress(base64.b64decode(body))
    return answer["statusCode"], simplejson.loads(body, use_decimal=True)


# One batch, one execution


def test_rows_that_are_ready_in_time_are_answered_by_the_post(aws: FakeAws) -> None:
    aws.clock.at(2, partial(finish, aws))
    status, body = send(post_event("echo", [["a", Decimal("1.10")], [None, {"é": []}]]))
    assert status == 200
    assert body == {"data": [[0, ["a", Decimal("1.10")]], [1, [None, {"é": []}]]]}
    assert aws.clock.now < 1003


def test_rows_that_take_longer_are_answered_with_202(aws: FakeAws) -> None:
    status, body = send(post_event("echo", [["a"]]))
    assert (status, body["status"]) == (202, "running")
    assert aws.clock.now == pytest.approx(1005)
    assert body["execution"] == execution_name("functions", "echo", BATCH_ID)


def test_a_repeated_post_while_it_runs_starts_nothing(aws: FakeAws) -> None:
    for _ in range(2):
        assert send(post_event("echo", [["a"]]))[0] == 202
    assert only_execution(aws).runs == 0
    aws.clock.at(0.1, partial(finish, aws))
    assert send(post_event("echo", [["a"]])) == (200, {"data": [[0, ["a"]]]})
    assert only_execution(aws).runs == 1


def test_a_repeated_post_after_success_gets_the_same_bytes(aws: FakeAws) -> None:
    aws.step_functions.work = run_batch
    first = initiate.handler(post_event("echo", [["a"]]), CONTEXT)
    assert initiate.handler(post_event("echo", [["a"]]), CONTEXT) == first
    assert first["statusCode"] == 200
    assert only_execution(aws).runs == 1


def test_a_failure_is_answered_by_the_post_and_stays_failed(aws: FakeAws) -> None:
    aws.step_functions.work = run_batch
    # The first POST has this answer too: it describes the execution once while it waits.
    for _ in range(3):
        status, body = send(post_event("fail", [["oops"]]))
        assert status == 422
        assert body == {
            "error": "FunctionError",
            "cause": "fail, row 0: RuntimeError: oops",
            "execution": execution_name("functions", "fail", BATCH_ID),
        }
    assert only_execution(aws).runs == 1


@pytest.mark.parametrize(
    ("status", "cause"), [("TIMED_OUT", "time limit"), ("ABORTED", "stopped by an operator")]
)
def test_an_execution_that_timed_out_or_was_stopped_says_so(aws: FakeAws, status: str, cause: str) -> None:
    send(post_event("echo", [["a"]]))
    only_execution(aws).status = status
    code, body = send(post_event("echo", [["a"]]))
    assert (code, body["error"]) == (422, status)
    assert cause in body["cause"]


def test_a_redrive_under_way_is_running(aws: FakeAws) -> None:
    send(post_event("echo", [["a"]]))
    only_execution(aws).status = "PENDING_REDRIVE"
    assert send(post_event("echo", [["a"]]))[0] == 202


def test_many_at_once_are_one_execution(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "time", time)
    aws.step_functions.work = run_batch
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, [post_event("echo", [["a"], ["b"]])] * 32))
    assert answers == [(200, {"data": [[0, ["a"]], [1, ["b"]]]})] * 32
    assert only_execution(aws).runs == 1


@pytest.mark.parametrize("state", ["running", "succeeded", "failed"])
def test_other_rows_under_the_same_id_are_a_conflict(aws: FakeAws, state: str) -> None:
    function = "fail" if state == "failed" else "echo"
    aws.step_functions.work = None if state == "running" else run_batch
    send(post_event(function, [["a"]]))
    for rows in ([["b"]], [["a"], ["a"]], [[None]]):
        status, body = send(post_event(function, rows))
        assert (status, body["error"]) == (409, "BatchConflict")
    assert only_execution(aws).runs == (0 if state == "running" else 1)


def test_the_same_rows_in_another_notation_are_no_conflict(aws: FakeAws) -> None:
    aws.step_functions.work = run_batch
    send(api_event("echo", "POST", b'{"data":[[0,"\xc3\xa9"]]}'))
    other = api_event("echo", "POST", gzip.compress(b'{ "data" : [ [ 0, "\\u00e9" ] ] }'))
    assert send(other) == (200, {"data": [[0, ["é"]]]})


def test_another_query_id_is_no_conflict(aws: FakeAws) -> None:
    send(post_event("echo", [["a"]]))
    again = post_event("echo", [["a"]], headers={"sf-external-function-current-query-id": "other"})
    assert send(again)[0] == 202
    assert len(aws.step_functions.executions) == 1


def test_the_same_id_at_another_function_is_another_batch(aws: FakeAws) -> None:
    send(post_event("echo", [["a"]]))
    send(post_event("fail", [["a"]]))
    assert len(aws.step_functions.executions) == 2


def test_a_deleted_result_is_not_computed_again(aws: FakeAws) -> None:
    aws.step_functions.work = run_batch
    send(post_event("echo", [["a"]]))
    aws.s3.objects.clear()
    status, body = send(post_event("echo", [["a"]]))
    assert (status, body["error"]) == (410, "ResultExpired")
    assert only_execution(aws).runs == 1


def test_an_execution_that_is_not_visible_yet_is_running(aws: FakeAws) -> None:
    send(post_event("echo", [["a"]]))
    only_execution(aws).status = "SUCCEEDED"  # so that its name is taken
    for _ in range(2):  # when it is described first, and while the POST waits
        aws.faults.fail("describe_execution", "ExecutionDoesNotExist")
    assert send(post_event("echo", [["a"]]))[0] == 202


def test_a_throttle_while_it_waits_ends_the_wait(aws: FakeAws) -> None:
    aws.faults.fail("describe_execution", "ThrottlingException")
    began = aws.clock.now
    assert send(post_event("echo", [["a"]]))[0] == 202
    assert aws.clock.now - began == pytest.approx(initiate.EARLY_SECONDS)


def test_no_rows_need_no_execution(aws: FakeAws) -> None:
    assert send(post_event("echo", [])) == (200, {"data": []})
    assert not aws.step_functions.executions


# What is refused


def test_an_unknown_function_is_404_with_the_known_ones(aws: FakeAws) -> None:
    status, body = send(post_event("ecko", [["a"]]))
    assert (status, body["error"]) == (404, "UnknownTarget")
    assert "'ecko'" in body["message"]
    assert all(name in body["message"] for name in ("echo", "fail", "sentiment", "sleep"))


def test_diagnostic_functions_are_unknown_unless_enabled(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIAGNOSTICS", "false")
    status, body = send(post_event("echo", [["a"]]))
    assert status == 404
    assert "sleep" not in body["message"]


@pytest.mark.parametrize(("row", "count"), [([], 0), (["a", "b"], 2)])
def test_a_wrong_number_of_arguments_is_refused_with_the_signature(
    aws: FakeAws, row: list[Any], count: int
) -> None:
    status, body = send(post_event("fail", [["a"], row]))
    assert (status, body["error"]) == (400, "BadRequest")
    assert body["message"] == f"row 1 has {count} arguments; the function is fail(message VARCHAR) -> VARCHAR"


@pytest.mark.parametrize(
    "sent",
    [
        api_event("echo", "POST", b"{"),
        api_event("echo", "POST", b'{"data":[[1]]}'),
        api_event("echo", "POST", b'{"data":[[0,NaN]]}'),
        api_event("echo", "POST", b'{"data":[[0,"\\ud800"]]}'),
        api_event("echo", "POST"),
        post_event("echo", [["a"]], batch_id=None),
        post_event("echo", [["a"]], headers={"sf-external-function-format-version": "1.1"}),
    ],
    ids=range(7),
)
def test_what_is_not_a_batch_starts_nothing(aws: FakeAws, sent: dict[str, Any]) -> None:
    status, body = send(sent)
    assert (status, body["error"]) == (400, "BadRequest")
    assert body["message"]
    assert not aws.step_functions.executions
    assert not aws.s3.objects


def test_more_bytes_than_a_request_may_have_name_the_remedy(aws: FakeAws) -> None:
    status, body = send(post_event("echo", [["a" * 6 * 1024 * 1024]], as_text=True))
    assert (status, body["error"]) == (413, "RequestTooLarge")
    assert "MAX_BATCH_ROWS" in body["message"]


# Where rows go


@pytest.mark.parametrize("letter", ["a", "é", "😀", '"', "\x00", "\\"])
def test_rows_are_inline_while_they_fit_the_payload(aws: FakeAws, letter: str) -> None:
    for count in (MAX_PAYLOAD_BYTES // 16, MAX_PAYLOAD_BYTES):
        sent = post_event("echo", [[letter * count]], batch_id=str(count))
        aws.step_functions.work = run_batch
        assert send(sent) == (200, {"data": [[0, [letter * count]]]})
    small, large = aws.step_functions.executions.values()
    assert len(small.input.encode()) < MAX_PAYLOAD_BYTES
    assert len(large.input.encode()) < 2000
    assert json.loads(large.input)["rows"] is None
    assert json.loads(small.input)["rows"] is not None


@pytest.mark.parametrize("kind", ["POST", "repeated POST"])
def test_a_setting_keeps_rows_out_of_inputs(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "repeated POST":
        send(post_event("echo", [["a secret"]]))  # before the setting was changed
    monkeypatch.setenv("ROWS_IN_INPUTS", "false")
    settings.cache_clear()
    if kind == "POST":
        aws.step_functions.work = run_batch
        assert send(post_event("echo", [["a secret"]])) == (200, {"data": [[0, ["a secret"]]]})
        assert "secret" not in only_execution(aws).input
    else:
        assert send(post_event("echo", [["a secret"]]))[0] == 202
        assert only_execution(aws).status == "RUNNING"


def test_several_chunks_are_stored_once_and_joined_in_order(aws: FakeAws, deploy: Deploy) -> None:
    deploy(double="@remote_function(chunk_rows=3)\ndef double(n: int) -> int:\n    return n * 2\n")
    aws.step_functions.work = run_batch
    status, body = send(post_event("double", [[n] for n in range(10)]))
    assert (status, body) == (200, {"data": [[n, n * 2] for n in range(10)]})
    document = json.loads(only_execution(aws).input)
    assert (document["chunks"], document["row_count"], document["rows"]) == (4, 10, None)


def test_a_function_with_small_chunks_gets_larger_ones_where_they_would_be_too_many(
    aws: FakeAws, deploy: Deploy
) -> None:
    deploy(double="@remote_function(chunk_rows=1)\ndef double(n: int) -> int:\n    return n * 2\n")
    aws.step_functions.work = run_batch
    status, body = send(post_event("double", [[n] for n in range(4096)]))
    assert (status, body) == (200, {"data": [[n, n * 2] for n in range(4096)]})
    document = json.loads(only_execution(aws).input)
    assert (document["chunks"], document["chunk_rows"]) == (373, 11)


# A chunk's events: its iteration's two, entered, scheduled, started, succeeded, exited. Others: two of the
# execution, two of the Choice, four of the Map, five of `Collect`.
EVENTS_OF_A_CHUNK, OTHER_EVENTS, MAX_EVENTS = 7, 13, 25_000
# Scheduled, started, failed. So many for each chunk, where all are throttled until the batch's time is over.
EVENTS_OF_AN_ATTEMPT, ATTEMPTS = 3, 16


@given(count=st.integers(1, 600_000), chunk_rows=st.integers(1, 100_000))
def test_any_batch_fits_a_history_and_each_row_is_in_one_chunk(count: int, chunk_rows: int) -> None:
    signature = Signature("f", (), variadic=False, returns="Any", chunk_rows=chunk_rows)
    request = wire.Request("functions", "f", BATCH_ID, "q", {})

    batch = initiate.function_batch(signature, request, wire.Rows([[]] * count, "[]", "d"))

    of_a_chunk = EVENTS_OF_A_CHUNK + ATTEMPTS * EVENTS_OF_AN_ATTEMPT
    assert batch.chunks * of_a_chunk + OTHER_EVENTS < MAX_EVENTS
    assert batch.chunk_rows == chunk_rows or (batch.chunk_rows > chunk_rows and count > 400 * chunk_rows)
    ranges = [batch.chunk_range(chunk) for chunk in range(batch.chunks)]
    assert [(each.start, len(each) > 0) for each in ranges] == [
        (end, True) for end in [0, *(each.stop for each in ranges[:-1])]
    ]
    assert ranges[-1].stop == count


def test_a_repeated_request_sends_the_same_input(aws: FakeAws) -> None:
    inputs = []
    for _ in range(2):
        send(post_event("echo", [["a" * 300_000, {"b": 1, "a": Decimal("1.10")}]]))
        inputs.append(only_execution(aws).input)
        aws.step_functions.executions.clear()
    assert inputs[0] == inputs[1]
    assert len(aws.s3.objects) == 1


# AWS under load


@pytest.mark.parametrize(
    "code", ["ThrottlingException", "ServiceUnavailable", "InternalServerError", "ExecutionLimitExceeded"]
)
def test_a_throttled_start_asks_snowflake_to_slow_down(aws: FakeAws, code: str) -> None:
    aws.faults.fail("start_execution", code)
    status, body = send(post_event("echo", [["a"]]))
    assert (status, body["error"]) == (429, "Throttled")
    aws.step_functions.work = run_batch
    assert send(post_event("echo", [["a"]]))[0] == 200


def test_a_throttled_description_of_an_earlier_execution_asks_to_slow_down(aws: FakeAws) -> None:
    send(post_event("echo", [["a"]]))
    only_execution(aws).status = "FAILED"
    aws.faults.fail("describe_execution", "ThrottlingException")
    assert send(post_event("echo", [["a"]]))[0] == 429


@pytest.mark.parametrize("operation", ["put_object", "get_object"])
def test_throttled_storage_asks_to_slow_down(aws: FakeAws, operation: str) -> None:
    aws.faults.fail(operation, "SlowDown")
    assert send(post_event("echo", [["a" * 300_000]]))[0] == 429


def test_an_unexpected_error_is_500_without_details(aws: FakeAws, logged: Callable[[], str]) -> None:
    aws.faults.fail("start_execution", "AccessDeniedException")
    status, body = send(post_event("echo", [["a secret of row 0"]]))
    assert status == 500
    assert body == {"error": "ApiError", "message": "unexpected error; the Lambda's log says more"}
    assert "AccessDeniedException" in logged()
    assert "secret" not in logged()


def test_a_connection_that_breaks_asks_to_slow_down(aws: FakeAws) -> None:
    aws.faults.fail("start_execution", ReadTimeoutError(endpoint_url="https://states"))
    assert send(post_event("echo", [["a"]]))[0] == 429


def test_a_start_whose_response_is_lost_is_one_execution(aws: FakeAws) -> None:
    aws.faults.lose_answer("start_execution", ReadTimeoutError(endpoint_url="https://states"))
    assert send(post_event("echo", [["a"]]))[0] == 429
    aws.faults.lose_answer("start_execution")
    assert send(post_event("echo", [["a"]]))[0] == 202
    assert only_execution(aws).status == "RUNNING"


def test_no_row_is_logged(aws: FakeAws, logged: Callable[[], str]) -> None:
    aws.step_functions.work = run_batch
    send(post_event("echo", [["a secret"]]))
    send(post_event("echo", [["another secret"]]))
    send(api_event("echo", "POST", b'{"data":[[0,"a secret"]'))
    assert '"rows":1' in logged()
    assert "secret" not in logged()


# Names

LEGAL = set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-")
names = st.tuples(st.sampled_from(["functions", "workflows"]), st.text(), st.text(min_size=1))


@given(names)
def test_an_execution_name_is_always_valid(name: tuple[str, str, str]) -> None:
    execution = execution_name(*name)
    assert 0 < len(execution) <= 80
    assert set(execution) <= LEGAL
    assert execution_name(*name) == execution


@given(st.lists(names, min_size=2, unique=True))
def test_execution_names_are_distinct(names: list[tuple[str, str, str]]) -> None:
    assert len({execution_name(*name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("functions", "a", "b"), ("workflows", "a", "b")),
        (("functions", "a", "\nb"), ("functions", "a\n", "b")),
        (("functions", "x" * 40 + "\nb", "c"), ("functions", "x" * 40, "b\nc")),
        (("functions", "a/b", "c"), ("functions", "a_b", "c")),
        (("functions", "a", "1:2"), ("functions", "a", "12")),
        (("functions", "a", "A"), ("functions", "a", "a")),
        (("functions", "a", "\ud800"), ("functions", "a", "?")),
    ],
)
def test_names_that_look_alike_are_distinct(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    assert execution_name(*one) != execution_name(*two)
