"""Task states: the call, what it waits for (an answer, a token, a child execution), and its time limits."""

import contextvars
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states import children
from stepflake.local.engine_process.states.attempts import (
    FLOW,
    Execution,
    Flow,
    StoppedError,
    current_flow,
    to_text,
)
from stepflake.local.engine_process.states.flows import Step, check_size, evaluating, guarded, map_result
from stepflake.local.engine_process.states.tokens import TaskToken

# https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
_PREFIXES = {"activity": "Activity", "function": "LambdaFunction", "service": "Task"}


def execute_task(state: Mapping[str, Any], value: Any, execution: Execution, context: dict[str, Any]) -> Step:
    """A Task, with its Retry and Catch. The engine's functions for what it calls make the calls."""
    flow = current_flow()
    return guarded(flow, state, value, lambda: _try_task(flow, state, value))


def send_with_token(resource: str, arguments: Any, token: str, state: Mapping[str, Any]) -> Any:
    """The call of a Task with .waitForTaskToken, which does not wait for the token itself."""
    called = resource.replace(".waitForTaskToken", "")
    return stepfunctions._invoke_resource(called, arguments)


def _try_task(flow: Flow, state: Mapping[str, Any], value: Any) -> Step:
    context = flow.context
    resource = state.get("Resource", "")
    if resource.endswith(".waitForTaskToken"):
        context["Task"] = {"Token": stepfunctions.new_uuid()}
    with evaluating(flow):
        if stepfunctions._state_query_language(state, context) == "JSONata":
            arguments = stepfunctions._apply_jsonata_arguments(state, value, context)
        else:
            effective = stepfunctions._apply_input_path(state, value, context)
            arguments = stepfunctions._apply_parameters(state, effective, context)
        limits = _Limits(
            _seconds(state, "TimeoutSeconds", value, context),
            _seconds(state, "HeartbeatSeconds", value, context),
        )
    result = _Call(flow, state, arguments, limits).result()
    return map_result(flow, state, value, result)


def _seconds(state: Mapping[str, Any], field: str, value: Any, context: Mapping[str, Any]) -> float:
    """A Task's limit: a number, an expression or a path. Raises the engine's _ExecutionError."""
    if f"{field}Path" in state:
        seconds = stepfunctions._resolve_path_or_ctx(state[f"{field}Path"], value, context)
    elif field not in state:
        return math.inf
    elif stepfunctions._state_query_language(state, context) == "JSONata":
        seconds = stepfunctions._jsonata_state_field(state, field, "number", value, context)
    else:
        seconds = state[field]
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds <= 0 or seconds % 1:
        is_jsonata = stepfunctions._state_query_language(state, context) == "JSONata"
        raise stepfunctions._ExecutionError(
            "States.QueryEvaluationError" if is_jsonata else "States.Runtime",
            f"The {field} of a Task must be a positive integer, but it was: {seconds!r}",
        )
    return float(seconds)


class _TimeoutError(stepfunctions._ExecutionError):  # type: ignore[misc]
    """A Task's own time limit."""


class _Limits:
    """When a Task that starts now must have ended. `heartbeat`: seconds between heartbeats."""

    def __init__(self, timeout: float, heartbeat: float) -> None:
        self.timeout = timeout
        self.heartbeat = heartbeat
        self._end = time.monotonic() + timeout

    def details(self) -> dict[str, int]:
        """As the event says them with which a Task is scheduled."""
        both = {"timeoutInSeconds": self.timeout, "heartbeatInSeconds": self.heartbeat}
        return {name: int(seconds) for name, seconds in both.items() if seconds < math.inf}

    def left(self, token: TaskToken | None) -> float:
        """The seconds until one of them is reached. Raises _TimeoutError where it is."""
        now = time.monotonic()
        if now >= self._end:
            raise _TimeoutError("States.Timeout", "")
        beat = token.beat_at + self.heartbeat if token is not None else math.inf
        if now >= beat:
            raise _TimeoutError("States.HeartbeatTimeout", "")
        return min(self._end, beat) - now


