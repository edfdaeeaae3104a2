"""The tasks of fan-out runs: the document of each in S3, its state in the table.

The state ensures that a task has one result, however often its message is delivered:

    running   a worker owns it until `lease_until`; then it counts as dead and another takes over
    waiting   an attempt ended with a transient error; the next delivery retries
    done      `result` holds what the service returned; a further delivery only repeats the callback
    failed    `error` and `cause` say why; final within its round

A round is one pass of one execution over the tasks that are not done. Another execution with the same run id,
or a redrive, is a new round: failed tasks are tried again, and tasks that are done stay done.

    task#{run id}#{group}  {number}                    the state (core.table)
    fan_out/{run id}/tasks-{group}.json                an array of documents, in S3
    fan_out/{run id}/results.jsonl                     a line for each task, in S3
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypedDict

from core.clients import s3
from core.dead_letters import readable_cause
from core.errors import ResultError, TransientError
from core.exact_json import Json, dump_json, parse_json
from core.settings import settings
from core.stored import read_stored
from core.table import get_item, put_if, query_items

# Tasks of one child execution, one object in S3 and one partition of the table (docs/fan-out.md): its
# history stays far below 25,000 events, and a partition takes 1,000 writes a second.
GROUP_TASKS = 200

# How many workers may die on a task in one round before the task fails.
MAX_DEATHS = 3

# A result is in the item (DynamoDB's limit is 400 KB), and all of a run's results pass through one Lambda.
MAX_RESULT_BYTES = 16 * 1024

SEE_LOG = " (out of time or memory, or a crash); their log says more"

# Groups whose documents a worker caches: its messages come from few groups at a time.
CACHED_GROUPS = 8

Status = Literal["running", "waiting", "done", "failed"]


class TaskBusy(Exception):
    """Another worker owns the task, for at most `seconds` more."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"another worker owns the task for up to {seconds} s")
        self.seconds = seconds


class TaskGroup(TypedDict):
    """The tasks of one child execution that are to be done in this round, by number."""

    run_id: str
    round: str
    service: str
    tasks: list[int]


class TaskPlan(TypedDict):
    """What `split` plans and `join` finishes. `tasks`: how many there are, done or not."""

    run_id: str
    round: str
    tasks: int
    on_task_error: str


class GroupedTaskPlan(TaskPlan):
    """The plan with the groups that the machine's Map runs."""

    groups: list[TaskGroup]


@dataclass(frozen=True)
class Task:
    """One task of a run, as its message names it. `number`: its place in the input, from 0."""

    run_id: str
    number: int
    round: str
    service: str

    @property
    def group(self) -> int:
        """The group that it belongs to."""
        return self.number // GROUP_TASKS


@dataclass(frozen=True)
class TaskState:
    """The state of a task. `lease_until`: epoch seconds. `deaths`: workers that died on it in this round."""

    status: Status
    round: str
    owner: str = ""
    lease_until: int = 0
    deaths: int = 0
    result: str = ""
    error: str = ""
    cause: str = ""

    def is_settled(self, round_: str) -> bool:
        """Whether nothing is left to do in this round."""
        return self.status == "done" or (self.status == "failed" and self.round == round_)

    @property
    def has_died(self) -> bool:
        """Whether its lease expired while it ran: its worker died, or ran past its lease."""
        return self.status == "running" and self.lease_until <= time.time()


def claim(task: Task, lease_until: int, *, last: bool) -> TaskState:
    """Makes the caller the task's owner, or returns the settled state, where nothing is left to do.

    Fails the task instead if MAX_DEATHS workers died on it, or if, at the `last` delivery, any did: after
    another death there would be no delivery left to report it. Raises TaskBusy.
    """
    claimed = TaskState("running", task.round, owner=uuid.uuid4().hex, lease_until=lease_until)
    earlier = _put(task, claimed, None)
    if earlier is None:
        return claimed
    if earlier.is_settled(task.round):
        return earlier
    if earlier.status == "running" and not earlier.has_died:
        raise _busy(earlier)
    if earlier.round == task.round:
        claimed = replace(claimed, deaths=earlier.deaths + earlier.has_died)
        if earlier.has_died and (last or claimed.deaths >= MAX_DEATHS):
            claimed = _failed(
                claimed, "WorkerDied", f"{claimed.deaths} of its workers died while they ran it{SEE_LOG}"
            )
    return _settle(task, claimed, earlier)


def finish(task: Task, claimed: TaskState, result: Json) -> TaskState:
    """Stores what the service returned and returns the state that counts: another owner's, if there is one.

    Raises ResultError for a result that is too large, TaskBusy.
    """
    text = dump_json(result)
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ResultError(f"{task.service} returned text that is not Unicode: {error}") from error
    if size > MAX_RESULT_BYTES:
        raise ResultError(
            f"{task.service} returned {size:,} bytes and a task's result has at most {MAX_RESULT_BYTES:,}; "
            "let the service store it and return its key"
        )
    return _settle(task, replace(claimed, status="done", result=text), claimed)


