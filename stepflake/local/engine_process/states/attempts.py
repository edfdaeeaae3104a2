"""Attempts at executions, each from a start or a redrive to an end, and the flows of states that they have.

An attempt ends once: with its last state, by StopExecution, by its TimeoutSeconds or by a full history. From
then on nothing that still runs in it has an effect: whatever it does next raises StoppedError.
"""

import contextvars
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.states.positions import Position

Execution = dict[str, Any]

HISTORY_FULL = "The execution reached the maximum number of history events ({:.0f})."

# The last event of a history, and the key of its details.
_LAST_EVENTS = {
    "SUCCEEDED": "ExecutionSucceeded",
    "FAILED": "ExecutionFailed",
    "TIMED_OUT": "ExecutionTimedOut",
    "ABORTED": "ExecutionAborted",
}

# The attempts that run, by their executions' ARNs.
_running: dict[str, "Attempt"] = {}


class StoppedError(Exception):
    """This flow is stopped: its execution has ended, or another part of its Map or Parallel failed."""


def to_text(value: Any) -> str:
    """JSON as Step Functions counts and shows it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Attempt:
    """`definition`: of the state machine, as JSON. `seconds`: its TimeoutSeconds, counted from now."""

    def __init__(
        self,
        execution: Execution,
        definition: str,
        position: Position,
        context: dict[str, Any],
        *,
        seconds: float = math.inf,
        parent: "Flow | None" = None,
    ) -> None:
        self.execution = execution
        self.deadline = time.monotonic() + seconds
        self.definition = definition
        self._lock = threading.Lock()
        self._is_over = False
        self._tell: list[Callable[[], None]] = []
        self.root = Flow(self, position, context, previous=len(execution["events"]), parent=parent)
        _running[execution["executionArn"]] = self

    def add(
        self,
        kind: str,
        details: Mapping[str, Any] | None,
        previous: int,
        change: Callable[[], None] | None = None,
    ) -> int:
        """Appends an event to the history, and returns its id. `change`: what it means for a position.

        Raises StoppedError.
        """
        with self._lock:
            if self._is_over:
                raise StoppedError
            # The history's last place is kept for the event with which the execution ends.
            # https://docs.aws.amazon.com/step-functions/latest/dg/bp-history-limit.html
            limit = ACCOUNT.value("states.HistoryEvents").size
            if len(self.execution["events"]) + 1 < limit:
                if change is not None:
                    change()
                return self._append(kind, details, previous)
        ACCOUNT.count("states.HistoryEvents", allowed=False)
        self.end("FAILED", error="States.Runtime", cause=HISTORY_FULL.format(limit))
        raise StoppedError

    def change(self, change: Callable[[], None]) -> None:
        """Changes a position, unless the execution has ended with it. Raises StoppedError."""
        with self._lock:
            if self._is_over:
                raise StoppedError
            change()

    def end(
        self, status: str, *, output: str | None = None, error: str | None = None, cause: str | None = None
    ) -> bool:
        """Ends the execution; False where it had ended before."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
            details = {"output": output} if status == "SUCCEEDED" else _without_none(error=error, cause=cause)
            self._append(_LAST_EVENTS[status], details, self.root.previous)
            # Before the status says that it has ended: from then on it may be redriven.
            del _running[self.execution["executionArn"]]
            if status != "SUCCEEDED":
                self.execution["redrive"] = (self.definition, self.root.position.copy())
            self.execution.update(
                status=status, stopDate=stepfunctions.now_iso(), output=output, error=error, cause=cause
            )
            tell, self._tell = self._tell, []
        self.root.stop()
        for told in tell:
            told()
        stepfunctions._emit_execution_status_event(self.execution)
        return True

    def on_end(self, tell: Callable[[], None]) -> None:
        """Calls `tell` once the execution has ended, which may be now."""
        with self._lock:
            if not self._is_over:
                self._tell.append(tell)
                return
        tell()

    def _append(self, kind: str, details: Mapping[str, Any] | None, previous: int) -> int:
        events = self.execution["events"]
        event = {
            "id": len(events) + 1,
            "previousEventId": previous,
            "type": kind,
            "timestamp": stepfunctions.now_iso(),
        }
        if details is not None:
            event[_details_key(kind)] = details
        events.append(event)
        return len(events)


