"""Runs of workflows, for those who look after them: from SQL (run_status, ...) and from a terminal."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from core.catalog import read_workflows
from core.errors import named_for_retry
from core.executions import short_cause

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

# What a service that has no RedriveExecution answers, and AWS where this execution cannot be redriven.
NOT_REDRIVABLE = ("ExecutionNotRedrivable", "UnknownOperationException", "InvalidAction", "UnknownOperation")

MAX_NAME = 80


class RunError(Exception):
    """A run that is not there, or with which this cannot be done; the message says what can."""


@dataclass(frozen=True)
class Run:
    """A workflow's execution. `handle` is its ARN; `error` and `cause` are empty unless it failed."""

    handle: str
    workflow: str
    status: str
    started: datetime
    stopped: datetime | None
    input: Any
    output: Any
    error: str
    cause: str

    @property
    def name(self) -> str:
        """The execution's name, unique for its state machine in 90 days."""
        return self.handle.rpartition(":")[2]

    @property
    def run_id(self) -> str:
        """The id under which its checkpoints are: the input's, or the execution's name."""
        given = self.input.get(_run_id_field(self.workflow)) if isinstance(self.input, dict) else None
        return str(given or self.name)

    @property
    def is_running(self) -> bool:
        """Whether it may still succeed by itself."""
        return self.status in ("RUNNING", "PENDING_REDRIVE")


@named_for_retry()
def find_run(client: "SFNClient", handle: str) -> Run:
    """The run that a handle names. Raises RunError, or TransientError."""
    workflow = _workflow(handle)
    try:
        found = client.describe_execution(executionArn=handle)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("ExecutionDoesNotExist", "InvalidArn", "ValidationException"):
            raise RunError(f"there is no run {handle!r}, or it ended more than 90 days ago") from None
        # The Lambdas may see their own stack's runs.
        if code in ("AccessDeniedException", "AccessDenied"):
            raise RunError(f"{handle!r} is not a run of this stack's workflows") from None
        raise
    return Run(
        handle=handle,
        workflow=workflow,
        status=found["status"],
        started=found["startDate"],
        stopped=found.get("stopDate"),
        input=json.loads(found["input"]),
        output=json.loads(found["output"]) if found["status"] == "SUCCEEDED" else None,
        error=found.get("error", ""),
        cause=short_cause(found.get("cause", "")),
    )


@named_for_retry()
def resume_run(client: "SFNClient", handle: str) -> Run:
    """Runs what is left of a run that failed, timed out or was stopped; finished steps are not repeated.

    Where the service redrives the execution, it goes on under its own handle. Else a new run with the same
    input and the run id of the first skips what that has checkpoints of. Safe to repeat: a resumption that is
    under way or has ended well is found again and no other is started. Raises RunError, or TransientError.
    """
    run = find_run(client, handle)
    if run.is_running:
        return run
    if run.status == "SUCCEEDED":
        raise RunError(f"{run.name} ended well; there is nothing to resume")
    return _redrive(client, run) or _start_again(client, run)


def _redrive(client: "SFNClient", run: Run) -> Run | None:
    # Some machines clean up after a failure; a redrive would begin there, behind what failed.
    if not read_workflows()[run.workflow].schema.get("x-redrive", True):
        return None
    try:
        client.redrive_execution(executionArn=run.handle)
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_REDRIVABLE:
            raise
        # Perhaps because another redrive, at the same time, was quicker.
        now = find_run(client, run.handle)
        return now if now.is_running else None
    return _going_on(run)


def _start_again(client: "SFNClient", run: Run) -> Run:
    if not isinstance(run.input, dict):
        raise RunError(f"the input of {run.name} is no JSON object; start a new run")
    machine, _, _ = run.handle.replace(":execution:", ":stateMachine:").rpartition(":")
    document = json.dumps({**run.input, _run_id_field(run.workflow): run.run_id})
    number = 0
    while True:
        number += 1
        suffix = f"-r{number}"
        name = run.name[: MAX_NAME - len(suffix)] + suffix
        try:
            started = client.start_execution(stateMachineArn=machine, name=name, input=document)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
                raise
        else:
            again = replace(run, handle=started["executionArn"], input=json.loads(document))
            return replace(_going_on(again), started=started["startDate"])
        earlier = find_run(client, f"{run.handle.removesuffix(run.name)}{name}")
        # Long names may end alike: the run id tells whose resumption it is.
        if earlier.run_id == run.run_id and (earlier.is_running or earlier.status == "SUCCEEDED"):
            return earlier


def _going_on(run: Run) -> Run:
    # What DescribeExecution will say; it may take a moment until it does.
    return replace(run, status="RUNNING", stopped=None, output=None, error="", cause="")


def _workflow(handle: str) -> str:
    # arn:aws:states:{region}:{account}:execution:{stack}-{workflow}:{name}
    machine = handle.split(":")[6] if handle.count(":") == 7 else ""  # noqa: PLR2004 - the parts of an ARN
    for name in read_workflows():
        if machine.endswith(f"-{name}"):
            return name
    raise RunError(
        f"{handle!r} is not a run of a workflow: a handle is the ARN of an execution of one of "
        f"{', '.join(read_workflows())}"
    )


def _run_id_field(workflow: str) -> str:
    return read_workflows()[workflow].run_id
