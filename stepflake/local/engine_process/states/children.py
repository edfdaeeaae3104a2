"""Executions that a Task starts with .sync: it waits for their end, and stops them where it is stopped.

https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states.attempts import Execution, running_attempt, to_text


def start_child(resource: str, arguments: Any) -> Any:
    """The call of a Task with .sync, which only starts the execution, as one without .sync does."""
    return stepfunctions._invoke_nested_start_execution(resource, arguments)


def on_end(arn: str, tell: Callable[[], None]) -> None:
    """Calls `tell` once the execution has ended, which may be now."""
    attempt = running_attempt(arn)
    if attempt is None:
        tell()
    else:
        attempt.on_end(tell)


def has_ended(arn: str) -> bool:
    """Whether the execution does not run."""
    return bool(stepfunctions._executions[arn]["status"] != "RUNNING")


def stop_child(parent: Execution, arn: str) -> None:
    """Stops a child whose Task was stopped. AWS tries this once, with the role of the parent's machine."""
    if not has_ended(arn):
        stepfunctions._stop_execution({"executionArn": arn})


def child_result(arn: str, resource: str) -> Any:
    """The Task's result once the child has succeeded; .sync:2 gives its output as JSON, .sync as a string.

    Raises States.TaskFailed, whose cause describes the child.
    """
    child = stepfunctions._executions[arn]
    described = _describe(child)
    if child["status"] != "SUCCEEDED":
        failure = {"Error": child.get("error"), "Cause": child.get("cause")}
        known = {name: value for name, value in failure.items() if value}
        raise stepfunctions._ExecutionError("States.TaskFailed", to_text({**known, **described}))
    output = child["output"]
    if resource.endswith(".sync:2"):
        output = json.loads(output)
    return {**described, "Output": output, "OutputDetails": {"Included": True}}


def _describe(child: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ExecutionArn": child["executionArn"],
        "Input": child["input"],
        "InputDetails": {"Included": True},
        "Name": child["name"],
        "StartDate": stepfunctions._iso_to_epoch_ms(child["startDate"]),
        "StateMachineArn": child["stateMachineArn"],
        "Status": child["status"],
        "StopDate": stepfunctions._iso_to_epoch_ms(child["stopDate"]),
    }
