"""Executions as the engine records them: new ones, those that run again, and what their states see."""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states.attempts import Execution

# https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
_FORBIDDEN = re.compile(
    r"[\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff\U0010ffff]"
)


def is_valid_name(name: str) -> bool:
    """Whether a name has none of the characters that Step Functions forbids in names."""
    return not _FORBIDDEN.search(name) and not any(unicodedata.category(each) == "Zs" for each in name)


def new_execution(
    machine: Mapping[str, Any], definition: Mapping[str, Any], arn: str, text: str
) -> Execution:
    """The record of an execution of a machine that starts now. `text`: its input.

    `definition`: the machine, or the version of it that is run.
    """
    started = stepfunctions.now_iso()
    details = {
        "input": text,
        "inputDetails": {"truncated": False},
        "roleArn": machine["roleArn"],
    }
    event = {
        "id": 1,
        "previousEventId": 0,
        "type": "ExecutionStarted",
        "timestamp": started,
        "executionStartedEventDetails": details,
    }
    encryption = definition.get("encryptionConfiguration") or stepfunctions._default_encryption()
    return {
        "executionArn": arn,
        "stateMachineArn": machine["stateMachineArn"],
        "name": arn.split(":")[7],
        "status": "RUNNING",
        "startDate": started,
        "stopDate": None,
        "input": text,
        "output": None,
        "redriveCount": 0,
        "encryptionConfiguration": encryption,
        "events": [event],
    }


def mark_redriven(execution: Execution) -> None:
    """Makes an execution that had ended one that runs again."""
    execution.pop("redrive", None)
    execution["redriveCount"] = execution.get("redriveCount", 0) + 1
    execution["redriveDate"] = stepfunctions.now_iso()
    execution.update(status="RUNNING", stopDate=None, output=None, error=None, cause=None)


def execution_context(execution: Execution, role: str) -> dict[str, Any]:
    """$states.context.Execution.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html
    """
    context = {
        "Id": execution["executionArn"],
        "Input": json.loads(execution["input"]),
        "Name": execution["name"],
        "RoleArn": role,
        "StartTime": execution["startDate"],
        "RedriveCount": execution.get("redriveCount", 0),
    }
    if execution.get("redriveDate"):
        context["RedriveTime"] = execution["redriveDate"]
    return context


def machine_context(execution: Execution, machine: Mapping[str, Any], query_language: str) -> dict[str, Any]:
    """$states.context at an execution's start, and what the engine's functions look for in it."""
    return {
        "QueryLanguage": query_language,
        "Execution": execution_context(execution, machine["roleArn"]),
        "StateMachine": {"Id": machine["stateMachineArn"], "Name": machine["name"]},
        "variables": {},
    }