class Flow:
    """States one after the other: those of an execution, of an iteration of a Map or of a Parallel's branch.

    `context`: $states.context, with the variables. `previous`: the id of its newest event.
    """

    def __init__(
        self,
        attempt: Attempt,
        position: Position,
        context: dict[str, Any],
        previous: int,
        parent: "Flow | None" = None,
    ) -> None:
        self.attempt = attempt
        self.position = position
        self.context = context
        self.previous = previous
        self._parent = parent
        self._lock = threading.Lock()
        self._parts: set[Flow] = set()
        self._takes_parts = True
        self._is_stopped = False
        self._wake: threading.Event | None = None
        if parent is not None:
            parent._take(self)

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped

    def part(self, position: Position, context: Mapping[str, Any]) -> "Flow":
        """An iteration or a branch, with variables of its own. Raises StoppedError."""
        own = {**context, "variables": dict(context["variables"])}
        return Flow(self.attempt, position, own, position.event or self.previous, parent=self)

    def close(self) -> None:
        """Ends a part."""
        if self._parent is not None:
            with self._parent._lock:
                self._parent._parts.discard(self)

    def begin_parts(self, count: int) -> None:
        """Forgets the parts before, and has so many. Raises StoppedError."""
        self.attempt.change(lambda: setattr(self.position, "parts", [Position() for _ in range(count)]))

    def open_parts(self) -> None:
        """Lets parts run, also where those of an earlier try were stopped."""
        with self._lock:
            self._takes_parts = True

    def stop_parts(self) -> None:
        """Stops the parts that run, and lets no other begin."""
        with self._lock:
            self._takes_parts = False
            parts = list(self._parts)
        for part in parts:
            part.stop()

    def stop(self) -> None:
        """Stops what this flow does, and its parts."""
        with self._lock:
            self._is_stopped = True
            if self._wake is not None:
                self._wake.set()
        self.stop_parts()

    def check(self) -> None:
        """Raises StoppedError where the flow is stopped or its execution's time is up."""
        if self._is_stopped:
            raise StoppedError
        if time.monotonic() >= self.attempt.deadline:
            self.attempt.end("TIMED_OUT")
            raise StoppedError

    def wait(self, wake: threading.Event, seconds: float = math.inf) -> bool:
        """Waits for `wake`, at most so many seconds; False where it was not set. Raises StoppedError."""
        with self._lock:
            if self._is_stopped:
                raise StoppedError
            self._wake = wake
        left = min(seconds, self.attempt.deadline - time.monotonic(), threading.TIMEOUT_MAX)
        woken = wake.wait(max(left, 0))
        with self._lock:
            self._wake = None
        self.check()
        return woken

    def sleep(self, seconds: float) -> None:
        """Waits so long. Raises StoppedError."""
        if seconds > 0:
            self.wait(threading.Event(), seconds)
        else:
            self.check()

    def add(self, kind: str, details: Mapping[str, Any] | None = None) -> None:
        """Appends an event to the history. Raises StoppedError."""
        if self._is_stopped:
            raise StoppedError
        self._follow(self.attempt.add(kind, details, self.previous))

    def add_aborted(self, kind: str, details: Mapping[str, Any] | None = None) -> None:
        """Appends an event about what was stopped, unless the whole execution has ended."""
        try:
            self._follow(self.attempt.add(kind, details, self.previous))
        except StoppedError:
            return

    def enter(self, kind: str, name: str, value: Any, text: str) -> None:
        """Enters a state with its input, which is also given as JSON. Raises StoppedError."""
        self.check()
        details = {"name": name, "input": text, "inputDetails": {"truncated": False}}
        self._move(f"{kind}StateEntered", details, name, value, is_entered=True)

    def leave(self, kind: str, name: str, value: Any, text: str, next_name: str | None) -> None:
        """Leaves a state with its output. Raises StoppedError."""
        details = {"name": name, "output": text, "outputDetails": {"truncated": False}}
        if next_name is None:
            self.add(f"{kind}StateExited", details)
        else:
            self._move(f"{kind}StateExited", details, next_name, value, is_entered=False)

    def finish(self, result: Any) -> None:
        """Records a part's result. Raises StoppedError."""
        self.attempt.change(lambda: vars(self.position).update(is_done=True, result=result, parts=[]))

    def _move(
        self, kind: str, details: Mapping[str, Any], name: str, value: Any, *, is_entered: bool
    ) -> None:
        moved = {
            "state": name,
            "is_entered": is_entered,
            "input": value,
            "variables": dict(self.context["variables"]),
            "parts": [],
            "map_run": "",
        }
        if self._is_stopped:
            raise StoppedError
        self._follow(
            self.attempt.add(kind, details, self.previous, lambda: vars(self.position).update(moved))
        )

    def _follow(self, event: int) -> None:
        self.previous = self.position.event = event

    def _take(self, part: "Flow") -> None:
        with self._lock:
            if self._is_stopped or not self._takes_parts:
                raise StoppedError
            self._parts.add(part)


# The flow that the current thread runs.
FLOW: contextvars.ContextVar[Flow | None] = contextvars.ContextVar("flow", default=None)


def current_flow() -> Flow:
    """The flow that this thread runs."""
    flow = FLOW.get()
    assert flow is not None, "only flows execute states"
    return flow


def running_attempt(arn: str) -> Attempt | None:
    """The attempt at this execution that runs, or None."""
    return _running.get(arn)


def _details_key(kind: str) -> str:
    for suffix in ("StateEntered", "StateExited"):
        if kind.endswith(suffix):
            return f"s{suffix[1:]}EventDetails"
    return f"{kind[0].lower()}{kind[1:]}EventDetails"


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
