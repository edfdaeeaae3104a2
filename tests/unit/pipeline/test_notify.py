"""The message that says how a run of the pipeline failed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from core import executions
from core.settings import settings
from pipeline import notify

TOPIC = "arn:aws:sns:us-east-1:123456789012:stack-pipeline"
EXECUTION = "arn:aws:states:us-east-1:123456789012:execution:stack-pipeline:run-1"
CAUSE = json.dumps(
    {"errorMessage": "sentiment: KeyError: 'x'", "errorType": "ServiceError", "stackTrace": ["..."]}
)


class Sns:
    def __init__(self) -> None:
        self.published: list[dict[str, Any]] = []

    def publish(self, **request: Any) -> None:
        self.published.append(request)


@pytest.fixture
def sns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sns]:
    fake = Sns()
    monkeypatch.setenv("PIPELINE_TOPIC", TOPIC)
    monkeypatch.setattr(notify, "sns", lambda: fake)
    settings.cache_clear()
    yield fake
    settings.cache_clear()


def event(**detail: Any) -> dict[str, Any]:
    failed = {
        "executionArn": EXECUTION,
        "name": "run-1",
        "status": "FAILED",
        "input": '{"request_id":"r-1"}',
        "error": "ServiceError",
        "cause": CAUSE,
    }
    return {"detail-type": "Step Functions Execution Status Change", "detail": {**failed, **detail}}


def test_a_failure_is_told_with_its_request_and_cause(sns: Sns) -> None:
    notify.handler(event(), None)

    (published,) = sns.published
    assert published["TopicArn"] == TOPIC
    assert published["MessageAttributes"] == {"status": {"DataType": "String", "StringValue": "FAILED"}}
    assert json.loads(published["Message"]) == {
        "status": "FAILED",
        "request_id": "r-1",
        "execution": EXECUTION,
        "error": "ServiceError",
        "cause": "sentiment: KeyError: 'x'",
    }


@pytest.mark.parametrize("status", ["TIMED_OUT", "ABORTED"])
def test_what_no_state_can_tell_is_told_as_well(sns: Sns, status: str) -> None:
    notify.handler(event(status=status, error=None, cause=None), None)

    message = json.loads(sns.published[0]["Message"])
    assert (message["status"], message["error"], message["cause"]) == (status, status, "")


@pytest.mark.parametrize("given", ['{"document":{"text":"x"}}', '"r-1"', "[]", '{"request_id":7}'])
def test_a_request_without_an_id_has_its_executions_name(sns: Sns, given: str) -> None:
    notify.handler(event(input=given), None)

    assert json.loads(sns.published[0]["Message"])["request_id"] == "run-1"


def test_an_input_too_large_for_the_event_is_asked_for(sns: Sns, monkeypatch: pytest.MonkeyPatch) -> None:
    found = executions.Execution(EXECUTION, "FAILED", {"request_id": "r-1"}, None, "", "")
    monkeypatch.setattr(notify, "describe_execution", {EXECUTION: found}.get)

    notify.handler(event(input=None), None)

    assert json.loads(sns.published[0]["Message"])["request_id"] == "r-1"
