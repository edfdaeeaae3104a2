"""How a flow goes from state to state, and what Retry and Catch make of a state's error."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ministack.services import stepfunctions  # type: ignore[import-untyped]

from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.states import retries
from stepflake.local.engine_process.states.attempts import FLOW, Execution, Flow, StoppedError, to_text

logger = logging.getLogger("states")

# A state's output and the name of the next one, None after the last.
Step = tuple[Any, str | None]

# The types that Step Functions reports as aborted where it stops one while another continues.
_ABORTABLE = ("Task", "Wait", "Map", "Parallel")


def run_flow(flow: Flow, level: Mapping[str, Any], value: Any) -> Any:
    """Runs the states of a machine, or of a part of it, to the end; its output. `value`: the input.

    A flow whose position is at a state continues there. Raises StoppedError, or the engine's _ExecutionError.
    """
    FLOW.set(flow)
    position = flow.position
    name = position.state or level["StartAt"]
    if position.state:
        value = position.input
        flow.context["variables"] = dict(position.variables)
    is_entered = position.is_entered
    text = to_text(value)
    while True:
        state = level["States"].get(name)
        if state is None:
            raise stepfunctions._ExecutionError("States.Runtime", f"State '{name}' not found in definition")
        kind = state.get("Type")
        count_transition(flow)
        # What was entered before a redrive is not entered again, except that a Fail fails again.
        if is_entered and kind != "Fail":
            flow.check()
        else:
            flow.enter(kind, name, value, text)
        is_entered = False
        flow.context["State"] = {"Name": name, "EnteredTime": stepfunctions.now_iso(), "RetryCount": 0}
        try:
            value, following = _execute(flow, kind, state, value)
        except StoppedError:
            if kind in _ABORTABLE:
                flow.add_aborted(f"{kind}StateAborted")
            raise
        text = to_text(value)
        check_size(text, name)
        flow.leave(kind, name, value, text, following)
        if following is None:
            return value
        name = following


def _execute(flow: Flow, kind: str, state: Mapping[str, Any], value: Any) -> Step:
    context = flow.context
    try:
        match kind:
            case "Task" | "Map" | "Parallel":
                execute = getattr(stepfunctions, f"_execute_{kind.lower()}")
                step: Step = execute(state, value, flow.attempt.execution, context)
                return step
            case "Pass" | "Choice" | "Wait":
                with evaluating(flow):
                    step = getattr(stepfunctions, f"_execute_{kind.lower()}")(state, value, context)
                return step
            case "Succeed":
                with evaluating(flow):
                    return _succeed(state, value, context), None
            case "Fail":
                _fail(flow, state, value)
    except (StoppedError, stepfunctions._ExecutionError):
        raise
    except Exception as error:
        logger.exception("Unexpected error in %s", flow.attempt.execution["executionArn"])
        raise stepfunctions._ExecutionError("States.Runtime", str(error)) from error
    raise stepfunctions._ExecutionError("States.Runtime", f"Unknown state type: {kind}")


def _succeed(state: Mapping[str, Any], value: Any, context: Mapping[str, Any]) -> Any:
    if stepfunctions._state_query_language(state, context) == "JSONata":
        return stepfunctions._apply_jsonata_output(state, value, context, default=value)
    value = stepfunctions._apply_input_path(state, value, context)
    return stepfunctions._apply_output_path(state, value, context)


def _fail(flow: Flow, state: Mapping[str, Any], value: Any) -> None:
    with evaluating(flow):
        error, cause = stepfunctions._fail_state_error(state, value, flow.context)
    raise stepfunctions._ExecutionError(error, cause)


def guarded(flow: Flow, state: Mapping[str, Any], value: Any, attempt: Callable[[], Step]) -> Step:
    """The step of a Task, Map or Parallel, under its Retry and Catch."""
    context = flow.context
    own = context["State"]
    retried: Counter[int] = Counter()
    while True:
        context["State"] = {**own, "RetryCount": retried.total()}
        try:
            return attempt()
        except stepfunctions._ExecutionError as error:
            delay = retries.next_delay(state.get("Retry", []), error.error, retried)
            if delay is not None:
                flow.begin_parts(0)
                stepfunctions._scaled_sleep(delay)
                count_transition(flow)
                continue
            catcher = stepfunctions._find_matching_catcher(state.get("Catch", []), error.error)
            if catcher is None:
                raise
            language = stepfunctions._state_query_language(state, context)
            details = {"Error": error.error, "Cause": error.cause}
            with evaluating(flow):
                output = stepfunctions._apply_catcher(catcher, value, context, language, details)
            return output, catcher["Next"]


def map_result(flow: Flow, state: Mapping[str, Any], value: Any, result: Any) -> Step:
    """What a Task, Map or Parallel makes of its result: its output, with its variables assigned.

    `value`: the state's input. Raises the engine's _ExecutionError.
    """
    context = flow.context
    with evaluating(flow):
        if stepfunctions._state_query_language(state, context) == "JSONata":
            output = stepfunctions._apply_jsonata_output(state, value, context, result=result, default=result)
            stepfunctions._apply_state_assign(state, value, context, result=result)
        else:
            selected = stepfunctions._apply_result_selector(state, result)
            output = stepfunctions._apply_result_path(state, value, selected)
            output = stepfunctions._apply_output_path(state, output, context)
    check_size(to_text(output), context["State"]["Name"])
    return output, stepfunctions._next_or_end(state)


def assign(
    state: Mapping[str, Any],
    value: Any,
    context: dict[str, Any],
    result: Any = None,
    error_output: Any = None,
) -> None:
    """Assigns a state's variables; each expression sees the values from before.

    https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
    """
    if stepfunctions._state_query_language(state, context) == "JSONata" and "Assign" in state:
        assigned = stepfunctions._apply_jsonata_template(
            state["Assign"], value, context, result=result, error_output=error_output
        )
        context["variables"] = {**context.get("variables", {}), **assigned}


@contextlib.contextmanager
def evaluating(flow: Flow) -> Iterator[None]:
    """Records an expression that fails, as JSONata machines do on AWS."""
    try:
        yield
    except stepfunctions._ExecutionError as error:
        if error.error == "States.QueryEvaluationError":
            details = {"error": error.error, "cause": error.cause, "state": flow.context["State"]["Name"]}
            flow.add("EvaluationFailed", details)
        raise


def check_size(text: str, name: str) -> None:
    """Raises States.DataLimitExceeded for data that is too large. `name`: of its state or resource."""
    if not ACCOUNT.fits("states.PayloadSize", len(text.encode(errors="surrogatepass"))):
        raise stepfunctions._ExecutionError(
            "States.DataLimitExceeded",
            f"The state/task '{name}' returned a result with a size exceeding the maximum number of bytes "
            "service limit.",
        )


def count_transition(flow: Flow) -> None:
    """Takes a token for a state transition as soon as there is one: AWS delays them. EXPRESS has no limit."""
    if not is_express(flow.attempt.execution):
        ACCOUNT.wait("states.StateTransition")


def is_express(execution: Execution) -> bool:
    """Whether an execution is one of an EXPRESS machine."""
    return ":express:" in execution["executionArn"]
