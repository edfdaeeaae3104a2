"""Messages on the pipeline's queues: which run each starts, and which are refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline import connect
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.invocations import redelivered, sqs_event
from tests.unit.fake_aws.sqs import CONNECTOR_DEAD_LETTERS

QUEUE = "stack-pipeline_sentiment"
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
    ("message", "cause"),
    [
        ("hello", "the message is not JSON: Expecting value"),
        ("[]", 'the message must be a JSON object: {"request_id": "..."}'),
        ("{}", "at $: 'document' is a required property, or 'request_id'"),
        ('{"request_id": 7}', "at $.request_id: 7 is not of type 'string'"),
        ('{"request_id": "r-1", "secret": "x"}', "at $: Additional properties are not allowed"),
        ('{"request_id": "r-1", "start_at": "language"}', "at $.start_at: this queue starts runs at"),
    ],
)
@pytest.mark.parametrize("wrap", [str, published], ids=["queue", "topic"])
def test_a_message_that_is_no_input_goes_to_the_dead_letter_queue_with_the_reason(
    aws: FakeAws, reasons: Reasons, wrap: Callable[[str], str], message: str, cause: str
) -> None:
    assert deliver(wrap(message), '{"request_id": "r-2"}') == []

    assert [run["request_id"] for run in started(aws).values()] == ["r-2"]
    (dead,) = aws.sqs.sent[CONNECTOR_DEAD_LETTERS]
    assert dead.body == wrap(message)
    assert dead.attributes["error"] == "MessageError"
    assert dead.attributes["cause"].startswith(cause)
    assert reasons() == [cause.partition(": ")[0]]


def test_a_reason_that_a_message_cannot_hold_is_made_readable(aws: FakeAws) -> None:
    assert deliver('{"request_id": "r-1", "document": {"bell\\u0007": 12345678901234567890}}') == []

    (dead,) = aws.sqs.sent[CONNECTOR_DEAD_LETTERS]
    assert dead.attributes["cause"].startswith("at $.document.bell?: 12345678901234567890 has more digits")


@pytest.mark.parametrize("operation", ["get_queue_url", "send_message"])
def test_a_message_that_cannot_be_put_there_is_delivered_again(aws: FakeAws, operation: str) -> None:
    aws.faults.fail(operation, "ThrottlingException")

    assert deliver("hello", '{"request_id": "r-2"}') == ["hello"]
    assert [run["request_id"] for run in started(aws).values()] == ["r-2"]


def test_nothing_of_a_message_is_logged(aws: FakeAws, reasons: Reasons, logged: Callable[[], str]) -> None:
    deliver('{"request_id": "r-1", "document": {"text": ["secret"]}}')

    assert reasons() == ["at $.document.text"]
    assert "secret" not in logged()


@pytest.mark.parametrize("code", ["ThrottlingException", "StateMachineDoesNotExist"])
def test_a_message_whose_run_cannot_be_started_is_delivered_again(aws: FakeAws, code: str) -> None:
    aws.faults.fail("start_execution", code)

    assert deliver('{"request_id": "r-1"}') == ['{"request_id": "r-1"}']
