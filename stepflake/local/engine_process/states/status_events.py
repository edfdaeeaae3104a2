"""The events "Step Functions Execution Status Change", which EventBridge gets at each change.

https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
"""

import json
import logging
from typing import Any

from ministack.services import eventbridge, stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states.attempts import Execution
from stepflake.local.engine_process.states.flows import is_express
from stepflake.local.engine_process.states.redrive import redrive_fields

logger = logging.getLogger("states")

# Larger inputs and outputs are left out of the event.
_MAX_CHARACTERS = 248 * 1024


def send_status_event(execution: Execution) -> None:
    """Sends the status of a STANDARD execution; those of a Map Run's children and EXPRESS ones send none."""
    if execution.get("mapRunArn") or is_express(execution):
        return
    redrive: dict[str, Any] = {"redriveDate": None, "redriveStatusReason": None, **redrive_fields(execution)}
    redrive["redriveDate"] = stepfunctions._iso_to_epoch_ms(redrive["redriveDate"])
    detail = {
        **{name: execution[name] for name in ("executionArn", "stateMachineArn", "name", "status")},
        "startDate": stepfunctions._iso_to_epoch_ms(execution["startDate"]),
        "stopDate": stepfunctions._iso_to_epoch_ms(execution["stopDate"]),
        **_data("input", execution["input"]),
        **_data("output", execution["output"]),
        "stateMachineVersionArn": None,
        "stateMachineAliasArn": None,
        **redrive,
        "error": execution.get("error"),
        "cause": execution.get("cause"),
    }
    entry = {
        "Source": "aws.states",
        "DetailType": "Step Functions Execution Status Change",
        "Detail": json.dumps(detail),
        "Resources": [execution["executionArn"]],
    }
    try:
        eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)
    except Exception:  # as on AWS, an execution does not depend on its events
        logger.exception("No status event for %s", execution["executionArn"])


def _data(name: str, text: str | None) -> dict[str, Any]:
    if text is None:
        return {name: None, f"{name}Details": None}
    fits = len(text) <= _MAX_CHARACTERS
    return {name: text if fits else None, f"{name}Details": {"included": fits}}
