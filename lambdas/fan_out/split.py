"""The tasks of a fan-out run: checked, stored, and planned in groups, one for each child execution."""

import hashlib
from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from core.catalog import read_workflows
from core.checkpoints import load_checkpoint, save_checkpoint
from core.clients import s3
from core.errors import TaskError, named_for_retry
from core.exact_json import Json, dump_json
from core.inputs import check_document
from core.records import Reject, read_json_lines
from core.services import load_service
from core.settings import settings
from fan_out import tasks

logger = Logger()

DEFAULT_SERVICE = "hostname"

# The groups pass through the machine as one document of at most 256 KiB, with 6 bytes for each task's number.
MAX_TASKS = 30_000

STEP = "fan-out"


class InputError(TaskError):
    """The input is not what the workflow takes; the message says what, and where."""


class RunConflict(TaskError):
    """The run id was used before, with other tasks or another service."""


class Event(TypedDict):
    """What the machine sends. `round`: the execution and how often it was redriven."""

    input: dict[str, Any]
    run_id: str
    round: str


class Group(TypedDict):
    """The tasks of one child execution that are to be done in this round, by number."""

    run_id: str
    round: str
    service: str
    tasks: list[int]


class Plan(TypedDict):
    """What the rest of the run goes by. `tasks`: how many there are, done or not."""

    run_id: str
    round: str
    tasks: int
    on_task_error: str
    groups: list[Group]


def handler(event: Event, context: Any) -> Plan:
    """Plans the tasks that are not done. Raises InputError, RunConflict, UnknownService."""
    logger.append_keys(run_id=event["run_id"])
    with named_for_retry():
        plan = split(event)
    logger.info("plan", extra={"tasks": plan["tasks"], "groups": len(plan["groups"])})
    return plan


def split(event: Event) -> Plan:
    """The plan. What it stores has the same content for the same input, so a second try changes nothing."""
    run_id = event["run_id"]
    try:
        document = check_document(read_workflows()["fan_out"], event["input"])
    except ValueError as error:
        raise InputError(f"the input of fan_out: {error}") from None
    service = document.get("service", DEFAULT_SERVICE)
    load_service(service)
    names = document["names"] if isinstance(document["names"], list) else load_names(document["names"])
    if len(names) > MAX_TASKS:
        raise InputError(f"{len(names):,} tasks in one run; at most {MAX_TASKS:,}: start several runs")
    resumed = agree(run_id, service, names)
    groups = []
    for group, numbers in tasks.groups_of(len(names)):
        done = (
            {number for number, r in tasks.load_records(run_id, group).items() if r.status == "done"}
            if resumed
            else set()
        )
        pending = [number for number in numbers if number not in done]
        if pending:
            tasks.store_documents(run_id, group, names[numbers.start : numbers.stop])
            groups.append(Group(run_id=run_id, round=event["round"], service=service, tasks=pending))
    return Plan(
        run_id=run_id,
        round=event["round"],
        tasks=len(names),
        on_task_error=document.get("on_task_error", "fail"),
        groups=groups,
    )


def agree(run_id: str, service: str, names: list[Json]) -> bool:
    """Whether the run id was used before, with the same tasks. Raises RunConflict where with others."""
    text = dump_json({"service": service, "names": names})
    identity = {"tasks": len(names), "digest": hashlib.sha256(text.encode("utf-8")).hexdigest()}
    resumed, earlier = load_checkpoint(run_id, STEP)
    if not resumed:
        earlier = save_checkpoint(run_id, STEP, identity)
    if earlier != identity:
        raise RunConflict(
            f"run id {run_id} was used with {earlier['tasks']:,} other tasks or another service; "
            "give these tasks a run id of their own"
        )
    return resumed


def load_names(key: str) -> list[Json]:
    """The documents of a JSON Lines object in the bucket. Raises InputError, which names the line."""
    try:
        body = s3().get_object(Bucket=settings().bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise
        raise InputError(f"at $.names: there is no object {key} in the bucket {settings().bucket}") from None
    lines = body.decode("utf-8", "surrogateescape").split("\n")
    names = []
    for record in read_json_lines(key, lines):
        if isinstance(record, Reject):
            raise InputError(f"{key}, line {record.line}: {record.reason}")
        names.append(record.values)
    return names
