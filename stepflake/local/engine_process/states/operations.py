"""Step Functions' operations on executions: start, describe, stop and redrive.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html and its neighbours.
"""

import contextvars
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.states.attempts import (
    Attempt,
    Execution,
    StoppedError,
    is_express,
    running_attempt,
    to_text,
)
from stepflake.local.engine_process.states.executions import (
    is_valid_name,
    machine_context,
    mark_redriven,
    new_execution,
)
from stepflake.local.engine_process.states.flows import run_flow
from stepflake.local.engine_process.states.positions import Position
from stepflake.local.engine_process.states.redrive import (
    MAX_CLIENT_TOKENS,
    redrive_fields,
    why_not_redrivable,
)
from stepflake.local.engine_process.states.tokens import Answer, refuse

logger = logging.getLogger("states")

D = TypeVar("D")
R = TypeVar("R")

# An EXPRESS execution runs at most so long.
# https://docs.aws.amazon.com/step-functions/latest/dg/choosing-workflow-type.html
MAX_EXPRESS_SECONDS = 300

# Two requests for one name come at the same time.
_lock = threading.Lock()


class _RefusedError(Exception):
    """A request that is answered with an error. `code`: of the error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _refusing(operation: Callable[[D], R]) -> Callable[[D], R | Answer]:
    """An operation whose _RefusedError is its answer."""

    @wraps(operation)
    def answered(data: D) -> R | Answer:
        try:
            return operation(data)
        except _RefusedError as error:
            return refuse(error.code, str(error))

    return answered


@_refusing
def start_execution(data: dict[str, Any]) -> Answer:
    """StartExecution. The same name and input, while the execution runs, are answered as the first time."""
    machine, definition = _find_machine(data)
    name, text = _check_start(data)
    prefix = machine["stateMachineArn"].replace(":stateMachine:", ":execution:")
    arn = f"{prefix}:{name}"
    if machine.get("type") == "EXPRESS":
        arn = f"{arn.replace(':execution:', ':express:')}:{stepfunctions.new_uuid()}"
    with _lock:
        earlier = stepfunctions._executions.get(arn)
        if earlier is None:
            execution = new_execution(machine, definition, arn, text)
            attempt = _new_attempt(execution, machine, definition["definition"], Position())
            # An EXPRESS execution cannot be described.
            if not is_express(execution):
                stepfunctions._executions[arn] = execution
    if earlier is not None:
        if earlier["status"] == "RUNNING" and earlier["input"] == text:
            return _json({"executionArn": arn, "startDate": earlier["startDate"]})
        return refuse("ExecutionAlreadyExists", f"Execution Already Exists: '{arn}'")
    stepfunctions._emit_execution_status_event(execution)
    _in_background(attempt)
    return _json({"executionArn": arn, "startDate": execution["startDate"]})


@_refusing
def start_sync_execution(data: dict[str, Any]) -> Answer:
    """StartSyncExecution, which only EXPRESS machines have; answers when the execution has ended."""
    machine, definition = _find_machine(data)
    if machine.get("type") != "EXPRESS":
        message = "This operation is not supported by this type of state machine"
        raise _RefusedError("StateMachineTypeNotSupported", message)
    name, text = _check_start(data)
    prefix = machine["stateMachineArn"].replace(":stateMachine:", ":express:")
    arn = f"{prefix}:{name}:{stepfunctions.new_uuid()}"
    execution = new_execution(machine, definition, arn, text)
    _run(_new_attempt(execution, machine, definition["definition"], Position()))
    fields = ("executionArn", "stateMachineArn", "name", "startDate", "stopDate", "status", "input", "output")
    answer = {
        field: execution[field] for field in (*fields, "error", "cause") if execution[field] is not None
    }
    return _json({**answer, "inputDetails": {"included": True}, "outputDetails": {"included": True}})


@_refusing
def describe_execution(data: dict[str, Any]) -> Answer:
    """DescribeExecution."""
    arn = data.get("executionArn", "")
    execution = _find_standard(arn)
    always = ("executionArn", "stateMachineArn", "name", "status", "startDate", "input")
    answer = {
        **{field: execution[field] for field in always},
        **_known(execution, "stopDate", "error", "cause", "mapRunArn"),
        "inputDetails": {"included": True},
        **redrive_fields(execution),
    }
    if execution["status"] == "SUCCEEDED":
        answer |= {"output": execution["output"], "outputDetails": {"included": True}}
    return _json(answer)


@_refusing
def describe_visible_execution(data: dict[str, Any]) -> Answer:
    """DescribeExecution for a role, which sees an execution only a moment after its start."""
    arn = data.get("executionArn", "")
    execution = stepfunctions._executions.get(arn)
    if execution is not None and not _is_visible(execution):
        raise _no_such_execution(arn)
    return describe_execution(data)


@_refusing
def stop_execution(data: dict[str, Any]) -> Answer:
    """StopExecution. Nothing of the execution begins after it, and what still runs has no effect."""
    arn = data.get("executionArn", "")
    execution = _find_execution(arn)
    attempt = running_attempt(arn)
    if attempt is not None:
        attempt.end("ABORTED", error=data.get("error"), cause=data.get("cause"))
    # Its answer may have been lost: a request that is repeated is answered in the same way.
    if execution["status"] != "ABORTED":
        return refuse("ValidationException", "Execution is not running")
    return _json({"stopDate": execution["stopDate"]})


@_refusing
def redrive_execution(data: dict[str, Any]) -> Answer:
    """RedriveExecution. The same client token is answered as the first time."""
    arn = data.get("executionArn", "")
    execution = _find_standard(arn)
    token = data.get("clientToken") or stepfunctions.new_uuid()
    with _lock:
        known = execution.setdefault("redriveTokens", {})
        if token in known:
            return _json({"redriveDate": known[token]})
        reason = why_not_redrivable(execution)
        machine = stepfunctions._state_machines.get(execution["stateMachineArn"])
        if machine is None and not execution.get("mapRunArn"):
            reason = reason or "State machine is in DELETING status"
        if execution.get("mapRunArn"):
            reason = reason or "Execution can only be redriven by its Map Run"
        if reason:
            return refuse("ExecutionNotRedrivable", f"Execution Not Redrivable: '{reason}: {arn}'")
        text, position = execution["redrive"]
        mark_redriven(execution)
        known[token] = execution["redriveDate"]
        for oldest in list(known)[:-MAX_CLIENT_TOKENS]:
            del known[oldest]
        attempt = _new_attempt(execution, machine, text, position)
    attempt.root.add("ExecutionRedriven", {"redriveCount": execution["redriveCount"]})
    stepfunctions._emit_execution_status_event(execution)
    _in_background(attempt)
    return _json({"redriveDate": execution["redriveDate"]})


@_refusing
def check_name(data: Mapping[str, Any]) -> Answer | None:
    """The refusal of a name in a request that creates something, or None."""
    _check_name(data.get("name", ""))
    return None


def _find_machine(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The machine, and it or its version with the definition to run. Raises _RefusedError."""
    requested = data.get("stateMachineArn", "")
    arn = stepfunctions._resolve_state_machine_arn(requested)
    if arn is None:
        raise _RefusedError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{requested}'")
    machine = stepfunctions._state_machines[arn]
    version = stepfunctions._state_machine_versions.get(stepfunctions._execution_version_arn(requested))
    return machine, version or machine


