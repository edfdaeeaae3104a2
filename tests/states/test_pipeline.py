"""Every path of the machine `pipeline`: each guard, crashes and resumptions, classes of errors."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import (
    DIED,
    RATE_LIMITED,
    THROTTLED,
    TRANSIENT,
    Failure,
    Run,
    StateMachine,
    lambda_result,
)

FINAL = ["RequestError", "ServiceError", "CheckpointError", "Lambda.ResourceNotFoundException"]

SERVICES = ["language", "sentiment", "keywords"]
DONE = {"MessageId": "1"}


@pytest.fixture
def pipeline(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("pipeline")


def plan(**changes: Any) -> dict[str, Any]:
    answer = {
        "request_id": "r",
        "services": SERVICES,
        "first": 0,
        "skip": [],
        "finished": [],
        "output": {"document": {"text": "t"}},
    }
    return lambda_result({**answer, **changes})


def finish(arguments: Any) -> dict[str, Any]:
    """What the Lambda `service` answers."""
    service = arguments["Payload"]["service"]
    return lambda_result({"service": service, "output": {"document": {"text": "t", "last": service}}})


def run(pipeline: StateMachine, planned: Any, service: Any = finish, notify: Any = DONE) -> Run:
    return pipeline.run(
        {"request_id": "r"}, {"Preprocess": planned, "Run service": service, "Notify": notify}
    )


def services_run(run: Run) -> list[str]:
    return [arguments["Payload"]["service"] for arguments in run.attempts("Run service")]


def statuses(run: Run) -> dict[str, str]:
    return {step["service"]: step["status"] for step in run.output["steps"]}


# --- what runs ---


def test_a_new_request_runs_through_all_services_in_order(pipeline: StateMachine) -> None:
    result = run(pipeline, plan())

    assert result.path == ["Preprocess", *["Next service?", "Run service"] * 3, "Next service?", "Notify"]
    assert services_run(result) == SERVICES
    assert result.output == {
        "request_id": "r",
        "steps": [{"service": name, "status": "run"} for name in SERVICES],
        "document": {"text": "t", "last": "keywords"},
    }


def test_preprocess_gets_the_executions_name_and_input(pipeline: StateMachine) -> None:
    (arguments,) = run(pipeline, plan()).attempts("Preprocess")

    assert arguments["FunctionName"] == "PreprocessFunctionArn"
    assert arguments["Payload"]["input"] == {"request_id": "r"}
    assert len(arguments["Payload"]["execution"]) > 0


def test_a_service_gets_its_request_and_the_order(pipeline: StateMachine) -> None:
    assert run(pipeline, plan()).attempts("Run service")[1] == {
        "FunctionName": "ServiceFunctionArn",
        "Payload": {"request_id": "r", "service": "sentiment", "services": SERVICES},
    }


def test_any_number_of_services_is_run(pipeline: StateMachine) -> None:
    assert services_run(run(pipeline, plan(services=["language"]))) == ["language"]
    many = [f"service{number}" for number in range(20)]
    assert services_run(run(pipeline, plan(services=many))) == many


@pytest.mark.parametrize("skip", [[], ["language"], ["sentiment", "keywords"], SERVICES])
def test_services_listed_in_skip_are_not_run(pipeline: StateMachine, skip: list[str]) -> None:
    result = run(pipeline, plan(skip=skip))

    assert statuses(result) == {name: "skipped" if name in skip else "run" for name in SERVICES}
    assert services_run(result) == [name for name in SERVICES if name not in skip]


@pytest.mark.parametrize("first", range(3))
def test_services_before_start_at_are_not_run(pipeline: StateMachine, first: int) -> None:
    result = run(pipeline, plan(first=first, finished=SERVICES[:first]))

    assert services_run(result) == SERVICES[first:]
    assert list(statuses(result).values()) == ["before start_at"] * first + ["run"] * (3 - first)


@pytest.mark.parametrize("finished", [["language"], ["keywords"], ["language", "keywords"], SERVICES])
def test_services_with_a_checkpoint_are_not_run(pipeline: StateMachine, finished: list[str]) -> None:
    result = run(pipeline, plan(finished=finished))

    assert statuses(result) == {name: "finished before" if name in finished else "run" for name in SERVICES}


def test_where_no_service_is_left_the_output_is_that_of_the_plan(pipeline: StateMachine) -> None:
    result = run(pipeline, plan(finished=SERVICES, output={"key": "runs/pipeline.r/output/1.json"}))

    assert result.path == ["Preprocess", *["Next service?", "Pass by"] * 3, "Next service?", "Notify"]
    assert result.output["key"] == "runs/pipeline.r/output/1.json"


def test_where_several_reasons_apply_the_first_is_reported(pipeline: StateMachine) -> None:
    result = run(pipeline, plan(skip=["language"], first=2, finished=["language", "sentiment", "keywords"]))

    assert list(statuses(result).values()) == ["skipped", "before start_at", "finished before"]


# --- a crash at each service, and the run that continues ---


@pytest.mark.parametrize("crash", SERVICES)
def test_a_run_after_a_crash_runs_only_the_remaining_services(pipeline: StateMachine, crash: str) -> None:
    finished: list[str] = []

    def die(arguments: Any) -> Any:
        if arguments["Payload"]["service"] == crash:
            return Failure("ServiceError")
        finished.append(arguments["Payload"]["service"])
        return finish(arguments)

    failed = run(pipeline, plan(), die)
    resumed = run(pipeline, plan(finished=finished))

    assert (failed.status, failed.error) == ("FAILED", "ServiceError")
    assert failed.path[-1] == "Run service"
    assert services_run(resumed) == SERVICES[SERVICES.index(crash) :]
    assert resumed.status == "SUCCEEDED"


# --- the notification ---


def test_the_end_is_published_without_the_document(pipeline: StateMachine) -> None:
    (arguments,) = run(pipeline, plan(finished=["language"])).attempts("Notify")

    assert arguments["TopicArn"] == "PipelineTopicArn"
    assert arguments["MessageAttributes"] == {"status": {"DataType": "String", "StringValue": "SUCCEEDED"}}
    message = json.loads(arguments["Message"])
    assert message.pop("execution").startswith("arn:aws:states:")
    assert message == {
        "status": "SUCCEEDED",
        "request_id": "r",
        "steps": [
            {"service": "language", "status": "finished before"},
            {"service": "sentiment", "status": "run"},
            {"service": "keywords", "status": "run"},
        ],
    }


@pytest.mark.parametrize("error", ["SNS.ThrottledException", "SNS.KMSDisabledException", "States.Timeout"])
def test_a_notification_that_fails_is_retried(pipeline: StateMachine, error: str) -> None:
    result = run(pipeline, plan(), notify=[Failure(error), Failure(error), DONE])

    assert result.status == "SUCCEEDED"
    assert services_run(result) == SERVICES


def test_a_notification_that_cannot_be_sent_fails_the_run(pipeline: StateMachine) -> None:
    result = run(pipeline, plan(), notify=Failure("SNS.AuthorizationErrorException", "no right to"))

    assert (result.status, result.error, result.cause) == (
        "FAILED",
        "SNS.AuthorizationErrorException",
        "no right to",
    )
    assert len(result.attempts("Notify")) == 6


# --- errors ---


@pytest.mark.parametrize("error", [*TRANSIENT, *DIED, THROTTLED])
def test_preprocess_is_retried(pipeline: StateMachine, error: str) -> None:
    result = run(pipeline, [Failure(error), plan()])

    assert result.status == "SUCCEEDED"
    assert services_run(result) == SERVICES


@pytest.mark.parametrize("error", [*TRANSIENT, *DIED, THROTTLED, RATE_LIMITED])
def test_a_service_is_retried(pipeline: StateMachine, error: str) -> None:
    attempts: list[str] = []

    def fail_first(arguments: Any) -> Any:
        attempts.append(arguments["Payload"]["service"])
        return Failure(error) if attempts == ["language"] else finish(arguments)

    assert run(pipeline, plan(), fail_first).status == "SUCCEEDED"
    assert attempts == ["language", *SERVICES]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [("TransientError", 6), ("States.Timeout", 2), (THROTTLED, 36), (RATE_LIMITED, 36)],
)
def test_the_retries_of_a_service_are_limited(pipeline: StateMachine, error: str, attempts: int) -> None:
    result = run(pipeline, plan(), Failure(error))

    assert (result.status, result.error) == ("FAILED", error)
    assert services_run(result) == ["language"] * attempts


@pytest.mark.parametrize("error", FINAL)
def test_a_final_error_fails_the_run_at_once(pipeline: StateMachine, error: str) -> None:
    at_preprocess = run(pipeline, Failure(error, "at $.skip[0]"))
    at_service = run(pipeline, plan(), Failure(error, "sentiment: no"))

    assert (at_preprocess.error, at_preprocess.cause) == (error, "at $.skip[0]")
    assert len(at_preprocess.tasks) == 1
    assert (at_service.error, at_service.cause) == (error, "sentiment: no")
    assert services_run(at_service) == ["language"]
