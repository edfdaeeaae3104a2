"""Publishes to the pipeline's topic that a run failed, timed out or was stopped.

An event of Step Functions invokes it, not a state of the machine: a Catch would have to end in a Fail state,
where a redrive would start, and no state runs after a timeout or a stop.
"""

import json
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.clients import sns
from core.executions import describe_execution, short_cause
from core.settings import setting

logger = Logger()


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Publishes the end of the run in a "Step Functions Execution Status Change" event."""
    detail = event["detail"]
    # What an event leaves out, such as an input that is large, is read from the execution.
    # https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    execution = None if detail.get("input") else describe_execution(detail["executionArn"])
    document = execution.input if execution else json.loads(detail.get("input") or "null")
    message = {
        "status": detail["status"],
        "request_id": find_request_id(document) or detail["name"],
        "execution": detail["executionArn"],
        "error": detail.get("error") or (execution and execution.error) or detail["status"],
        "cause": short_cause(detail.get("cause") or (execution and execution.cause) or ""),
    }
    sns().publish(
        TopicArn=setting("PIPELINE_TOPIC"),
        Message=json.dumps(message),
        MessageAttributes={"status": {"DataType": "String", "StringValue": detail["status"]}},
    )
    logger.info("notified", extra={"execution": detail["name"], "status": detail["status"]})


def find_request_id(document: Any) -> str | None:
    """The request id that a run's input names; preprocess gives the execution's name to a run without one."""
    given = document.get("request_id") if isinstance(document, dict) else None
    return given if isinstance(given, str) else None
