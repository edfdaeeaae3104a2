"""Runs of workflows: described by their handles, and resumed once, with and without RedriveExecution."""

import json
from typing import Any

import pytest

from core.errors import TransientError
from core.runs import Run, RunError, own_runs
from tests.unit.fake_aws import FakeAws, FakeExecution
from tests.unit.fake_aws.step_functions import EXECUTIONS, MACHINES, NOON, FakeStepFunctions, execution_arn


@pytest.fixture
def service(aws: FakeAws) -> FakeStepFunctions:
    """Without RedriveExecution, as after 14 days."""
    aws.step_functions.redrives = False
    return aws.step_functions


def names(service: FakeStepFunctions) -> list[str]:
    """The names of all runs, in the order of their starts."""
    return [execution.name for execution in service.executions.values()]


# --- finding ---


def test_a_run_has_the_data_of_its_execution(service: FakeStepFunctions) -> None:
    arn = service.add("etl", "a", "SUCCEEDED", {"dataset_id": "d"}, output='{"rows": 1}')
    run = own_runs().find(arn)
    assert run == Run(
        arn=arn,
        status="SUCCEEDED",
        started=NOON,
        stopped=NOON,
        input={"dataset_id": "d"},
        output={"rows": 1},
        error="",
        cause="",
        workflow="etl",
    )
    assert (run.name, run.run_id, run.is_running) == ("a", "a", False)


def test_a_failed_run_has_the_cause_without_a_stack_trace(service: FakeStepFunctions) -> None:
    cause = json.dumps({"errorMessage": "no file", "errorType": "LoadError", "stackTrace": ["File"]})
    run = own_runs().find(service.add("etl", "a", "FAILED", error="LoadError", cause=cause))
    assert (run.output, run.error, run.cause) == (None, "LoadError", "no file")


@pytest.mark.parametrize(
    ("workflow", "document", "run_id"),
    [
        ("etl", {"run_id": "first"}, "first"),
        ("pipeline", {"request_id": "first"}, "first"),
        ("pipeline", {"run_id": "other"}, "a"),
        ("etl", {}, "a"),
        ("etl", ["no", "object"], "a"),
    ],
)
def test_the_run_id_is_the_input_s_or_the_execution_s_name(
    service: FakeStepFunctions, workflow: str, document: Any, run_id: str
) -> None:
    assert own_runs().find(service.add(workflow, "a", "FAILED", document)).run_id == run_id


@pytest.mark.parametrize("operation", ["find", "resume"])
@pytest.mark.parametrize(
    "handle",
    [
        "",
        "a",
        execution_arn("batch", "a"),
        execution_arn("letl", "a"),
        f"{EXECUTIONS}etl",
        f"{MACHINES}etl",
        f"{EXECUTIONS}fan_out/groups:0b2f",
        execution_arn("etl", "a:more"),
        # Of another stack, whose name begins as this one's; of another account; of another region.
        execution_arn("etl", "a").replace(":stack-", ":stack-prod-"),
        execution_arn("etl", "a").replace(":123456789012:", ":210987654321:"),
        execution_arn("etl", "a").replace(":us-east-1:", ":eu-west-1:"),
    ],
)
def test_a_handle_that_names_no_run_of_this_stack_is_refused_without_a_call(
    aws: FakeAws, service: FakeStepFunctions, operation: str, handle: str
) -> None:
    with pytest.raises(RunError, match=r"is not a run of this stack's.*etl, fan_out, ingest, pipeline"):
        getattr(own_runs(), operation)(handle)
    assert aws.faults.operations() == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExecutionDoesNotExist", "there is no run"),
        ("InvalidArn", "there is no run"),
        ("ValidationException", "there is no run"),
        ("AccessDeniedException", "may not be described"),
    ],
)
def test_an_unknown_run_is_named(aws: FakeAws, service: FakeStepFunctions, code: str, message: str) -> None:
    aws.faults.fail("describe_execution", code)
    with pytest.raises(RunError, match=message) as raised:
        own_runs().find(service.add("etl", "a", "FAILED"))
    assert execution_arn("etl", "a") in str(raised.value)


def test_a_throttle_is_a_transient_error(aws: FakeAws, service: FakeStepFunctions) -> None:
    for operation in ("describe_execution", "redrive_execution", "start_execution"):
        aws.faults.fail(operation, "ThrottlingException")
        with pytest.raises(TransientError):
            own_runs().resume(service.add("etl", "a", "FAILED"))
    assert own_runs().resume(execution_arn("etl", "a")).name == "a-r1"


def test_other_errors_are_not_hidden(aws: FakeAws, service: FakeStepFunctions) -> None:
    aws.faults.fail("redrive_execution", "ExecutionLimitExceeded")
    with pytest.raises(Exception, match="ExecutionLimitExceeded"):
        own_runs().resume(service.add("etl", "a", "FAILED"))
    assert names(service) == ["a"]


