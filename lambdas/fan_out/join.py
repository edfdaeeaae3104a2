"""The results of a fan-out run's tasks, in input order."""

from collections.abc import Iterator
from typing import TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.errors import ResultError, TaskError, reraise_transient
from core.exact_json import Json, dump_json, parse_json
from core.inputs import InputError, as_doubles
from fan_out import tasks
from fan_out.tasks import TaskPlan, TaskState

logger = Logger()

# Results up to this size are in the output too; the whole output has to fit into 256 KiB.
MAX_INLINE_BYTES = 128 * 1024


class TaskFailed(TaskError):
    """Tasks failed and on_task_error is "fail"; the message counts them and shows the first."""


class Redriven(TaskError):
    """The execution was redriven after tasks failed: the machine plans again and runs those."""


class Event(TypedDict):
    """What the machine sends. `round`: the current one; the plan has the one in which it was made."""

    plan: TaskPlan
    round: str


class Joined(TypedDict):
    """The run's output. `results`: in input order; a failed task's is {"error", "cause"}.

    `results_key` always has them. `results` is None where they are too large for the output, or have numbers
    that the machine would round.
    """

    run_id: str
    tasks: int
    succeeded: int
    failed: int
    results_key: str
    results: list[Json] | None


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Joined:
    """Stores the results and counts them. Raises TaskFailed, Redriven, ResultError."""
    plan = event["plan"]
    logger.append_keys(run_id=plan["run_id"])
    if event["round"] != plan["round"]:
        raise Redriven(f"{plan['round']} was redriven; the tasks that failed are tried again")
    joined = join(plan)
    logger.info("joined", extra={"tasks": joined["tasks"], "failed": joined["failed"]})
    return joined


def join(plan: TaskPlan) -> Joined:
    """The output. Raises TaskFailed, after the results are stored, where a failed task fails the run."""
    run_id = plan["run_id"]
    results: list[str] = []
    first_failure = ""
    failed = 0
    for number, state in settled_states(plan):
        results.append(render(state))
        if state.status == "failed":
            failed += 1
            first_failure = first_failure or f"task {number}: {state.error}: {state.cause}"
    key = tasks.store_results(run_id, results)
    if failed and plan["on_task_error"] == "fail":
        raise TaskFailed(
            f"{failed:,} of {plan['tasks']:,} tasks failed; the first is {first_failure}; "
            f"all outcomes are in {key}; resume run {run_id} to try the failed ones again"
        )
    return Joined(
        run_id=run_id,
        tasks=len(results),
        succeeded=len(results) - failed,
        failed=failed,
        results_key=key,
        results=inline(results),
    )


def settled_states(plan: TaskPlan) -> Iterator[tuple[int, TaskState]]:
    """Each task's number and state, in input order. Raises ResultError for a task that is not settled."""
    for group, numbers in tasks.groups_of(plan["tasks"]):
        states = tasks.load_states(plan["run_id"], group)
        for number in numbers:
            state = states.get(number)
            if state is None or not state.is_settled(plan["round"]):
                raise ResultError(
                    f"task {number} of {plan['run_id']} has no outcome; its state was changed or deleted"
                )
            yield number, state


def render(state: TaskState) -> str:
    """A task's result as JSON text."""
    if state.status == "done":
        return state.result
    return dump_json({"error": state.error, "cause": state.cause})


def inline(results: list[str]) -> list[Json] | None:
    """The results for the output, or None where they do not fit or the machine would round a number."""
    if sum(len(result.encode("utf-8")) + 2 for result in results) > MAX_INLINE_BYTES:
        return None
    try:
        return [as_doubles(parse_json(result)) for result in results]
    except InputError:
        return None