def fail(task: Task, claimed: TaskState, error: str, cause: str) -> TaskState:
    """Stores why the task failed permanently; returns the state that counts, as `finish` does."""
    return _settle(task, _failed(claimed, error, cause), claimed)


def release(task: Task, claimed: TaskState) -> None:
    """Lets the next delivery retry at once, unless another worker has claimed the task already."""
    _put(task, replace(claimed, status="waiting"), claimed)


def fail_unanswered(task: Task, error: str, cause: str) -> TaskState:
    """Stores a failure that the machine caught, unless the task is settled; returns the state that counts.

    Raises TransientError where a worker changes the state at the same time.
    """
    failed = _failed(TaskState("failed", task.round, owner=uuid.uuid4().hex), error, cause)
    earlier = _put(task, failed, None)
    if earlier is None:
        return failed
    if earlier.is_settled(task.round):
        return earlier
    if _put(task, failed, earlier) is not None:
        raise TransientError(f"the state of task {task.number} is changing at the same time")
    return failed


def load_state(task: Task) -> TaskState | None:
    """The task's state, or None before its first start."""
    item = get_item(_key(task))
    return read_stored(TaskState, item) if item else None


def load_states(run_id: str, group: int) -> dict[int, TaskState]:
    """The states of a group's tasks, by task number."""
    items = query_items(_partition(run_id, group))
    return {int(item["sk"]): read_stored(TaskState, item) for item in items}


def groups_of(tasks: int) -> Iterator[tuple[int, range]]:
    """Each group of a run of so many tasks, with the numbers of its tasks."""
    for group, first in enumerate(range(0, tasks, GROUP_TASKS)):
        yield group, range(first, min(first + GROUP_TASKS, tasks))


def store_documents(run_id: str, group: int, documents: list[Json]) -> None:
    """Puts a group's documents where `load_document` finds them."""
    _put_object(_documents_key(run_id, group), dump_json(documents), "application/json")


def load_document(task: Task) -> dict[str, Any]:
    """What the task's service gets."""
    document: dict[str, Any] = _load_documents(task.run_id, task.group)[task.number % GROUP_TASKS]
    return document


def store_results(run_id: str, results: list[str]) -> str:
    """Writes the results, each a JSON text, as JSON Lines, and returns the key."""
    key = f"fan_out/{run_id}/results.jsonl"
    _put_object(key, "".join(f"{result}\n" for result in results), "application/x-ndjson")
    return key


@lru_cache(maxsize=CACHED_GROUPS)
def _load_documents(run_id: str, group: int) -> list[dict[str, Any]]:
    body = s3().get_object(Bucket=settings().bucket, Key=_documents_key(run_id, group))["Body"].read()
    documents: list[dict[str, Any]] = parse_json(body.decode("utf-8"))
    return documents


def _documents_key(run_id: str, group: int) -> str:
    return f"fan_out/{run_id}/tasks-{group:05}.json"


def _put_object(key: str, text: str, content_type: str) -> None:
    s3().put_object(Bucket=settings().bucket, Key=key, Body=text.encode("utf-8"), ContentType=content_type)


def _failed(record: TaskState, error: str, cause: str) -> TaskState:
    return replace(record, status="failed", result="", error=error, cause=readable_cause(cause))


def _settle(task: Task, state: TaskState, expected: TaskState) -> TaskState:
    """Replaces the state that is expected, or returns the one that another worker settled meanwhile."""
    other = _put(task, state, expected)
    if other is None:
        return state
    if other.is_settled(task.round):
        return other
    raise _busy(other)


def _busy(other: TaskState) -> TaskBusy:
    return TaskBusy(max(1, other.lease_until - int(time.time())))


def _put(task: Task, state: TaskState, expected: TaskState | None) -> TaskState | None:
    """Writes a state where there is the expected one, or none; else returns the one that is there."""
    item = {**_key(task), **asdict(state)}
    if expected is None:
        existing = put_if("attribute_not_exists(pk)", item)
    else:
        existing = put_if(
            "#owner = :owner AND #status = :status",
            item,
            {":owner": expected.owner, ":status": expected.status},
        )
    if existing is None:
        return None
    if not existing:
        # The caller read the item before: it was deleted by hand, or by its time to live.
        raise TransientError(f"the state of task {task.number} is gone")
    other = read_stored(TaskState, existing)
    # Where botocore retried a write whose response was lost, the existing state is the one that it wrote.
    return None if other == state else other


def _key(task: Task) -> dict[str, str]:
    return {"pk": _partition(task.run_id, task.group), "sk": f"{task.number:06}"}


def _partition(run_id: str, group: int) -> str:
    return f"task#{run_id}#{group}"