class _Call:
    """One try of a Task. Raises States.DataLimitExceeded for arguments that are too large."""

    def __init__(
        self,
        flow: Flow,
        state: Mapping[str, Any],
        arguments: Any,
        limits: _Limits,
    ) -> None:
        resource = state.get("Resource", "")
        text = to_text(arguments)
        check_size(text, resource)
        self.flow = flow
        self.state = state
        self.resource = resource
        self.arguments = arguments
        self.limits = limits
        self.wake = threading.Event()
        self.token: TaskToken | None = None
        kind = (
            "activity" if ":activity:" in resource else "function" if ":function:" in resource else "service"
        )
        self.prefix = _PREFIXES[kind]
        service, _, action = resource.rpartition(":::")[2].partition(":")
        self.details = {"resourceType": service, "resource": action} if kind == "service" else {}
        self.scheduled: dict[str, Any] = {**self.details}
        if kind == "service":
            self.scheduled |= {"region": stepfunctions.get_region(), "parameters": text}
        else:
            self.scheduled |= {"resource": resource, "input": text}
        self.scheduled |= limits.details()

    def result(self) -> Any:
        """What the task gave. Raises the engine's _ExecutionError, or StoppedError."""
        try:
            result = self._make()
            text = to_text(result)
            check_size(text, self.resource)
        except stepfunctions._ExecutionError as error:
            ending = "TimedOut" if isinstance(error, _TimeoutError) else "Failed"
            self._add(ending, error=error.error, cause=error.cause)
            raise
        finally:
            if self.token is not None:
                self.token.close()
        self._add("Succeeded", output=text, outputDetails={"truncated": False})
        return result

    def _make(self) -> Any:
        if self.prefix == "Activity":
            return self._do_activity()
        self.flow.add(f"{self.prefix}Scheduled", self.scheduled)
        self.flow.add(f"{self.prefix}Started", self.details or None)
        if self.resource.endswith(".waitForTaskToken"):
            return self._do_callback()
        answer = self._start(stepfunctions._invoke_resource, self.resource, self.arguments)
        self._wait(answer.done)
        if self.resource.startswith("arn:aws:states:::states:startExecution.sync"):
            return self._do_child(answer.result())
        return answer.result()

    def _do_activity(self) -> Any:
        queue = stepfunctions._activity_tasks.get(self.resource)
        if queue is None:
            self.flow.add("ActivityScheduled", self.scheduled)
            raise stepfunctions._ExecutionError("ActivityDoesNotExist", f"Activity {self.resource} not found")
        token = self.token = TaskToken(self.flow, stepfunctions.new_uuid(), self.wake)
        token.beat_at = math.inf  # until a worker has the task
        self.flow.add("ActivityScheduled", self.scheduled)
        task = {"taskToken": token.token, "input": self.scheduled["input"]}
        queue.append(task)
        try:
            self._wait(lambda: token.is_answered)
        finally:
            if task in queue:  # no worker took it
                queue.remove(task)
        return token.result()

    def _do_callback(self) -> Any:
        token = self.token = TaskToken(self.flow, self.flow.context["Task"]["Token"], self.wake)
        sent = self._start(
            stepfunctions._invoke_with_callback, self.resource, self.arguments, token.token, self.state
        )
        # The token may be answered before what carries it has returned, as a Lambda can.
        self._wait(lambda: token.is_answered or sent.done())
        if not token.is_answered:
            self._submit(sent.result())
            self._wait(lambda: token.is_answered)
        return token.result()

    def _do_child(self, started: Mapping[str, Any]) -> Any:
        arn = started["ExecutionArn"]
        self._submit(started)
        try:
            children.on_end(arn, self.wake.set)
            self._wait(lambda: children.has_ended(arn))
        except StoppedError:
            children.stop_child(self.flow.attempt.execution, arn)
            raise
        return children.child_result(arn, self.resource)

    def _submit(self, output: Any) -> None:
        details = {**self.details, "output": to_text(output), "outputDetails": {"truncated": False}}
        self.flow.add("TaskSubmitted", details)

    def _start(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Calls a function in a thread of its own: where the Task ends first, its result is ignored."""
        answer: Future[Any] = Future()
        answer.add_done_callback(lambda _: self.wake.set())

        def call() -> None:
            FLOW.set(None)
            try:
                answer.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - raised where the result is read
                answer.set_exception(error)

        threading.Thread(target=contextvars.copy_context().run, args=(call,), daemon=True).start()
        return answer

    def _wait(self, is_done: Callable[[], bool]) -> None:
        while True:
            self.wake.clear()
            if is_done():
                return
            self.flow.wait(self.wake, self.limits.left(self.token))

    def _add(self, ending: str, **details: Any) -> None:
        self.flow.add(f"{self.prefix}{ending}", {**self.details, **details})
