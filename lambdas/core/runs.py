"""Runs of workflows, described and resumed: for run_status and its like in SQL, and for `stepflake runs`."""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from core.catalog import read_workflows
from core.clients import stepfunctions
from core.errors import reraise_transient
from core.executions import Execution, describe_execution
from core.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

# After 14 days, or where it runs again already.
NOT_REDRIVABLE = "ExecutionNotRedrivable"

MAX_NAME = 80


class RunError(Exception):
    """A run that does not exist, or cannot be resumed; the message says what to do instead."""


@dataclass(frozen=True)
class Run(Execution):
    """An execution of a workflow's state machine. Its `arn` is the handle that SQL gets."""

    workflow: str

    @property
    def run_id(self) -> str:
        """The id under which its checkpoints are: the input's, or the execution's name."""
        given = self.input.get(_run_id_field(self.workflow)) if isinstance(self.input, dict) else None
        return str(given or self.name)


@dataclass(frozen=True)
class Runs:
    """The runs of one stack; those of other stacks are refused.

    `machine_prefix`: the ARN of each of its state machines without the workflow's name.
    """

    client: "SFNClient"
    machine_prefix: str

    @reraise_transient
    def find(self, handle: str) -> Run:
        """The run that a handle names. Raises RunError, or TransientError."""
        workflow = self._workflow(handle)
        try:
            execution = describe_execution(handle, self.client)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("AccessDeniedException", "AccessDenied"):
                raise RunError(
                    f"{handle!r} may not be described: states:DescribeExecution is denied"
                ) from None
            if code not in ("InvalidArn", "ValidationException"):
                raise
            execution = None
        if execution is None:
            raise RunError(f"there is no run {handle!r}, or it ended more than 90 days ago")
        return Run(**vars(execution), workflow=workflow)

    @reraise_transient
    def resume(self, handle: str) -> Run:
        """Runs what is left of a run that failed, timed out or was stopped; finished steps are not repeated.

        Where the service redrives the execution, it continues under its own handle. Otherwise a new run with
        the same input and run id skips the steps that have checkpoints. Safe to repeat: while a resumption
        runs or after it has succeeded, no other is started. Raises RunError, or TransientError.
        """
        run = self.find(handle)
        if run.is_running:
            return run
        if run.status == "SUCCEEDED":
            raise RunError(f"{run.name} succeeded; there is nothing to resume")
        return self._redrive(run) or self._start_again(run)

    def _redrive(self, run: Run) -> Run | None:
        # Some machines clean up after a failure; a redrive would start there, after the state that failed.
        if not read_workflows()[run.workflow].schema.get("x-redrive", True):
            return None
        try:
            self.client.redrive_execution(executionArn=run.arn)
        except ClientError as error:
            if error.response["Error"]["Code"] != NOT_REDRIVABLE:
                raise
            # Another redrive at the same time may have been faster.
            current = self.find(run.arn)
            return current if current.is_running else None
        return _as_running(run)

    def _start_again(self, run: Run) -> Run:
        if not isinstance(run.input, dict):
            raise RunError(f"the input of {run.name} is not a JSON object; start a new run")
        machine = self.machine_prefix + run.workflow
        document = json.dumps({**run.input, _run_id_field(run.workflow): run.run_id})
        number = 0
        while True:
            number += 1
            suffix = f"-r{number}"
            name = run.name[: MAX_NAME - len(suffix)] + suffix
            try:
                started = self.client.start_execution(stateMachineArn=machine, name=name, input=document)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ExecutionAlreadyExists":
                    raise
            else:
                resumed = replace(run, arn=started["executionArn"], input=json.loads(document))
                return replace(_as_running(resumed), started=started["startDate"])
            earlier = self.find(f"{run.arn.removesuffix(run.name)}{name}")
            # Two long names may have the same beginning: the run id shows which run it resumes.
            if earlier.run_id == run.run_id and (earlier.is_running or earlier.status == "SUCCEEDED"):
                return earlier

    def _workflow(self, handle: str) -> str:
        # arn:aws:states:{region}:{account}:execution:{stack}-{workflow}:{name}
        executions = self.machine_prefix.replace(":stateMachine:", ":execution:")
        for name in read_workflows():
            if handle.rpartition(":")[0] == executions + name:
                return name
        raise RunError(
            f"{handle!r} is not a run of this stack's workflows: a handle is the ARN of an execution of one "
            f"of {', '.join(read_workflows())}"
        )


def own_runs() -> Runs:
    """The runs of the stack that the Lambda belongs to."""
    return Runs(stepfunctions(), settings().state_machine_prefix)


def _as_running(run: Run) -> Run:
    # What DescribeExecution will answer: it is eventually consistent.
    return replace(run, status="RUNNING", stopped=None, output=None, error="", cause="")


def _run_id_field(workflow: str) -> str:
    return read_workflows()[workflow].run_id
