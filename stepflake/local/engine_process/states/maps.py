"""Map and Parallel states. After a redrive, what has succeeded keeps its result, and the rest continues."""

from collections.abc import Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.states.attempts import (
    Execution,
    Flow,
    StoppedError,
    current_flow,
    to_text,
)
from stepflake.local.engine_process.states.flows import (
    Step,
    check_size,
    evaluating,
    guarded,
    map_result,
    run_flow,
)
from stepflake.local.engine_process.states.items import MapItems, read_items
from stepflake.local.engine_process.states.parts import raise_first, run_parts

# https://docs.aws.amazon.com/step-functions/latest/dg/state-map-inline.html
MAX_INLINE_CONCURRENCY = 40


def execute_map(state: Mapping[str, Any], value: Any, execution: Execution, context: dict[str, Any]) -> Step:
    """A Map, with its Retry and Catch."""
    flow = current_flow()
    return guarded(flow, state, value, lambda: _try_map(flow, state, value))


def execute_parallel(
    state: Mapping[str, Any], value: Any, execution: Execution, context: dict[str, Any]
) -> Step:
    """A Parallel, with its Retry and Catch."""
    flow = current_flow()
    return guarded(flow, state, value, lambda: _try_parallel(flow, state, value))


def _try_map(flow: Flow, state: Mapping[str, Any], value: Any) -> Step:
    with evaluating(flow):
        items = read_items(flow, state, value)
    if len(flow.position.parts) != len(items) or not items:
        flow.begin_parts(len(items))
        flow.add("MapStateStarted", {"length": len(items)})
    try:
        if items.is_distributed:
            stepfunctions._run_distributed_map(flow, state, items)
        else:
            _run_iterations(flow, items)
    except stepfunctions._ExecutionError:
        flow.add("MapStateFailed")
        raise
    return _succeed(flow, "Map", state, value)


def _run_iterations(flow: Flow, items: MapItems) -> None:
    name = flow.context["State"]["Name"]

    def run_iteration(number: int) -> None:
        details = {"name": name, "index": number}
        position = flow.position.parts[number]
        part = flow.part(position, items.context(number))
        try:
            if not position.state:
                part.add("MapIterationStarted", details)
            with evaluating(part):
                value = None if position.state else items.input(number)
            result = run_flow(part, items.processor, value)
            part.add("MapIterationSucceeded", details)
            part.finish(result)
        except StoppedError:
            part.add_aborted("MapIterationAborted", details)
            raise
        except stepfunctions._ExecutionError:
            part.add("MapIterationFailed", details)
            raise
        finally:
            flow.previous = max(flow.previous, part.previous)
            part.close()

    limit = min(items.concurrency or MAX_INLINE_CONCURRENCY, MAX_INLINE_CONCURRENCY)
    raise_first(run_parts(flow, limit, run_iteration), "States.Runtime")


def _try_parallel(flow: Flow, state: Mapping[str, Any], value: Any) -> Step:
    context = flow.context
    with evaluating(flow):
        if stepfunctions._state_query_language(state, context) == "JSONata":
            branch_input = stepfunctions._apply_jsonata_arguments(state, value, context)
        else:
            branch_input = stepfunctions._apply_input_path(state, value, context)
            branch_input = stepfunctions._apply_parameters(state, branch_input, context)
    check_size(to_text(branch_input), context["State"]["Name"])
    branches = state.get("Branches", [])
    if not flow.position.parts:
        flow.begin_parts(len(branches))
        flow.add("ParallelStateStarted")

    def run_branch(number: int) -> None:
        part = flow.part(flow.position.parts[number], flow.context)
        try:
            part.finish(run_flow(part, branches[number], branch_input))
        finally:
            flow.previous = max(flow.previous, part.previous)
            part.close()

    errors = run_parts(flow, len(branches), run_branch)
    if errors:
        flow.add("ParallelStateFailed")
        raise_first(errors, "States.BranchFailed")
    return _succeed(flow, "Parallel", state, value)


def _succeed(flow: Flow, kind: str, state: Mapping[str, Any], value: Any) -> Step:
    flow.add(f"{kind}StateSucceeded")
    results = [part.result for part in flow.position.parts]
    try:
        return map_result(flow, state, value, results)
    except stepfunctions._ExecutionError as error:
        # Results that are too large together stay so: all of it runs again after a redrive.
        if error.error == "States.DataLimitExceeded":
            flow.begin_parts(0)
        raise
