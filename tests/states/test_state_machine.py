"""The harness: the engine runs the machine, and a test without an answer that is needed fails."""

from typing import Any

import pytest
from mypy_boto3_stepfunctions import SFNClient

from tests.states.state_machine import TASK_TOKEN, Failure, StateMachine

RETRY = [{"ErrorEquals": ["Busy"], "MaxAttempts": 1, "IntervalSeconds": 3600}]


def task(arguments: Any, **fields: Any) -> dict[str, Any]:
    resource = "arn:aws:states:::sqs:sendMessage.waitForTaskToken"
    return {"Type": "Task", "Resource": resource, "Arguments": arguments, "TimeoutSeconds": 60, **fields}


@pytest.fixture
def everything(step_functions: SFNClient) -> StateMachine:
    """A callback, variables, a long wait, a Parallel with tasks on both sides, and a catcher."""
    states = {
        "Ask": task(
            {"token": "{% $states.context.Task.Token %}", "q": "{% $states.input.q %}"},
            Retry=RETRY,
            Assign={"answer": "{% $states.result.said %}"},
            Output={"heard": "{% $states.result.said %}"},
            Next="Wait",
        ),
        "Wait": {"Type": "Wait", "Seconds": 86400, "Next": "Both"},
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "Left", "States": {"Left": task("{% $answer & ' left' %}", End=True)}},
                {"StartAt": "Right", "States": {"Right": task("{% $answer & ' right' %}", End=True)}},
            ],
            "Catch": [
                {
                    "ErrorEquals": ["States.ALL"],
                    "Output": "{% $states.errorOutput.Cause %}",
                    "Next": "Mend",
                }
            ],
            "Next": "Join",
        },
        "Join": {"Type": "Pass", "Output": "{% $sort($states.input) %}", "End": True},
        "Mend": {"Type": "Pass", "Output": "{% 'mended: ' & $states.input %}", "End": True},
        "Given": {"Type": "Pass", "Output": "{% $answer & $states.context.Note %}", "End": True},
    }
    return StateMachine(step_functions, {"QueryLanguage": "JSONata", "StartAt": "Ask", "States": states})


def test_a_run_passes_through_every_kind_of_state(everything: StateMachine) -> None:
    run = everything.run(
        {"q": "up?"}, {"Ask": [Failure("Busy"), {"said": "yes"}], "Left": lambda said: said, "Right": "r"}
    )

    assert (run.status, run.output) == ("SUCCEEDED", ["r", "yes left"])
    assert run.path == ["Ask", "Wait", "Both", "Join"]
    assert run.attempts("Ask") == [{"token": TASK_TOKEN, "q": "up?"}] * 2
    assert run.attempts("Right") == ["yes right"]


def test_a_run_shows_what_is_caught(everything: StateMachine) -> None:
    answers = {"Ask": {"said": "yes"}, "Left": "l", "Right": Failure("Bad", "why")}

    assert everything.run({"q": 1}, answers).output == "mended: why"


def test_a_run_shows_an_expression_that_fails(everything: StateMachine) -> None:
    run = everything.run({}, {"Ask": {"said": "yes"}})

    assert (run.status, run.error) == ("FAILED", "States.QueryEvaluationError")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({}, "no answer for the Task 'Ask'"),
        ({"Ask": [Failure("Busy")]}, "the Task 'Ask' was tried more than 1 times"),
        ({"Asks": 1}, "the Tasks are ['Ask', 'Left', 'Right']"),
    ],
)
def test_a_run_without_the_answers_it_needs_is_an_error(
    everything: StateMachine, answers: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError) as raised:
        everything.run({"q": 1}, answers)

    assert message in str(raised.value)


def test_one_state_is_given_variables_and_context(everything: StateMachine) -> None:
    result = everything.test("Given", {}, variables={"answer": "a"}, context={"Note": "b"})

    assert (result.status, result.output) == ("SUCCEEDED", "ab")


def test_a_state_inside_of_a_parallel_can_be_tested(everything: StateMachine) -> None:
    assert everything.test("Left", {}, failure=Failure("Bad")).status == "FAILED"


@pytest.mark.parametrize("state", ["Ask", "Both"])
def test_what_test_state_cannot_evaluate_is_an_error(everything: StateMachine, state: str) -> None:
    with pytest.raises(ValueError, match="use run"):
        everything.test(state, {})
