"""Map Runs: a distributed Map runs each item as a child execution with a history of its own.

A redrive of the parent redrives the children that did not succeed, in the same Map Run:
https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html
"""

import threading
from collections.abc import Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process import map_runs
from stepflake.local.engine_process.states.attempts import (
    FLOW,
    Attempt,
    Execution,
    Flow,
    StoppedError,
    current_flow,
    to_text,
)
from stepflake.local.engine_process.states.executions import execution_context, mark_redriven
from stepflake.local.engine_process.states.flows import check_size, evaluating, run_flow
from stepflake.local.engine_process.states.items import MapItems
from stepflake.local.engine_process.states.parts import run_parts

# Children at once where MaxConcurrency says nothing; AWS runs up to 10,000, and here each is a thread.
_DEFAULT_CONCURRENCY = 64

_OUTCOMES = {"SUCCEEDED": "succeeded", "FAILED": "failed", "ABORTED": "aborted"}
_COUNTS = (
    "pending", "running", "succeeded", "failed", "timedOut", "aborted", "total", "resultsWritten",
    "failuresNotRedrivable", "pendingRedrive",
)  # fmt: skip


class _MapRun:
    """The record that DescribeMapRun reads."""

    def __init__(self, flow: Flow, state: Mapping[str, Any], items: MapItems) -> None:
        self._lock = threading.Lock()
        execution = flow.attempt.execution
        _, _, _, region, account, _, machine, *_ = execution["stateMachineArn"].split(":")
        label = state.get("Label") or flow.context["State"]["Name"]
        self.prefix = f"arn:aws:states:{region}:{account}"
        self.path = f"{machine}/{label}"
        self.percentage = items.number(state, "ToleratedFailurePercentage")
        self.count = items.number(state, "ToleratedFailureCount")
        self.total = len(items)
        done = sum(part.is_done for part in flow.position.parts)
        earlier = stepfunctions._map_runs.get(flow.position.map_run)
        self.is_redriven = earlier is not None
        self.record: dict[str, Any] = earlier or {
            "mapRunArn": f"{self.prefix}:mapRun:{self.path}:{stepfunctions.new_uuid()}",
            "executionArn": execution["executionArn"],
            "startDate": stepfunctions.now_iso(),
            "redriveCount": 0,
            "_stateMachineArn": f"{self.prefix}:stateMachine:{self.path}",
        }
        self.record.pop("stopDate", None)
        counts = dict.fromkeys(_COUNTS, 0) | {
            "total": self.total,
            "succeeded": done,
            "pending": self.total - done,
        }
        self.record |= {
            "status": "RUNNING",
            "maxConcurrency": items.concurrency,
            "toleratedFailurePercentage": self.percentage,
            "toleratedFailureCount": self.count,
            "itemCounts": dict(counts),
            "executionCounts": counts,
        }
        if self.is_redriven:
            self.record["redriveCount"] += 1
            self.record["redriveDate"] = stepfunctions.now_iso()
        stepfunctions._map_runs[self.arn] = self.record
        flow.attempt.change(lambda: setattr(flow.position, "map_run", self.arn))

    @property
    def arn(self) -> str:
        return str(self.record["mapRunArn"])

    def move(self, before: str, after: str) -> None:
        """Counts a child that changes its status."""
        with self._lock:
            for counts in (self.record["itemCounts"], self.record["executionCounts"]):
                counts[before] -= 1
                counts[after] += 1

    def end(self, status: str) -> None:
        self.record |= {"status": status, "stopDate": stepfunctions.now_iso()}

    def is_tolerated(self, failed: int) -> bool:
        """Whether the Map goes on with so many failed children; without a threshold, with none.

        https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
        """
        if not self.count and not self.percentage:
            return failed == 0
        within_count = not self.count or failed <= self.count
        return within_count and (not self.percentage or failed * 100 <= self.percentage * self.total)


