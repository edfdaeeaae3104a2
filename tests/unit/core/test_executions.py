"""Executions that are started and described by a Task: what is transient, and what does not exist."""

import json

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from batch import record_run
from core.errors import TransientError
from core.executions import describe_execution, execution_arn, start_execution
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.step_functions import NOON

THROTTLES = [
    "ThrottlingException",
    "ServiceUnavailable",
    "InternalServerError",
    ReadTimeoutError(endpoint_url="https://states"),
]


@pytest.mark.parametrize("error", THROTTLES[:3])
def test_a_throttle_is_transient(aws: FakeAws, error: str) -> None:
    aws.faults.fail("describe_execution", error)
    aws.faults.fail("start_execution", error)

    with pytest.raises(TransientError, match="throttling DescribeExecution"):
        describe_execution(execution_arn("etl", "a"))
    with pytest.raises(TransientError, match="throttling StartExecution"):
        start_execution("etl", "a", {})


@pytest.mark.parametrize("error", THROTTLES, ids=str)
def test_a_task_that_describes_an_execution_is_retried_by_the_machine(
    aws: FakeAws, error: str | Exception
) -> None:
    batch = {"batch_id": "b", "query_id": "q", "digest": "d", "row_count": 1, "chunk_rows": 1, "chunks": 1}
    event: record_run.Event = {
        "execution": "w-0123",
        "batch": {**batch, "workflow": "etl", "documents": [{}], "detached": False},
        "row": 0,
        "run": "w-0123-0",
        "outcome": {"error": "States.TaskFailed", "cause": ""},
    }
    aws.step_functions.add("etl", "w-0123-0", "SUCCEEDED", output="1")
    aws.faults.fail("describe_execution", error)

    with pytest.raises(TransientError):
        record_run.handler(event, CONTEXT)

    assert aws.s3.objects == {}
    record_run.handler(event, CONTEXT)
    assert list(aws.s3.objects) == ["batches/w-0123/chunk-00000.json.gz"]


def test_other_errors_are_not_transient(aws: FakeAws) -> None:
    aws.faults.fail("describe_execution", "AccessDeniedException")
    aws.faults.fail("start_execution", "AccessDeniedException")

    with pytest.raises(ClientError, match="AccessDeniedException"):
        describe_execution(execution_arn("etl", "a"))
    with pytest.raises(ClientError, match="AccessDeniedException"):
        start_execution("etl", "a", {})


def test_an_execution_is_started_once_and_described(aws: FakeAws) -> None:
    assert start_execution("etl", "a", {"text": "é", "n": 1})
    assert start_execution("etl", "a", {"text": "é", "n": 1})
    assert not start_execution("etl", "a", {"text": "other"})

    execution = describe_execution(execution_arn("etl", "a"))

    assert execution
    assert (execution.name, execution.status, execution.is_running) == ("a", "RUNNING", True)
    assert (execution.started, execution.stopped) == (NOON, None)
    assert (execution.input, execution.output) == ({"text": "é", "n": 1}, None)
    assert json.loads(aws.step_functions.executions[execution.arn].input) == execution.input


def test_an_execution_that_ended_has_the_time_of_its_end(aws: FakeAws) -> None:
    execution = describe_execution(aws.step_functions.add("etl", "a", "FAILED", error="E", cause="why"))

    assert execution
    assert (execution.stopped, execution.is_running, execution.error, execution.cause) == (
        NOON,
        False,
        "E",
        "why",
    )


def test_an_execution_that_does_not_exist_is_none(aws: FakeAws) -> None:
    assert describe_execution(execution_arn("etl", "a")) is None