# --- resuming ---


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT", "ABORTED"])
def test_where_the_service_redrives_the_run_itself_continues(
    aws: FakeAws, service: FakeStepFunctions, status: str
) -> None:
    service.redrives = True
    resumed = own_runs().resume(service.add("etl", "a", status, error="E", cause="why"))
    assert (resumed.arn, resumed.status, resumed.error) == (execution_arn("etl", "a"), "RUNNING", "")
    assert "start_execution" not in aws.faults.operations()


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT", "ABORTED"])
def test_otherwise_a_run_with_the_same_run_id_starts(
    aws: FakeAws, service: FakeStepFunctions, status: str
) -> None:
    service.redrives = True
    aws.faults.fail("redrive_execution", "ExecutionNotRedrivable")
    failed = service.add("pipeline", "a", status, {"document": {"text": "é"}}, error="E", cause="why")

    resumed = own_runs().resume(failed)

    assert resumed.arn == execution_arn("pipeline", "a-r1")
    assert (resumed.status, resumed.error, resumed.cause) == ("RUNNING", "", "")
    assert resumed.input == {"document": {"text": "é"}, "request_id": "a"}
    assert json.loads(service.executions[resumed.arn].input) == resumed.input


def test_a_machine_that_cleans_up_after_a_failure_is_never_redriven(
    aws: FakeAws, service: FakeStepFunctions
) -> None:
    service.redrives = True
    resumed = own_runs().resume(service.add("ingest", "a", "FAILED", {"key": "ingest/echo/a"}))
    assert resumed.name == "a-r1"
    assert "redrive_execution" not in aws.faults.operations()


@pytest.mark.parametrize("status", ["RUNNING", "PENDING_REDRIVE"])
def test_a_running_run_is_left_alone(aws: FakeAws, service: FakeStepFunctions, status: str) -> None:
    assert own_runs().resume(service.add("etl", "a", status)).arn == execution_arn("etl", "a")
    assert aws.faults.operations() == ["describe_execution"]


def test_a_run_that_succeeded_is_not_resumed(service: FakeStepFunctions) -> None:
    with pytest.raises(RunError, match="a succeeded; there is nothing to resume"):
        own_runs().resume(service.add("etl", "a", "SUCCEEDED", output="1"))


@pytest.mark.parametrize("ended", [{"status": "RUNNING"}, {"status": "SUCCEEDED", "output": "1"}])
def test_resumed_twice_the_first_resumption_is_returned(
    service: FakeStepFunctions, ended: dict[str, Any]
) -> None:
    failed = service.add("etl", "a", "FAILED")
    first = own_runs().resume(failed)
    for name, value in ended.items():
        setattr(service.executions[first.arn], name, value)
    assert own_runs().resume(failed).arn == first.arn
    assert names(service) == ["a", "a-r1"]


def test_a_resumption_that_failed_is_followed_by_another(service: FakeStepFunctions) -> None:
    failed = service.add("etl", "a", "FAILED", {"run_id": "first"})
    for number in (1, 2, 3):
        resumed = own_runs().resume(failed)
        assert (resumed.name, resumed.run_id) == (f"a-r{number}", "first")
        service.executions[resumed.arn].status = "FAILED"
    assert own_runs().resume(execution_arn("etl", "a-r3")).run_id == "first"


def test_a_resumption_that_fails_at_once_is_not_repeated(service: FakeStepFunctions) -> None:
    def fail(execution: FakeExecution) -> None:
        execution.status = "FAILED"

    service.work = fail
    assert own_runs().resume(service.add("etl", "a", "FAILED")).name == "a-r1"
    assert names(service) == ["a", "a-r1"]


def test_two_concurrent_redrives_start_no_other_run(aws: FakeAws, service: FakeStepFunctions) -> None:
    service.redrives = True
    failed = service.add("etl", "a", "FAILED")
    aws.faults.meanwhile("redrive_execution", lambda: service.redrive_execution(executionArn=failed))
    assert own_runs().resume(failed).arn == failed
    assert names(service) == ["a"]


def test_names_are_valid_and_resumptions_of_long_names_are_distinct(service: FakeStepFunctions) -> None:
    first, second = (service.add("etl", "x" * 78 + end, "FAILED") for end in ("-1", "-2"))
    resumed = [own_runs().resume(failed) for failed in (first, second)]
    assert [len(run.name) for run in resumed] == [80, 80]
    assert [run.run_id for run in resumed] == ["x" * 78 + "-1", "x" * 78 + "-2"]
    assert own_runs().resume(first).arn == resumed[0].arn
    assert own_runs().resume(second).arn == resumed[1].arn


def test_an_input_without_a_place_for_the_run_id_is_refused(service: FakeStepFunctions) -> None:
    with pytest.raises(RunError, match="the input of a is not a JSON object"):
        own_runs().resume(service.add("etl", "a", "FAILED", [1]))
