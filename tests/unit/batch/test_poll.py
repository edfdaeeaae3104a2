"""GET: the result first, then the execution; repeatable, and no error while the batch may still succeed."""

import base64
import gzip
import json
from functools import partial
from typing import Any

import pytest

from batch import api, initiate, poll
from core.executions import execution_name, short_cause
from tests.unit.batch.machine import finish, only_execution, run_batch
from tests.unit.fake_aws import CONTEXT, FakeAws, FakeContext
from tests.unit.fake_aws.invocations import BATCH_ID, api_event, post_event


def get(name: str = "echo", **options: Any) -> tuple[int, Any]:
    """The status and the parsed body of a GET's answer."""
    answer = poll.handler(api_event(name, **options), CONTEXT)
    body = answer["body"]
    if answer["isBase64Encoded"]:
        body = gzip.decompress(base64.b64decode(body)).decode()
    return answer["statusCode"], json.loads(body)


def start(aws: FakeAws, name: str = "echo", *, run: bool = False) -> None:
    """POSTs a batch, which runs at once or waits for `finish(aws)`."""
    aws.step_functions.work = run_batch if run else None
    initiate.handler(post_event(name, [["a"]]), CONTEXT)
    aws.faults.calls.clear()


def test_a_result_costs_one_read_and_no_describe(aws: FakeAws) -> None:
    start(aws, run=True)
    assert get() == (200, {"data": [[0, ["a"]]]})
    assert aws.faults.operations() == ["get_object"]


def test_the_same_get_gives_the_same_bytes(aws: FakeAws) -> None:
    start(aws, run=True)
    first = poll.handler(api_event("echo"), CONTEXT)
    assert [poll.handler(api_event("echo"), CONTEXT) for _ in range(3)] == [first] * 3


def test_it_is_what_the_post_answered(aws: FakeAws) -> None:
    aws.step_functions.work = run_batch
    assert initiate.handler(post_event("echo", [["é"]]), CONTEXT) == poll.handler(api_event("echo"), CONTEXT)


def test_a_running_batch_is_waited_for_a_short_time(aws: FakeAws) -> None:
    start(aws)
    began = aws.clock.now
    status, body = get()
    assert (status, body["status"]) == (202, "running")
    assert aws.clock.now - began == pytest.approx(5 + poll.QUIET_SECONDS)
    assert aws.faults.operations().count("describe_execution") == 1
    assert set(aws.faults.operations()) == {"get_object", "describe_execution"}


def test_a_result_that_is_stored_while_it_waits_is_answered(aws: FakeAws) -> None:
    start(aws)
    began = aws.clock.now
    aws.clock.at(2, partial(finish, aws))
    assert get() == (200, {"data": [[0, ["a"]]]})
    assert aws.clock.now - began < 3


def test_a_failure_is_answered_early_with_its_cause_and_without_a_stack_trace(aws: FakeAws) -> None:
    start(aws, "fail", run=True)
    began = aws.clock.now
    for _ in range(2):
        status, body = get("fail")
        assert status == 422
        assert body == {
            "error": "FunctionError",
            "cause": "fail, row 0: RuntimeError: a",
            "execution": execution_name("functions", "fail", BATCH_ID),
        }
    assert aws.clock.now - began == pytest.approx(2 * poll.QUIET_SECONDS)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ("TIMED_OUT", "it ran past the state machine's time limit"),
        ("ABORTED", "it was stopped by an operator"),
    ],
)
def test_an_execution_that_timed_out_or_was_stopped_says_so(aws: FakeAws, status: str, cause: str) -> None:
    start(aws)
    only_execution(aws).status = status
    code, body = get()
    assert (code, body["error"], body["cause"]) == (422, status, cause)


def test_a_failed_execution_that_is_redriven_is_running_again(aws: FakeAws) -> None:
    start(aws)
    only_execution(aws).status = "PENDING_REDRIVE"
    assert get()[0] == 202
    only_execution(aws).status = "RUNNING"
    finish(aws)
    assert get()[0] == 200


def test_an_unknown_batch_is_404(aws: FakeAws) -> None:
    status, body = get(batch_id="01-nobody-sent-this")
    assert (status, body["error"]) == (404, "UnknownBatch")
    assert "'01-nobody-sent-this'" in body["message"]


def test_an_unknown_function_is_404_with_the_known_ones(aws: FakeAws) -> None:
    status, body = get("ecko")
    assert (status, body["error"]) == (404, "UnknownTarget")
    assert "echo" in body["message"]


def test_a_batch_of_a_function_that_has_been_removed_is_still_answered(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(aws, run=True)
    monkeypatch.setenv("DIAGNOSTICS", "false")
    assert get()[0] == 200


@pytest.mark.parametrize("name", ["a b", "é" * 100, "../../rows", ""])
def test_a_name_with_unusual_characters_is_404(aws: FakeAws, name: str) -> None:
    assert get(name)[0] == 404


def test_an_execution_that_becomes_visible_later_is_running(aws: FakeAws) -> None:
    start(aws)
    aws.faults.fail("describe_execution", "ExecutionDoesNotExist")
    assert get()[0] == 202


def test_a_result_may_exist_before_its_execution_is_visible(aws: FakeAws) -> None:
    start(aws)
    aws.faults.fail("describe_execution", "ExecutionDoesNotExist", times=9)
    aws.clock.at(1, partial(finish, aws))
    assert get() == (200, {"data": [[0, ["a"]]]})


def test_a_throttled_describe_is_running_and_costs_snowflake_nothing(aws: FakeAws) -> None:
    start(aws, "fail", run=True)
    aws.faults.fail("describe_execution", "ThrottlingException")
    assert get("fail")[0] == 202
    assert get("fail")[0] == 422


def test_throttled_storage_asks_to_slow_down(aws: FakeAws) -> None:
    start(aws, run=True)
    aws.faults.fail("get_object", "SlowDown")
    assert get()[0] == 429
    assert get()[0] == 200


def test_a_deleted_result_is_410(aws: FakeAws) -> None:
    start(aws, run=True)
    aws.s3.objects.clear()
    status, body = get()
    assert (status, body["error"]) == (410, "ResultExpired")
    assert "run the query again" in body["message"]


def test_without_a_batch_id_there_is_nothing_to_poll(aws: FakeAws) -> None:
    status, body = get(batch_id=None)
    assert (status, body["error"]) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("cause", "short"),
    [
        ("plain words", "plain words"),
        ('{"errorMessage":"it broke","errorType":"X","stackTrace":["secret.py"]}', "it broke"),
        ('{"errorMessage":null}', "None"),
        ('["a"]', '["a"]'),
        ("x" * 501, "x" * 499 + "…"),
        ('{"errorMessage":"' + "y" * 600 + '"}', "y" * 499 + "…"),
    ],
)
def test_a_cause_is_shortened_for_users(cause: str, short: str) -> None:
    assert short_cause(cause) == short


@pytest.mark.parametrize("ending", ["", '","errorType":"X","stackTr'])
def test_a_cause_that_aws_cut_shows_no_stack_trace(ending: str) -> None:
    cut = '{"errorMessage":"it broke: ' + "z" * 40_000 + ending
    assert "stackTr" not in short_cause(cut)
    assert len(short_cause(cut)) <= 500


def test_no_wait_begins_that_the_invocation_has_no_time_for(aws: FakeAws) -> None:
    """A read that is not answered at once must still end before API Gateway does."""
    start(aws)
    began = aws.clock.now
    answer = poll.handler(api_event("echo"), FakeContext(seconds_left=api.READ_SECONDS + 1))
    assert answer["statusCode"] == 202
    assert aws.clock.now - began <= 1
