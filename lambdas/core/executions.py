"""Step Functions executions: one for each batch, named so that a repeated request gets the same one."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from core.clients import stepfunctions
from core.errors import TransientError, is_transient
from core.exact_json import dump_json
from core.settings import settings
from core.shorten import shorten

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

# Input, output and state data of an execution, as UTF-8.
# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_PAYLOAD_BYTES = 262_144

CAUSE_CHARS = 500

Status = Literal["RUNNING", "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED", "PENDING_REDRIVE"]

# The cause where Step Functions gives none.
_CAUSES = {
    "TIMED_OUT": "it ran past the state machine's time limit",
    "ABORTED": "it was stopped by an operator",
}


@dataclass(frozen=True)
class Execution:
    """What DescribeExecution says. `input` and `output` are JSON documents, `output` None until success.

    `error` and `cause` are empty unless it failed, timed out or was stopped.
    """

    arn: str
    status: Status
    started: datetime
    stopped: datetime | None
    input: Any
    output: Any
    error: str
    cause: str

    @property
    def name(self) -> str:
        """The execution's name, unique for its state machine in 90 days."""
        return self.arn.rpartition(":")[2]

    @property
    def is_running(self) -> bool:
        """Whether it may still succeed without being resumed."""
        return self.status in ("RUNNING", "PENDING_REDRIVE")


def execution_name(kind: str, name: str, batch_id: str) -> str:
    """The name of a batch's execution: readable, and valid for any batch id (names cannot contain `:`).

    At most 73 characters of [0-9A-Za-z_-]; 160 bits of a hash make it unique. `kind`: functions or workflows,
    as in the URL.
    """
    digest = hashlib.sha256(json.dumps([kind, name, batch_id]).encode()).hexdigest()
    readable = re.sub("[^0-9A-Za-z_-]", "_", name)[:32]
    return f"{readable}-{digest[:40]}"


def execution_arn(machine: str, execution: str) -> str:
    """The ARN of an execution of statemachines/{machine}.asl.json."""
    return settings().state_machine_arn(machine).replace(":stateMachine:", ":execution:") + ":" + execution


def start_execution(machine: str, execution: str, document: Any) -> bool:
    """Starts an execution; False where one of that name exists (running with another input, or closed).

    A repeated start with the same input, while it runs, returns True as the first one. Raises TransientError.
    """
    try:
        stepfunctions().start_execution(
            stateMachineArn=settings().state_machine_arn(machine),
            name=execution,
            input=dump_json(document),
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionAlreadyExists":
            return False
        if is_transient(error):
            raise TransientError(
                "Step Functions is throttling StartExecution; try again in a moment"
            ) from error
        raise
    return True


def describe_execution(arn: str, client: "SFNClient | None" = None) -> Execution | None:
    """The execution, or None where there is none (or it is not visible yet). Raises TransientError.

    `client`: for the execution's account; by default the Lambda's own.
    """
    try:
        answer = (client or stepfunctions()).describe_execution(executionArn=arn)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ExecutionDoesNotExist":
            return None
        if is_transient(error):
            raise TransientError(
                "Step Functions is throttling DescribeExecution; try again in a moment"
            ) from error
        raise
    status = answer["status"]
    has_failed = status in ("FAILED", "TIMED_OUT", "ABORTED")
    return Execution(
        arn=arn,
        status=status,
        started=answer["startDate"],
        stopped=answer.get("stopDate"),
        input=json.loads(answer["input"]),
        output=json.loads(answer["output"]) if status == "SUCCEEDED" and "output" in answer else None,
        error=answer.get("error") or status if has_failed else "",
        cause=short_cause(answer.get("cause") or _CAUSES.get(status, "no cause was given"))
        if has_failed
        else "",
    )


def short_cause(cause: str) -> str:
    """A cause for users: of a Lambda's error document only the message, without the stack trace."""
    try:
        document = json.loads(cause)
    except ValueError:
        document = None
    if isinstance(document, dict) and "errorMessage" in document:
        cause = str(document["errorMessage"])
    return shorten(cause, CAUSE_CHARS)
