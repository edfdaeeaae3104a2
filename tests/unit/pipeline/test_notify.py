"""The message about a failed run of the pipeline."""

import json
from typing import Any

import pytest

from pipeline import notify
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.step_functions import execution_arn

EXECUTION = execution_arn("pipeline", "run-1")
CAUSE = json.dumps(
    {"errorMessage": "sentiment: KeyError: 'x'", "errorType": "ServiceError", "stackTrace": ["..."]}
)


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


def test_a_failure_is_published_with_its_request_and_cause(aws: FakeAws) -> None:
    notify.handler(event(), CONTEXT)

    (published,) = aws.sns.published
    assert published.attributes == {"status": {"DataType": "String", "StringValue": "FAILED"}}
    assert json.loads(published.text) == {
        "status": "FAILED",
        "request_id": "r-1",
        "execution": EXECUTION,
        "error": "ServiceError",
        "cause": "sentiment: KeyError: 'x'",
    }


@pytest.mark.parametrize("status", ["TIMED_OUT", "ABORTED"])
def test_a_timeout_and_a_stop_are_published_as_well(aws: FakeAws, status: str) -> None:
    notify.handler(event(status=status, error=None, cause=None), CONTEXT)

    message = json.loads(aws.sns.published[0].text)
    assert (message["status"], message["error"], message["cause"]) == (status, status, "")


@pytest.mark.parametrize("given", ['{"document":{"text":"x"}}', '"r-1"', "[]", '{"request_id":7}'])
def test_a_request_without_an_id_has_its_executions_name(aws: FakeAws, given: str) -> None:
    notify.handler(event(input=given), CONTEXT)

    assert json.loads(aws.sns.published[0].text)["request_id"] == "run-1"


def test_an_input_too_large_for_the_event_is_read_from_the_execution(aws: FakeAws) -> None:
    aws.step_functions.add("pipeline", "run-1", "FAILED", {"request_id": "r-1"})

    notify.handler(event(input=None), CONTEXT)

    assert json.loads(aws.sns.published[0].text)["request_id"] == "r-1"


def test_an_event_without_any_of_the_runs_data_is_published_with_that_of_the_execution(aws: FakeAws) -> None:
    failed = {"error": "ServiceError", "cause": CAUSE}
    aws.step_functions.add("pipeline", "run-1", "FAILED", {"request_id": "r-1"}, **failed)

    notify.handler(event(input=None, error=None, cause=None), CONTEXT)

    message = json.loads(aws.sns.published[0].text)
    assert (message["request_id"], message["error"]) == ("r-1", "ServiceError")
    assert message["cause"] == "sentiment: KeyError: 'x'"
