"""The results of a fan-out run's tasks, in input order."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.errors import ResultError, TaskError, named_for_retry
from core.exact_json import Json, dump_json, parse_json
from core.inputs import as_doubles
from fan_out import tasks
from fan_out.tasks import Record

logger = Logger()

# Results up to this size are in the output too; the output has to fit 256 KiB with what is around it.
MAX_INLINE_BYTES = 128 * 1024


class TaskFailed(TaskError):
    """Tasks failed, and the run was asked to fail with them; the message counts them and shows the first."""


class Redriven(TaskError):
    """The execution was redriven after tasks failed: the machine goes back and tries those again."""


class Plan(TypedDict):
    """What `split` planned; `round` as it was then."""

    run_id: str
    round: str
    tasks: int
    on_task_error: str


class Event(TypedDict):
    """What the machine sends. `round`: as it is now."""

    plan: Plan
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


def handler(event: Event, context: Any) -> Joined:
    """Stores the results and counts them. Raises TaskFailed, Redriven, ResultError."""
    plan = event["plan"]
    logger.append_keys(run_id=plan["run_id"])
    if event["round"] != plan["round"]:
        raise Redriven(f"{plan['round']} was redriven; the tasks that failed are tried again")
    with named_for_retry():
        joined = join(plan)
    logger.info("joined", extra={"tasks": joined["tasks"], "failed": joined["failed"]})
    return joined


def join(plan: Plan) -> Joined:
    """The output. Raises TaskFailed where a task failed and that fails the run; results are stored still."""
    run_id = plan["run_id"]
    results: list[str] = []
    first_failure = ""
    failed = 0
    for group, numbers in tasks.groups_of(plan["tasks"]):
        records = tasks.load_records(run_id, group)
        for number in numbers:
            record = records.get(number)
            if record is None or not record.is_settled(plan["round"]):
                raise ResultError(
                    f"task {number} of {run_id} has no outcome; its record was changed or deleted"
                )
            results.append(render(record))
            if record.status == "failed":
                failed += 1
                first_failure = first_failure or f"task {number}: {record.error}: {record.cause}"
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


def render(record: Record) -> str:
    """A task's result as JSON text."""
    if record.status == "done":
        return record.result
    return dump_json({"error": record.error, "cause": record.cause})


def inline(results: list[str]) -> list[Json] | None:
    """The results for the output, or None where they do not fit or would not stay what they are."""
    if sum(len(result.encode("utf-8")) + 2 for result in results) > MAX_INLINE_BYTES:
        return None
    try:
        return [as_doubles(parse_json(result)) for result in results]
    except ValueError:
        return None
