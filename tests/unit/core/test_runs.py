"""Runs of workflows: found by their handles, and resumed once, whatever the service offers."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from mypy_boto3_stepfunctions import SFNClient

from core.errors import TransientError
from core.runs import Run, RunError, find_run, resume_run
from tests.unit.fake_aws import Faults, client_error

PREFIX = "arn:aws:states:eu-west-1:123456789012:"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def handle(workflow: str, name: str = "a") -> str:
    return f"{PREFIX}execution:my-stack-{workflow}:{name}"


class Service:
    """Step Functions with RedriveExecution, if `redrives`; a repeated StartExecution finds an open run."""

    def __init__(self) -> None:
        self.executions: dict[str, dict[str, Any]] = {}
        self.faults = Faults()
        self.redrives = False

    @property
    def client(self) -> SFNClient:
        return cast(SFNClient, self)

    def add(self, handle: str, status: str = "FAILED", document: Any = None, **ended: Any) -> str:
        """An execution, and its handle."""
        found = {"status": status, "startDate": NOON, "input": json.dumps(document or {}), **ended}
        self.executions[handle] = found
        return handle

    def names(self) -> list[str]:
        return [arn.rpartition(":")[2] for arn in self.executions]

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        self.faults.check("describe_execution")
        if executionArn not in self.executions:
            raise client_error("ExecutionDoesNotExist", "DescribeExecution")
        return self.executions[executionArn]

    def redrive_execution(self, *, executionArn: str) -> dict[str, Any]:
        self.faults.check("redrive_execution")
        if not self.redrives:
            raise client_error("UnknownOperationException", "RedriveExecution")
        self.executions[executionArn]["status"] = "RUNNING"
        return {"redriveDate": NOON}

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:
        self.faults.check("start_execution")
        arn = f"{stateMachineArn.replace(':stateMachine:', ':execution:')}:{name}"
        if earlier := self.executions.get(arn):
            if (earlier["status"], earlier["input"]) != ("RUNNING", input):
                raise client_error("ExecutionAlreadyExists", "StartExecution")
        else:
            self.add(arn, "RUNNING", json.loads(input))
        return {"executionArn": arn, "startDate": NOON}


@pytest.fixture
def service() -> Service:
    return Service()


# --- finding ---


def test_a_run_is_what_its_execution_is(service: Service) -> None:
    ended = {"stopDate": NOON, "output": '{"rows": 1}'}
    found = find_run(service.client, service.add(handle("etl"), "SUCCEEDED", {"dataset_id": "d"}, **ended))
    assert found == Run(
        handle("etl"), "etl", "SUCCEEDED", NOON, NOON, {"dataset_id": "d"}, {"rows": 1}, error="", cause=""
    )
    assert (found.name, found.run_id, found.is_running) == ("a", "a", False)


def test_a_failed_run_has_the_cause_without_a_stack_trace(service: Service) -> None:
    cause = json.dumps({"errorMessage": "no file", "errorType": "LoadError", "stackTrace": ["File"]})
    found = find_run(service.client, service.add(handle("etl"), error="LoadError", cause=cause))
    assert (found.output, found.error, found.cause) == (None, "LoadError", "no file")


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
    service: Service, workflow: str, document: Any, run_id: str
) -> None:
    assert find_run(service.client, service.add(handle(workflow), document=document)).run_id == run_id


@pytest.mark.parametrize("find", [find_run, resume_run])
@pytest.mark.parametrize(
    "handle",
    [
        "",
        "a",
        handle("batch"),
        handle("letl"),
        f"{PREFIX}execution:my-stack-etl",
        f"{PREFIX}stateMachine:my-stack-etl",
        f"{PREFIX}execution:my-stack-fan_out/groups:0b2f",
        handle("etl") + ":more",
    ],
)
def test_what_is_no_run_of_a_workflow_is_not_asked_for(
    service: Service, find: Callable[..., Run], handle: str
) -> None:
    with pytest.raises(RunError, match=r"is not a run of a workflow.*etl, fan_out, ingest, pipeline"):
        find(service.client, handle)
    assert service.faults.calls == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExecutionDoesNotExist", "there is no run"),
        ("InvalidArn", "there is no run"),
        ("ValidationException", "there is no run"),
        ("AccessDeniedException", "not a run of this stack"),
    ],
)
def test_a_run_that_is_not_there_is_named(service: Service, code: str, message: str) -> None:
    service.faults.add("describe_execution", code)
    with pytest.raises(RunError, match=message) as raised:
        find_run(service.client, service.add(handle("etl")))
    assert handle("etl") in str(raised.value)


def test_a_throttle_is_for_the_machine_to_retry(service: Service) -> None:
    for operation in ("describe_execution", "redrive_execution", "start_execution"):
        service.faults.add(operation, "ThrottlingException")
        with pytest.raises(TransientError):
            resume_run(service.client, service.add(handle("etl")))
    assert resume_run(service.client, handle("etl")).name == "a-r1"


def test_other_errors_are_not_hidden(service: Service) -> None:
    service.faults.add("redrive_execution", "ExecutionLimitExceeded")
    with pytest.raises(Exception, match="ExecutionLimitExceeded"):
        resume_run(service.client, service.add(handle("etl")))
    assert service.names() == ["a"]


# --- resuming ---


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT", "ABORTED"])
def test_where_it_is_offered_the_run_itself_goes_on(service: Service, status: str) -> None:
    service.redrives = True
    resumed = resume_run(service.client, service.add(handle("etl"), status, error="E", cause="why"))
    assert (resumed.handle, resumed.status, resumed.error) == (handle("etl"), "RUNNING", "")
    assert "start_execution" not in service.faults.calls


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT", "ABORTED"])
@pytest.mark.parametrize("code", ["ExecutionNotRedrivable", "UnknownOperationException", "InvalidAction"])
def test_else_a_run_with_its_run_id_starts(service: Service, status: str, code: str) -> None:
    service.redrives = True
    service.faults.add("redrive_execution", code)
    failed = service.add(handle("pipeline"), status, {"document": {"text": "é"}}, error="E", cause="why")

    resumed = resume_run(service.client, failed)

    assert resumed.handle == handle("pipeline", "a-r1")
    assert (resumed.status, resumed.error, resumed.cause) == ("RUNNING", "", "")
    assert resumed.input == {"document": {"text": "é"}, "request_id": "a"}
    assert json.loads(service.executions[resumed.handle]["input"]) == resumed.input


def test_a_machine_that_cleans_up_after_a_failure_is_never_redriven(service: Service) -> None:
    service.redrives = True
    resumed = resume_run(service.client, service.add(handle("ingest"), document={"key": "ingest/echo/a"}))
    assert resumed.name == "a-r1"
    assert "redrive_execution" not in service.faults.calls


@pytest.mark.parametrize("status", ["RUNNING", "PENDING_REDRIVE"])
def test_a_run_that_goes_on_is_left_alone(service: Service, status: str) -> None:
    assert resume_run(service.client, service.add(handle("etl"), status)).handle == handle("etl")
    assert service.faults.calls == ["describe_execution"]


def test_a_run_that_ended_well_is_not_resumed(service: Service) -> None:
    with pytest.raises(RunError, match="a ended well; there is nothing to resume"):
        resume_run(service.client, service.add(handle("etl"), "SUCCEEDED", output="1"))


@pytest.mark.parametrize("ended", [{"status": "RUNNING"}, {"status": "SUCCEEDED", "output": "1"}])
def test_resumed_twice_the_first_resumption_is_found(service: Service, ended: dict[str, Any]) -> None:
    failed = service.add(handle("etl"))
    first = resume_run(service.client, failed)
    service.executions[first.handle].update(ended)
    assert resume_run(service.client, failed).handle == first.handle
    assert service.names() == ["a", "a-r1"]


def test_a_resumption_that_failed_is_followed_by_another(service: Service) -> None:
    failed = service.add(handle("etl"), document={"run_id": "first"})
    for number in (1, 2, 3):
        resumed = resume_run(service.client, failed)
        assert (resumed.name, resumed.run_id) == (f"a-r{number}", "first")
        service.executions[resumed.handle]["status"] = "FAILED"
    assert resume_run(service.client, handle("etl", "a-r3")).run_id == "first"


def test_a_resumption_that_fails_at_once_is_not_repeated(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = service.start_execution

    def start_and_fail(**options: Any) -> dict[str, Any]:
        answer = start(**options)
        service.executions[answer["executionArn"]]["status"] = "FAILED"
        return answer

    monkeypatch.setattr(service, "start_execution", start_and_fail)
    assert resume_run(service.client, service.add(handle("etl"))).name == "a-r1"
    assert service.names() == ["a", "a-r1"]


def test_resumed_twice_at_once_by_redrives_no_other_run_starts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = service.add(handle("etl"))

    def too_late(**_: Any) -> None:
        service.executions[failed]["status"] = "RUNNING"
        raise client_error("ExecutionNotRedrivable", "RedriveExecution")

    monkeypatch.setattr(service, "redrive_execution", too_late)
    assert resume_run(service.client, failed).handle == failed
    assert service.names() == ["a"]


def test_names_stay_legal_and_resumptions_of_long_ones_apart(service: Service) -> None:
    first, second = (service.add(handle("etl", "x" * 78 + end)) for end in ("-1", "-2"))
    resumed = [resume_run(service.client, failed) for failed in (first, second)]
    assert [len(run.name) for run in resumed] == [80, 80]
    assert [run.run_id for run in resumed] == ["x" * 78 + "-1", "x" * 78 + "-2"]
    assert resume_run(service.client, first).handle == resumed[0].handle
    assert resume_run(service.client, second).handle == resumed[1].handle


def test_an_input_without_a_place_for_the_run_id_is_said(service: Service) -> None:
    with pytest.raises(RunError, match="the input of a is no JSON object"):
        resume_run(service.client, service.add(handle("etl"), document=[1]))