def _check_start(data: Mapping[str, Any]) -> tuple[str, str]:
    """The execution's name and input. Raises _RefusedError."""
    name = data["name"] if data.get("name") is not None else stepfunctions.new_uuid()
    _check_name(name)
    text = data.get("input", "{}")
    if not ACCOUNT.fits("states.PayloadSize", len(text.encode(errors="surrogatepass"))):
        limit = f"{ACCOUNT.value('states.PayloadSize').size:.0f}"
        raise _RefusedError("ValidationException", _too_long("input", limit))
    try:
        json.loads(text)
    except ValueError as error:
        message = f"Invalid State Machine Execution Input: '{error}'"
        raise _RefusedError("InvalidExecutionInput", message) from None
    return name, text


def _check_name(name: str) -> None:
    # Step Functions refuses names that are too long as it does all values that its API's model forbids.
    if not ACCOUNT.fits("states.NameLength", len(name)):
        limit = f"{ACCOUNT.value('states.NameLength').size:.0f}"
        raise _RefusedError("ValidationException", _too_long("name", limit))
    if not name or not is_valid_name(name):
        raise _RefusedError("InvalidName", f"Invalid Name: '{name}'")


def _too_long(member: str, limit: str) -> str:
    return (
        f"1 validation error detected: Value at '{member}' failed to satisfy constraint: "
        f"Member must have length less than or equal to {limit}"
    )


def _new_attempt(execution: Execution, machine: Mapping[str, Any], text: str, position: Position) -> Attempt:
    definition = json.loads(text)
    language = definition.get("QueryLanguage", "JSONPath")
    seconds = definition.get("TimeoutSeconds", math.inf)
    if is_express(execution):
        seconds = min(seconds, MAX_EXPRESS_SECONDS)
    context = machine_context(execution, machine, language)
    return Attempt(execution, text, position, context, seconds=seconds)


def _in_background(attempt: Attempt) -> None:
    # The engine knows account and region by context variables, which a thread does not inherit.
    threading.Thread(target=contextvars.copy_context().run, args=(_run, attempt), daemon=True).start()


def _run(attempt: Attempt) -> None:
    execution = attempt.execution
    try:
        output = run_flow(attempt.root, json.loads(attempt.definition), json.loads(execution["input"]))
        attempt.end("SUCCEEDED", output=to_text(output))
    except StoppedError:
        return
    except stepfunctions._ExecutionError as error:
        attempt.end("FAILED", error=error.error, cause=error.cause)
    except Exception as error:
        logger.exception("Unexpected error in %s", execution["executionArn"])
        attempt.end("FAILED", error="States.Runtime", cause=str(error))


def _is_visible(execution: Execution) -> bool:
    if not ACCOUNT.enabled:
        return True
    age = time.time() - datetime.fromisoformat(execution["startDate"]).timestamp()
    return not 0 <= age < ACCOUNT.value("states.DescribeDelay").size


def _find_execution(arn: str) -> Execution:
    """Raises _RefusedError."""
    execution: Execution | None = stepfunctions._executions.get(arn)
    if execution is None:
        raise _no_such_execution(arn)
    return execution


def _find_standard(arn: str) -> Execution:
    """An execution that can be described and redriven. Raises _RefusedError."""
    if ":express:" in arn:
        raise _RefusedError("InvalidArn", f"Invalid Arn: '{arn}'")
    return _find_execution(arn)


def _no_such_execution(arn: str) -> _RefusedError:
    return _RefusedError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")


def _known(execution: Execution, *fields: str) -> dict[str, Any]:
    return {field: execution[field] for field in fields if execution.get(field) is not None}


def _json(document: dict[str, Any]) -> Answer:
    answer: Answer = stepfunctions.json_response(document)
    return answer
