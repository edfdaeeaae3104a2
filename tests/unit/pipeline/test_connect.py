"""Messages on the pipeline's queues: which run each starts, and which are refused."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core import executions
from core.settings import settings
from pipeline import connect
from tests.unit.fake_aws import client_error

QUEUE = "arn:aws:sqs:us-east-1:123456789012:my-stack-pipeline-sentiment"
MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:my-stack-pipeline"
MESSAGE_ID = "059f36b4-87a3-44ab-83d2-661975830a7d"
NOTIFICATION_ID = "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"


class StepFunctions:
    """The pipeline's executions by name."""

    def __init__(self) -> None:
        self.inputs: dict[str, Any] = {}
        self.error = ""

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:
        assert stateMachineArn == MACHINE
        if self.error or name in self.inputs:
            raise client_error(self.error or "ExecutionAlreadyExists", "StartExecution")
        self.inputs[name] = json.loads(input)
        return {}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[StepFunctions]:
    fake = StepFunctions()
    for name, value in {
        "BUCKET": "bucket",
        "TABLE": "table",
        "STATE_MACHINE_PREFIX": MACHINE.removesuffix("pipeline"),
        "POST_WAIT_SECONDS": "0",
        "GET_WAIT_SECONDS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(executions, "stepfunctions", lambda: fake)
    settings.cache_clear()
    yield fake
    settings.cache_clear()


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reasons that were logged."""
    reasons: list[str] = []
    monkeypatch.setattr(connect.logger, "warning", lambda _, extra: reasons.append(extra["reason"]))
    return reasons


def published(message: str) -> str:
    """As SNS hands it to a queue."""
    return json.dumps({"Type": "Notification", "MessageId": NOTIFICATION_ID, "Message": message})


def deliver(*bodies: str) -> list[Any]:
    """Hands the messages to the Lambda; returns the ids of those that come again."""
    records = [
        {
            "messageId": f"{number}{MESSAGE_ID}",
            "body": body,
            "eventSourceARN": QUEUE,
            "eventSource": "aws:sqs",
        }
        for number, body in enumerate(bodies)
    ]
    answer = connect.handler({"Records": records}, None)
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


def test_a_published_message_starts_the_run_at_the_queues_service(started: StepFunctions) -> None:
    assert deliver(published('{"request_id": "r-1"}')) == []

    assert started.inputs == {f"sentiment-{NOTIFICATION_ID}": {"request_id": "r-1", "start_at": "sentiment"}}


def test_a_message_sent_to_the_queue_itself_counts_as_well(started: StepFunctions) -> None:
    assert deliver('{"request_id": "r-1", "skip": ["language"]}') == []

    run = {"request_id": "r-1", "skip": ["language"], "start_at": "sentiment"}
    assert started.inputs == {f"sentiment-0{MESSAGE_ID}": run}


def test_what_sns_delivers_twice_starts_one_run(started: StepFunctions) -> None:
    body = published('{"request_id": "r-1"}')

    assert deliver(body, body) == []
    assert deliver(body) == []

    assert len(started.inputs) == 1


def test_a_name_is_legal_for_an_execution(started: StepFunctions) -> None:
    deliver(published('{"request_id": "r-1"}'))

    assert all(len(name) <= 80 and name.replace("-", "").isalnum() for name in started.inputs)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", "the message is not JSON"),
        ("[]", "the message must be a JSON object"),
        ("{}", "at $"),
        ('{"request_id": 7}', "at $.request_id"),
        ('{"request_id": "r-1", "secret": "x"}', "at $"),
        ('{"request_id": "r-1", "start_at": "language"}', "at $.start_at"),
    ],
)
@pytest.mark.parametrize("wrap", [str, published], ids=["queue", "topic"])
def test_a_malformed_message_comes_again_and_the_others_do_not(
    started: StepFunctions, warned: list[str], wrap: Callable[[str], str], message: str, reason: str
) -> None:
    assert deliver(wrap(message), '{"request_id": "r-2"}') == [f"0{MESSAGE_ID}"]

    assert [run["request_id"] for run in started.inputs.values()] == ["r-2"]
    assert warned == [reason]


def test_nothing_of_a_message_is_logged(started: StepFunctions, warned: list[str]) -> None:
    deliver('{"request_id": "r-1", "document": {"text": ["secret"]}}')

    assert warned == ["at $.document.text"]


@pytest.mark.parametrize("code", ["ThrottlingException", "StateMachineDoesNotExist"])
def test_a_run_that_cannot_be_started_now_comes_again(started: StepFunctions, code: str) -> None:
    started.error = code

    assert deliver('{"request_id": "r-1"}') == [f"0{MESSAGE_ID}"]