def run_map_run(flow: Flow, state: Mapping[str, Any], items: MapItems) -> None:
    """Runs the children of a Map that have not succeeded. Raises the engine's _ExecutionError."""
    map_runs.authorize_children(redriven=flow.position.map_run)
    run = _MapRun(flow, state, items)
    details: dict[str, Any] = {"mapRunArn": run.arn}
    if run.is_redriven:
        flow.add("MapRunRedriven", {**details, "redriveCount": run.record["redriveCount"]})
    else:
        flow.add("MapRunStarted", details)
    workers = items.concurrency or _DEFAULT_CONCURRENCY
    try:
        errors = run_parts(
            flow, workers, lambda number: _run_child(flow, run, items, number), run.is_tolerated
        )
    except StoppedError:
        run.end("ABORTED")
        raise
    if not run.is_tolerated(len(errors)):
        run.end("FAILED")
        error = "States.ExceedToleratedFailureThreshold"
        cause = "The specified tolerated failure threshold was exceeded"
        flow.add("MapRunFailed", {"error": error, "cause": cause})
        raise stepfunctions._ExecutionError(error, cause)
    run.end("SUCCEEDED")
    flow.add("MapRunSucceeded")


def run_child_states(
    states: Mapping[str, Any], start_at: str, value: Any, execution: Execution, context: dict[str, Any]
) -> Any:
    """The states of a child, in the place of MiniStack's function for parts of machines."""
    return run_flow(current_flow(), {"StartAt": start_at, "States": states}, value)


def _run_child(flow: Flow, run: _MapRun, items: MapItems, number: int) -> None:
    attempt = _start_child(flow, run, items, number)
    run.move("pending", "running")
    child = attempt.root
    try:
        FLOW.set(child)
        result = stepfunctions._run_sub_machine(
            items.processor["States"],
            items.processor["StartAt"],
            child.context["Execution"]["Input"],
            attempt.execution,
            child.context,
        )
        text = to_text(result)
        child.finish(result)
        attempt.end("SUCCEEDED", output=text)
    except StoppedError:
        if attempt.end("ABORTED"):
            raise
        # Not the Map is stopped: the child was, by StopExecution or by its full history.
        raise stepfunctions._ExecutionError("States.TaskFailed", attempt.execution["cause"] or "") from None
    except stepfunctions._ExecutionError as error:
        attempt.end("FAILED", error=error.error, cause=error.cause)
        raise
    finally:
        run.move("running", _OUTCOMES[attempt.execution["status"]])
        child.close()


def _start_child(flow: Flow, run: _MapRun, items: MapItems, number: int) -> Attempt:
    position = flow.position.parts[number]
    if position.execution:
        execution = stepfunctions._executions[position.execution]
        mark_redriven(execution)
    else:
        with evaluating(flow):
            value = items.input(number)
        text = to_text(value)
        check_size(text, flow.context["State"]["Name"])
        map_runs.wait_for_start()
        execution = _new_child(flow.attempt.execution, run, text)
        flow.attempt.change(lambda: setattr(position, "execution", execution["executionArn"]))
        stepfunctions._executions[execution["executionArn"]] = execution
    # The child is an execution of its own: it does not see its parent's context and variables.
    context = {
        **items.context(number),
        "Execution": execution_context(execution, flow.context["Execution"]["RoleArn"]),
        "variables": {},
    }
    try:
        attempt = Attempt(execution, "", position, context, parent=flow)
    except StoppedError:
        execution.update(status="ABORTED", stopDate=stepfunctions.now_iso())
        raise
    if not execution["events"]:
        attempt.root.add("ExecutionStarted", {"input": execution["input"]})
    else:
        attempt.root.add("ExecutionRedriven", {"redriveCount": execution["redriveCount"]})
    return attempt


def _new_child(parent: Execution, run: _MapRun, text: str) -> Execution:
    name = stepfunctions.new_uuid()
    return {
        "executionArn": f"{run.prefix}:execution:{run.path}:{name}",
        "stateMachineArn": run.record["_stateMachineArn"],
        "name": name,
        "status": "RUNNING",
        "startDate": stepfunctions.now_iso(),
        "stopDate": None,
        "input": text,
        "output": None,
        "mapRunArn": run.arn,
        "redriveCount": 0,
        "events": [],
    }
