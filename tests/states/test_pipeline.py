"""Every path of the machine `pipeline`: each guard, crashes and resumptions, classes of errors."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import DIED, TRANSIENT, Failure, Run, StateMachine, lambda_result

FINAL = ["RequestError", "ServiceError", "CheckpointError", "Lambda.ResourceNotFoundException"]

SERVICES = ["language", "sentiment", "keywords"]
DONE = {"MessageId": "1"}


@pytest.fixture
def pipeline(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("pipeline")


def plan(**changes: Any) -> dict[str, Any]:
    found = {
        "request_id": "r",
        "services": SERVICES,
        "first": 0,
        "skip": [],
        "finished": [],
        "output": {"document": {"text": "t"}},
    }
    return lambda_result({**found, **changes})


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
    found = run(pipeline, plan())

    assert found.path == ["Preprocess", *["Next service?", "Run service"] * 3, "Next service?", "Notify"]
    assert services_run(found) == SERVICES
    assert found.output == {
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
def test_what_is_listed_in_skip_is_passed_by(pipeline: StateMachine, skip: list[str]) -> None:
    found = run(pipeline, plan(skip=skip))

    assert statuses(found) == {name: "skipped" if name in skip else "run" for name in SERVICES}
    assert services_run(found) == [name for name in SERVICES if name not in skip]


@pytest.mark.parametrize("first", range(3))
def test_what_comes_before_start_at_is_passed_by(pipeline: StateMachine, first: int) -> None:
    found = run(pipeline, plan(first=first, finished=SERVICES[:first]))

    assert services_run(found) == SERVICES[first:]
    assert list(statuses(found).values()) == ["before start_at"] * first + ["run"] * (3 - first)


@pytest.mark.parametrize("finished", [["language"], ["keywords"], ["language", "keywords"], SERVICES])
def test_what_has_a_checkpoint_is_passed_by(pipeline: StateMachine, finished: list[str]) -> None:
    found = run(pipeline, plan(finished=finished))

    assert statuses(found) == {name: "finished before" if name in finished else "run" for name in SERVICES}


def test_where_nothing_is_left_the_output_is_the_plans(pipeline: StateMachine) -> None:
    found = run(pipeline, plan(finished=SERVICES, output={"key": "runs/pipeline.r/output/1.json"}))

    assert found.path == ["Preprocess", *["Next service?", "Pass by"] * 3, "Next service?", "Notify"]
    assert found.output["key"] == "runs/pipeline.r/output/1.json"


def test_the_guards_reasons_come_in_this_order(pipeline: StateMachine) -> None:
    found = run(pipeline, plan(skip=["language"], first=2, finished=["language", "sentiment", "keywords"]))

    assert list(statuses(found).values()) == ["skipped", "before start_at", "finished before"]


# --- a crash at each service, and the run that goes on ---


@pytest.mark.parametrize("crash", SERVICES)
def test_a_run_after_a_crash_does_only_what_is_left(pipeline: StateMachine, crash: str) -> None:
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
    found = run(pipeline, plan(), notify=[Failure(error), Failure(error), DONE])

    assert found.status == "SUCCEEDED"
    assert services_run(found) == SERVICES


def test_a_notification_that_cannot_be_sent_fails_the_run(pipeline: StateMachine) -> None:
    found = run(pipeline, plan(), notify=Failure("SNS.AuthorizationErrorException", "no right to"))

    assert (found.status, found.error, found.cause) == (
        "FAILED",
        "SNS.AuthorizationErrorException",
        "no right to",
    )
    assert len(found.attempts("Notify")) == 6


# --- errors ---


@pytest.mark.parametrize("error", [*TRANSIENT, *DIED])
def test_preprocess_is_retried(pipeline: StateMachine, error: str) -> None:
    found = run(pipeline, [Failure(error), plan()])

    assert found.status == "SUCCEEDED"
    assert services_run(found) == SERVICES


@pytest.mark.parametrize("error", [*TRANSIENT, *DIED])
def test_a_service_is_retried(pipeline: StateMachine, error: str) -> None:
    attempts: list[str] = []

    def fail_first(arguments: Any) -> Any:
        attempts.append(arguments["Payload"]["service"])
        return Failure(error) if attempts == ["language"] else finish(arguments)

    assert run(pipeline, plan(), fail_first).status == "SUCCEEDED"
    assert attempts == ["language", *SERVICES]


@pytest.mark.parametrize(("error", "attempts"), [("TransientError", 6), ("States.Timeout", 2)])
def test_a_service_is_given_up_in_the_end(pipeline: StateMachine, error: str, attempts: int) -> None:
    found = run(pipeline, plan(), Failure(error))

    assert (found.status, found.error) == ("FAILED", error)
    assert services_run(found) == ["language"] * attempts


@pytest.mark.parametrize("error", FINAL)
def test_what_would_fail_again_fails_the_run_at_once(pipeline: StateMachine, error: str) -> None:
    at_preprocess = run(pipeline, Failure(error, "at $.skip[0]"))
    at_service = run(pipeline, plan(), Failure(error, "sentiment: no"))

    assert (at_preprocess.error, at_preprocess.cause) == (error, "at $.skip[0]")
    assert len(at_preprocess.tasks) == 1
    assert (at_service.error, at_service.cause) == (error, "sentiment: no")
    assert services_run(at_service) == ["language"]
