"""What a row of a workflow batch becomes, however its run and the task that waited for it ended."""

import gzip
import json
from typing import Any

import pytest

from batch import record_run
from batch.record_run import RunUnfinished
from batch.store import WorkflowBatch
from core.errors import TransientError
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.step_functions import execution_arn

EXECUTION = "w-0123"
RUN = f"{EXECUTION}-1"
HANDLE = execution_arn("etl", RUN)


def recorded(aws: FakeAws, outcome: Any, *, detached: bool = False, until: float | None = None) -> Any:
    """The value that is stored for row 1. `until`: a time in seconds."""
    batch = WorkflowBatch(
        batch_id="b",
        query_id="q",
        digest="d",
        row_count=2,
        chunk_rows=1,
        chunks=2,
        workflow="etl",
        documents=[],
        detached=detached,
    )
    event: record_run.Event = {
        "execution": EXECUTION,
        "batch": batch.to_input(),
        "row": 1,
        "run": RUN,
        "outcome": outcome,
    }
    if until is not None:
        event["until"] = until * 1000
    record_run.handler(event, CONTEXT)
    ((key, stored),) = aws.s3.objects.items()
    assert key == f"batches/{EXECUTION}/chunk-00001.json.gz"
    assert stored.metadata == {"digest": "d"}
    number, value = json.loads(gzip.decompress(stored.body))
    assert number == 1
    return value


@pytest.mark.parametrize("output", [{"rows": 1}, None, [], "text", 0.5])
def test_an_output_is_the_row_s_value(aws: FakeAws, output: Any) -> None:
    assert recorded(aws, {"output": output}) == output
    assert "describe_execution" not in aws.faults.operations()


def test_a_detached_row_is_its_handle(aws: FakeAws) -> None:
    assert recorded(aws, {"output": HANDLE}, detached=True) == HANDLE


FAILED = {"error": "States.TaskFailed", "cause": "what Step Functions says of it"}


def test_a_run_that_failed_says_why_itself(aws: FakeAws) -> None:
    cause = json.dumps({"errorMessage": "row 3: no", "stackTrace": ["File ..."]})
    aws.step_functions.add("etl", RUN, "FAILED", error="VerifyError", cause=cause)
    assert recorded(aws, FAILED) == {"error": "VerifyError", "cause": "row 3: no", "execution": HANDLE}


@pytest.mark.parametrize("status", ["TIMED_OUT", "ABORTED"])
def test_a_run_that_timed_out_or_was_stopped_says_so(aws: FakeAws, status: str) -> None:
    aws.step_functions.add("etl", RUN, status)
    value = recorded(aws, FAILED)
    assert (value["error"], value["execution"]) == (status, HANDLE)
    assert value["cause"]


@pytest.mark.parametrize(
    "error", ["States.DataLimitExceeded", "StepFunctions.ExecutionAlreadyExistsException"]
)
def test_a_run_that_succeeded_although_the_task_failed_has_its_output(aws: FakeAws, error: str) -> None:
    aws.step_functions.add("etl", RUN, "SUCCEEDED", output='{"rows": 1}')
    assert recorded(aws, {"error": error, "cause": ""}) == {"rows": 1}


@pytest.mark.parametrize("detached", [False, True])
def test_a_run_that_was_never_started_has_the_error_of_the_task(aws: FakeAws, detached: bool) -> None:
    error = {"error": "StepFunctions.AccessDeniedException", "cause": "no"}
    assert recorded(aws, error, detached=detached) == {**error, "execution": HANDLE}


def test_a_detached_run_that_an_earlier_attempt_started_is_its_handle(aws: FakeAws) -> None:
    aws.step_functions.add("etl", RUN)
    assert recorded(aws, {"error": "States.Timeout", "cause": ""}, detached=True) == HANDLE


@pytest.mark.parametrize("status", ["RUNNING", "PENDING_REDRIVE"])
def test_a_run_of_an_earlier_attempt_is_waited_for(aws: FakeAws, status: str) -> None:
    aws.step_functions.add("etl", RUN, status)
    with pytest.raises(RunUnfinished, match=RUN):
        recorded(aws, {"error": "StepFunctions.ExecutionAlreadyExistsException", "cause": ""})
    assert not aws.s3.objects


@pytest.mark.parametrize(
    "error", ["States.DataLimitExceeded", "StepFunctions.ExecutionAlreadyExistsException"]
)
def test_a_run_of_an_earlier_attempt_is_waited_for_until_a_time(aws: FakeAws, error: str) -> None:
    aws.step_functions.add("etl", RUN)
    until = aws.clock.now + 10
    for _ in range(3):
        with pytest.raises(RunUnfinished, match=RUN):
            recorded(aws, {"error": error, "cause": ""}, until=until)
        aws.clock.sleep(3)
    aws.clock.sleep(1)
    value = recorded(aws, {"error": error, "cause": ""}, until=until)
    assert (value["error"], value["execution"]) == ("States.Timeout", HANDLE)
    assert "run_status" in value["cause"]


def test_a_run_that_ended_at_the_last_moment_has_its_output(aws: FakeAws) -> None:
    aws.step_functions.add("etl", RUN, "SUCCEEDED", output="1")
    assert recorded(aws, FAILED, until=aws.clock.now) == 1


def test_a_run_that_outlasts_sql_is_its_row_s_error_with_its_handle(aws: FakeAws) -> None:
    aws.step_functions.add("etl", RUN)
    value = recorded(aws, {"error": "States.Timeout", "cause": ""})
    assert (value["error"], value["execution"]) == ("States.Timeout", HANDLE)
    assert "run_status" in value["cause"]


@pytest.mark.parametrize("operation", ["describe_execution", "put_object"])
def test_a_transient_error_is_retried_by_the_machine(aws: FakeAws, operation: str) -> None:
    aws.step_functions.add("etl", RUN, "SUCCEEDED", output="1")
    aws.faults.fail(operation, "ThrottlingException")
    with pytest.raises(TransientError):
        recorded(aws, FAILED)
    assert recorded(aws, FAILED) == 1


def test_a_second_recording_keeps_the_first_value(aws: FakeAws) -> None:
    assert recorded(aws, {"output": 1}) == 1
    assert recorded(aws, {"output": 2}) == 1


@pytest.mark.parametrize("detached", [False, True])
def test_a_workflow_that_sql_may_not_start_is_the_row_s_error(aws: FakeAws, *, detached: bool) -> None:
    # Not in the template's list of workflows: neither role may do anything with its runs.
    aws.faults.fail("describe_execution", "AccessDeniedException")
    outcome = {"error": "StepFunctions.AWSStepFunctionsException", "cause": "not authorized"}
    assert recorded(aws, outcome, detached=detached) == {**outcome, "execution": HANDLE}
