"""The tasks of fan-out runs: what each is to do, in S3, and how far it is, in the table.

A task's record makes its work count once, however often its message is delivered:

    running   a worker owns it until `lease_until`; after that it counts as dead and the next one takes over
    waiting   a try ended with an error that may pass; the next delivery tries again
    done      `result` holds what the service returned; a further delivery only sends the answer again
    failed    `error` and `cause` say why; final within its round

A round is one pass of one execution over the tasks that are not done. Another execution with the same run id,
or a redrive, is a new round: what failed is tried again, what is done stays.

    task#{run id}#{group}  {number}                    the record (core.table)
    fan_out/{run id}/tasks-{group}.json                an array of documents, in S3
    fan_out/{run id}/results.jsonl                     a line for each task, in S3
"""

import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

from boto3.dynamodb.conditions import Key
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError

from core.clients import s3
from core.errors import ResultError, TransientError
from core.exact_json import Json, dump_json, parse_json
from core.settings import settings
from core.table import expires_at, table

# Tasks of one child execution, one object in S3 and one partition of the table. docs/fan-out.md has the sums:
# its history stays far below 25,000 events, and a partition takes 1,000 writes a second.
GROUP_TASKS = 200

# How many workers a task may end in one round before it counts as poison.
MAX_DEATHS = 3

# A result is in the record (DynamoDB's limit is 400 KB), and all of a run's results pass through one Lambda.
MAX_RESULT_BYTES = 16 * 1024

MAX_CAUSE_CHARS = 1000

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
NOT_IN_MESSAGES = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

SEE_LOG = " (out of time or memory, or a crash); their log says more"

# Groups whose documents a worker keeps: its batches come from few groups at a time.
CACHED_GROUPS = 8

Status = Literal["running", "waiting", "done", "failed"]


class TaskBusy(Exception):
    """Another worker owns the task, for at most `seconds` more."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"another worker owns the task for up to {seconds} s")
        self.seconds = seconds


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
class Record:
    """How far a task is. `lease_until`: epoch seconds. `deaths`: workers that it ended in this round."""

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
        """Whether its owner ended without a word."""
        return self.status == "running" and self.lease_until <= time.time()


def claim(task: Task, lease_until: int, *, last: bool) -> Record:
    """Makes the caller the task's owner, or returns the record that says that nothing is left to do.

    A task that ended MAX_DEATHS workers is failed instead; so is, at its `last` delivery, one that ended any:
    nobody would be left to tell of it if it did so again. Raises TaskBusy.
    """
    mine = Record("running", task.round, owner=uuid.uuid4().hex, lease_until=lease_until)
    earlier = _put(task, mine, None)
    if earlier is None:
        return mine
    if earlier.is_settled(task.round):
        return earlier
    if earlier.status == "running" and not earlier.has_died:
        raise _busy(earlier)
    if earlier.round == task.round:
        mine = replace(mine, deaths=earlier.deaths + earlier.has_died)
        if earlier.has_died and (last or mine.deaths >= MAX_DEATHS):
            mine = _failed(
                mine, "WorkerDied", f"{mine.deaths} of its workers ended while they ran it{SEE_LOG}"
            )
    return _settle(task, mine, earlier)


def finish(task: Task, mine: Record, result: Json) -> Record:
    """Records what the service returned; where the caller is no longer the owner, returns what counts.

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
    return _settle(task, replace(mine, status="done", result=text), mine)


def fail(task: Task, mine: Record, error: str, cause: str) -> Record:
    """Records why the task failed for good; where the caller is no longer the owner, returns what counts."""
    return _settle(task, _failed(mine, error, cause), mine)


def release(task: Task, mine: Record) -> None:
    """Lets the next delivery try again at once, unless somebody else has the task already."""
    _put(task, replace(mine, status="waiting"), mine)


def fail_unanswered(task: Task, error: str, cause: str) -> Record:
    """Records that the machine gave the task up, unless it is settled; returns what counts.

    Raises TransientError where a worker changed the record at the same moment.
    """
    failed = _failed(Record("failed", task.round, owner=uuid.uuid4().hex), error, cause)
    earlier = _put(task, failed, None)
    if earlier is None:
        return failed
    if earlier.is_settled(task.round):
        return earlier
    if _put(task, failed, earlier) is not None:
        raise TransientError(f"the record of task {task.number} is changing at this moment")
    return failed


def load_record(task: Task) -> Record | None:
    """The task's record, or None before its first start."""
    key = {"pk": _partition(task.run_id, task.group), "sk": _sort_key(task.number)}
    item = table().get_item(Key=key, ConsistentRead=True).get("Item")
    return _record(item) if item else None


def load_records(run_id: str, group: int) -> dict[int, Record]:
    """The records of a group's tasks, by task number."""
    records: dict[int, Record] = {}
    query: dict[str, Any] = {
        "KeyConditionExpression": Key("pk").eq(_partition(run_id, group)),
        "ConsistentRead": True,
    }
    while True:
        page = table().query(**query)
        records.update((int(str(item["sk"])), _record(item)) for item in page["Items"])
        if "LastEvaluatedKey" not in page:
            return records
        query["ExclusiveStartKey"] = page["LastEvaluatedKey"]


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


def _failed(record: Record, error: str, cause: str) -> Record:
    readable = NOT_IN_MESSAGES.sub("?", cause)[:MAX_CAUSE_CHARS]
    return replace(record, status="failed", result="", error=error, cause=readable)


def _settle(task: Task, record: Record, expected: Record) -> Record:
    """Replaces the record that is expected, or returns the one that somebody else settled meanwhile."""
    other = _put(task, record, expected)
    if other is None:
        return record
    if other.is_settled(task.round):
        return other
    raise _busy(other)


def _busy(other: Record) -> TaskBusy:
    return TaskBusy(max(1, other.lease_until - int(time.time())))


def _put(task: Task, record: Record, expected: Record | None) -> Record | None:
    """Writes a record where there is the expected one, or none; else returns the one that is there."""
    item = {**asdict(record), "pk": _partition(task.run_id, task.group), "sk": _sort_key(task.number)}
    condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
    if expected is not None:
        condition = {
            "ConditionExpression": "#owner = :owner AND #status = :status",
            "ExpressionAttributeNames": {"#owner": "owner", "#status": "status"},
            "ExpressionAttributeValues": {":owner": expected.owner, ":status": expected.status},
        }
    try:
        table().put_item(
            Item={**item, "expires_at": expires_at()},
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **condition,
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
            raise
        found: dict[str, Any] = dict(error.response.get("Item", {}))  # type: ignore[call-overload]
        if not found:
            # It was there a moment ago: deleted by hand, or by its time to live.
            raise TransientError(f"the record of task {task.number} is gone") from error
        there = _record({name: TypeDeserializer().deserialize(value) for name, value in found.items()})
        # A write that was sent twice, since its first answer was lost, finds itself.
        return None if there == record else there
    return None


def _record(item: dict[str, Any]) -> Record:
    values = {field.name: item[field.name] for field in fields(Record)}
    return Record(**{**values, "lease_until": int(values["lease_until"]), "deaths": int(values["deaths"])})


def _partition(run_id: str, group: int) -> str:
    return f"task#{run_id}#{group}"


def _sort_key(number: int) -> str:
    return f"{number:06}"
