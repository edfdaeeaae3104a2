"""Messages on the pipeline's queues: which run each starts, and which are refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import connect
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import redelivered, sqs_event

QUEUE = "my-stack-pipeline-sentiment"
MESSAGE_ID = sqs_event(QUEUE, "")["Records"][0]["messageId"]
NOTIFICATION_ID = "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"

Reasons = Callable[[], list[str]]


def started(aws: FakeAws) -> dict[str, Any]:
    """The inputs of the pipeline's runs, by name."""
    executions = aws.step_functions.executions.values()
    assert {execution.machine for execution in executions} <= {"pipeline"}
    return {execution.name: json.loads(execution.input) for execution in executions}


@pytest.fixture
def reasons(logged: Callable[[], str]) -> Reasons:
    """The reasons for refused messages that were logged so far."""

    def read() -> list[str]:
        entries = [json.loads(line) for line in logged().splitlines()]
        return [entry["reason"] for entry in entries if entry["message"] == "message refused"]

    return read


def published(message: str) -> str:
    """A message as SNS sends it to a queue."""
    return json.dumps({"Type": "Notification", "MessageId": NOTIFICATION_ID, "Message": message})


def deliver(*bodies: str) -> list[str]:
    """Invokes the Lambda with the messages; returns those that SQS has to deliver again."""
    event = sqs_event(QUEUE, *bodies)
    return redelivered(event, connect.handler(event, CONTEXT))


def test_a_published_message_starts_the_run_at_the_queues_service(aws: FakeAws) -> None:
    assert deliver(published('{"request_id": "r-1"}')) == []

    assert started(aws) == {f"sentiment-{NOTIFICATION_ID}": {"request_id": "r-1", "start_at": "sentiment"}}


def test_a_message_sent_to_the_queue_directly_starts_a_run_too(aws: FakeAws) -> None:
    assert deliver('{"request_id": "r-1", "skip": ["language"]}') == []

    run = {"request_id": "r-1", "skip": ["language"], "start_at": "sentiment"}
    assert started(aws) == {f"sentiment-{MESSAGE_ID}": run}


def test_a_message_that_sns_delivers_twice_starts_one_run(aws: FakeAws) -> None:
    body = published('{"request_id": "r-1"}')

    assert deliver(body, body) == []
    assert deliver(body) == []

    assert len(started(aws)) == 1


def test_a_name_is_valid_for_an_execution(aws: FakeAws) -> None:
    deliver(published('{"request_id": "r-1"}'))

    assert all(len(name) <= 80 and name.replace("-", "").isalnum() for name in started(aws))


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
def test_a_malformed_message_is_delivered_again_and_the_others_are_not(
    aws: FakeAws, reasons: Reasons, wrap: Callable[[str], str], message: str, reason: str
) -> None:
    assert deliver(wrap(message), '{"request_id": "r-2"}') == [wrap(message)]

    assert [run["request_id"] for run in started(aws).values()] == ["r-2"]
    assert reasons() == [reason]


def test_nothing_of_a_message_is_logged(aws: FakeAws, reasons: Reasons, logged: Callable[[], str]) -> None:
    deliver('{"request_id": "r-1", "document": {"text": ["secret"]}}')

    assert reasons() == ["at $.document.text"]
    assert "secret" not in logged()


@pytest.mark.parametrize("code", ["ThrottlingException", "StateMachineDoesNotExist"])
def test_a_message_whose_run_cannot_be_started_is_delivered_again(aws: FakeAws, code: str) -> None:
    aws.faults.fail("start_execution", code)

    assert deliver('{"request_id": "r-1"}') == ['{"request_id": "r-1"}']
