"""The tasks of a fan-out run: checked, stored, and planned in groups, one for each child execution."""

import hashlib
from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError

from core import inputs
from core.catalog import read_workflows
from core.checkpoints import RunConflict, load_checkpoint, save_checkpoint
from core.clients import s3
from core.errors import reraise_transient
from core.exact_json import Json, dump_json
from core.inputs import InputError
from core.records import Reject, read_json_lines
from core.services import load_service
from core.settings import settings
from fan_out import tasks
from fan_out.tasks import GroupedTaskPlan, TaskGroup

logger = Logger()

DEFAULT_SERVICE = "hostname"

# The groups pass through the machine as one document of at most 256 KiB, with 6 bytes for each task's number.
MAX_TASKS = 30_000

STEP = "fan-out"


class Event(TypedDict):
    """What the machine sends. `round`: the execution and how often it was redriven."""

    input: dict[str, Any]
    run_id: str
    round: str


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> GroupedTaskPlan:
    """Plans the tasks that are not done. Raises InputError, RunConflict, UnknownService."""
    logger.append_keys(run_id=event["run_id"])
    plan = split(event)
    logger.info("plan", extra={"tasks": plan["tasks"], "groups": len(plan["groups"])})
    return plan


def split(event: Event) -> GroupedTaskPlan:
    """The plan. What it stores has the same content for the same input, so a retry changes nothing."""
    run_id = event["run_id"]
    try:
        document = inputs.validate(read_workflows()["fan_out"], event["input"])
    except InputError as error:
        raise InputError(f"the input of fan_out: {error}") from None
    service = document.get("service", DEFAULT_SERVICE)
    load_service(service)
    names = document["names"] if isinstance(document["names"], list) else load_names(document["names"])
    if len(names) > MAX_TASKS:
        raise InputError(f"{len(names):,} tasks in one run; at most {MAX_TASKS:,}: start several runs")
    resumed = claim_run_id(run_id, service, names)
    groups = []
    for group, numbers in tasks.groups_of(len(names)):
        done = done_tasks(run_id, group) if resumed else set()
        pending = [number for number in numbers if number not in done]
        if pending:
            tasks.store_documents(run_id, group, names[numbers.start : numbers.stop])
            groups.append(TaskGroup(run_id=run_id, round=event["round"], service=service, tasks=pending))
    return GroupedTaskPlan(
        run_id=run_id,
        round=event["round"],
        tasks=len(names),
        on_task_error=document.get("on_task_error", "fail"),
        groups=groups,
    )


def done_tasks(run_id: str, group: int) -> set[int]:
    """The numbers of a group's tasks that are done."""
    return {number for number, state in tasks.load_states(run_id, group).items() if state.status == "done"}


def claim_run_id(run_id: str, service: str, names: list[Json]) -> bool:
    """Binds the run id to these tasks; True if it was before. Raises RunConflict if it is bound to others."""
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
