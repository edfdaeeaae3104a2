"""Every path of the machine `fan_out`: groups, tasks that fail or time out, and a redrive."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.states.state_machine import (
    DIED,
    TASK_TOKEN,
    THROTTLED,
    TRANSIENT,
    Failure,
    StateMachine,
    lambda_result,
)

OUTPUT = {"tasks": 3, "succeeded": 3, "failed": 0}
INPUT = {"names": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}


@pytest.fixture
def fan_out(machine: Callable[..., StateMachine]) -> StateMachine:
    return machine("fan_out")


def plan(*groups: list[int]) -> dict[str, Any]:
    """What `split` answers."""
    shared = {"run_id": "r", "round": "e/0"}
    planned = [{**shared, "service": "hostname", "tasks": numbers} for numbers in groups]
    return lambda_result({**shared, "tasks": 3, "on_task_error": "fail", "groups": planned})


@pytest.mark.parametrize("groups", [[[0, 1, 2]], [[0, 1], [2]], [[1]], []])
def test_each_task_of_each_group_is_queued_once_with_a_token(
    fan_out: StateMachine, groups: list[list[int]]
) -> None:
    run = fan_out.run(INPUT, {"Split": plan(*groups), "Queue task": {}, "Join": lambda_result(OUTPUT)})

    assert (run.status, run.output) == ("SUCCEEDED", OUTPUT)
    queued = sorted(run.attempts("Queue task"), key=lambda call: call["MessageBody"]["number"])
    assert queued == [
        {
            "QueueUrl": "TaskQueueUrl",
            "MessageBody": {
                "run_id": "r",
                "number": number,
                "round": "e/0",
                "service": "hostname",
                "token": TASK_TOKEN,
            },
        }
        for group in groups
        for number in group
    ]


def test_split_gets_the_input_and_the_execution_s_name_for_a_run_id(fan_out: StateMachine) -> None:
    run = fan_out.run(INPUT, {"Split": plan(), "Join": lambda_result(OUTPUT)})

    [split], [join] = run.attempts("Split"), run.attempts("Join")
    assert (split["FunctionName"], join["FunctionName"]) == ("SplitFunctionArn", "JoinFunctionArn")
    assert split["Payload"]["input"] == INPUT
    assert split["Payload"]["round"] == split["Payload"]["run_id"] + "/0"
    assert join["Payload"] == {
        "plan": {"run_id": "r", "round": "e/0", "tasks": 3, "on_task_error": "fail"},
        "round": split["Payload"]["round"],
    }


def test_split_gets_the_run_id_of_the_input(fan_out: StateMachine) -> None:
    run = fan_out.run({**INPUT, "run_id": "mine"}, {"Split": plan(), "Join": lambda_result(OUTPUT)})

    assert run.attempts("Split")[0]["Payload"]["run_id"] == "mine"


@pytest.mark.parametrize(
    ("failure", "cause"),
    [(Failure("ServiceError", "hostname: no"), "hostname: no"), (Failure("States.Timeout", ""), "")],
)
def test_a_task_that_fails_is_recorded_and_the_others_continue(
    fan_out: StateMachine, failure: Failure, cause: str
) -> None:
    def queue(arguments: Any) -> Any:
        return failure if arguments["MessageBody"]["number"] == 1 else {}

    run = fan_out.run(
        INPUT,
        {
            "Split": plan([0, 1, 2]),
            "Queue task": queue,
            "Fail task": lambda_result(None),
            "Join": lambda_result(OUTPUT),
        },
    )

    assert (run.status, run.output) == ("SUCCEEDED", OUTPUT)
    assert len(run.attempts("Queue task")) == 3
    assert run.attempts("Fail task") == [
        {
            "FunctionName": "FailTaskFunctionArn",
            "Payload": {
                "run_id": "r",
                "number": 1,
                "round": "e/0",
                "service": "hostname",
                "error": failure.error,
                "cause": cause,
            },
        }
    ]


def test_a_redrive_plans_the_failed_tasks_again(fan_out: StateMachine) -> None:
    run = fan_out.run(
        INPUT,
        {
            "Split": [plan([0, 1, 2]), plan([1])],
            "Queue task": {},
            "Join": [Failure("Redriven"), lambda_result(OUTPUT)],
        },
    )

    assert (run.status, run.output) == ("SUCCEEDED", OUTPUT)
    assert len(run.attempts("Queue task")) == 4
    split = run.attempts("Split")
    assert split[0] == split[1]


def test_failed_tasks_fail_the_run_with_the_error_of_join(fan_out: StateMachine) -> None:
    run = fan_out.run(
        INPUT, {"Split": plan([0]), "Queue task": {}, "Join": Failure("TaskFailed", "1 of 3 tasks failed")}
    )

    assert (run.status, run.error, run.cause) == ("FAILED", "TaskFailed", "1 of 3 tasks failed")
    assert len(run.attempts("Join")) == 1


@pytest.mark.parametrize("error", TRANSIENT + DIED)
@pytest.mark.parametrize("state", ["Split", "Fail task", "Join"])
def test_a_transient_error_is_retried_four_times(fan_out: StateMachine, state: str, error: str) -> None:
    variables: dict[str, Any] = {"plan": {}}

    retried = fan_out.test(state, INPUT, variables=variables, failure=Failure(error), retries=3)
    failed = fan_out.test(state, INPUT, variables=variables, failure=Failure(error), retries=4)

    assert (retried.status, failed.status) == ("RETRIABLE", "FAILED")


@pytest.mark.parametrize(("state", "retries"), [("Split", 35), ("Fail task", 12), ("Join", 35)])
def test_a_throttled_lambda_is_tried_for_minutes(fan_out: StateMachine, state: str, retries: int) -> None:
    failure = Failure(THROTTLED)
    variables: dict[str, Any] = {"plan": {}}

    retried = fan_out.test(state, INPUT, variables=variables, failure=failure, retries=retries - 1)
    failed = fan_out.test(state, INPUT, variables=variables, failure=failure, retries=retries)

    assert (retried.status, failed.status) == ("RETRIABLE", "FAILED")


@pytest.mark.parametrize("error", ["SQS.SdkClientException", "SQS.AmazonSQSException"])
def test_a_message_that_is_not_sent_is_sent_again_five_times(fan_out: StateMachine, error: str) -> None:
    retried = fan_out.test("Queue task", {}, failure=Failure(error), retries=4)
    given_up = fan_out.test("Queue task", {}, failure=Failure(error), retries=5)

    assert retried.status == "RETRIABLE"
    assert (given_up.status, given_up.next_state) == ("CAUGHT_ERROR", "Fail task")


@pytest.mark.parametrize("error", ["ServiceError", "WorkerDied", "States.Timeout"])
def test_a_worker_s_failure_and_a_timeout_are_not_retried(fan_out: StateMachine, error: str) -> None:
    result = fan_out.test("Queue task", {}, failure=Failure(error))

    assert (result.status, result.next_state) == ("CAUGHT_ERROR", "Fail task")


@pytest.mark.parametrize("error", ["InputError", "RunConflict", "UnknownService"])
def test_bad_input_is_final(fan_out: StateMachine, error: str) -> None:
    result = fan_out.test("Split", INPUT, failure=Failure(error, "no"))

    assert (result.status, result.error, result.cause) == ("FAILED", error, "no")
