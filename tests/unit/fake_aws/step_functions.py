"""AWS Step Functions in memory: executions that run only as far as a test takes them."""

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.unit.fake_aws.faults import AwsError

MACHINES = "arn:aws:states:us-east-1:123456789012:stateMachine:stack-"
EXECUTIONS = MACHINES.replace(":stateMachine:", ":execution:")
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

MAX_INPUT_BYTES = 262_144

_ARN = re.compile(r"arn:aws:states:[a-z0-9-]+:\d{12}:execution:[^:]+:[^:]+")
# https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
_NAME = re.compile(r'[^\s<>{}\[\]?*"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]{1,80}')


def execution_arn(machine: str, name: str) -> str:
    """The ARN of an execution of the stack's machine."""
    return f"{EXECUTIONS}{machine}:{name}"


@dataclass
class FakeExecution:
    """An execution, which a test may change. `runs`: how often a test ran it."""

    arn: str
    input: str = "{}"
    status: str = "RUNNING"
    output: str | None = None
    error: str | None = None
    cause: str | None = None
    runs: int = 0
    started: datetime = NOON

    @property
    def name(self) -> str:
        return self.arn.rpartition(":")[2]

    @property
    def machine(self) -> str:
        """The machine's name in the stack."""
        return self.arn.removeprefix(EXECUTIONS).partition(":")[0]

    def describe(self) -> dict[str, Any]:
        """The answer of DescribeExecution, without what does not apply."""
        is_open = self.status in ("RUNNING", "PENDING_REDRIVE")
        answer = {
            "executionArn": self.arn,
            "stateMachineArn": f"{MACHINES}{self.machine}",
            "name": self.name,
            "status": self.status,
            "startDate": self.started,
            "stopDate": None if is_open else self.started,
            "input": self.input,
            "output": self.output,
            "error": self.error,
            "cause": self.cause,
        }
        return {member: value for member, value in answer.items() if value is not None}


class Callback(NamedTuple):
    """What a worker answered to a task that waits for it: its output, or its error and cause."""

    token: str
    output: str | None
    error: str | None
    cause: str | None


class FakeStepFunctions:
    """`executions`: by ARN. `work`: is handed each new one before StartExecution answers, if it is set.

    `callbacks`: of all tasks, in order; any token is that of a task that waits, once. `redrives`: whether
    there is RedriveExecution. `machines`: those of the stack.
    """

    machines = ("batch", "etl", "fan_out", "ingest", "pipeline")

    def __init__(self) -> None:
        self.executions: dict[str, FakeExecution] = {}
        self.callbacks: list[Callback] = []
        self.work: Callable[[FakeExecution], None] | None = None
        self.redrives = True
        self._lock = threading.Lock()

    def add(
        self, machine: str, name: str, status: str = "RUNNING", document: Any = None, **ended: Any
    ) -> str:
        """An execution that others started; returns its ARN."""
        arn = execution_arn(machine, name)
        text = json.dumps({} if document is None else document)
        self.executions[arn] = FakeExecution(arn, text, status, started=self._now(), **ended)
        return arn

    # Operations

    def start_execution(self, *, stateMachineArn: str, input: str, name: str | None = None) -> dict[str, Any]:
        name = name or str(uuid.uuid4())
        machine = stateMachineArn.removeprefix(MACHINES)
        if machine not in self.machines:
            raise AwsError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{stateMachineArn}'")
        if not _NAME.fullmatch(name):
            raise AwsError("InvalidName", f"Invalid Name: '{name}'")
        if len(input.encode()) > MAX_INPUT_BYTES:
            raise AwsError("ValidationException", "Value at 'input' failed to satisfy constraint")
        try:
            json.loads(input)
        except ValueError:
            raise AwsError("InvalidExecutionInput", "Invalid State Machine Execution Input") from None
        arn = execution_arn(machine, name)
        with self._lock:
            earlier = self.executions.get(arn)
            if earlier and (earlier.status, earlier.input) != ("RUNNING", input):
                raise AwsError("ExecutionAlreadyExists", f"Execution Already Exists: '{arn}'")
            execution = self.executions.setdefault(arn, FakeExecution(arn, input, started=self._now()))
        if self.work and not earlier:
            self.work(execution)
        return {"executionArn": arn, "startDate": execution.started}

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        return self._find(executionArn).describe()

    def list_executions(
        self, *, stateMachineArn: str, maxResults: int = 100, statusFilter: str | None = None
    ) -> dict[str, Any]:
        members = ("executionArn", "stateMachineArn", "name", "status", "startDate", "stopDate")
        described = [
            execution.describe()
            for execution in self.executions.values()
            if f"{MACHINES}{execution.machine}" == stateMachineArn
            and statusFilter in (None, execution.status)
        ]
        newest = described[::-1][:maxResults]
        return {"executions": [{m: each[m] for m in members if m in each} for each in newest]}

    def get_execution_history(self, *, executionArn: str, reverseOrder: bool = False) -> dict[str, Any]:
        started = self._find(executionArn).started
        return {"events": [{"type": "ExecutionStarted", "id": 1, "timestamp": started}]}

    def stop_execution(self, *, executionArn: str, error: str, cause: str) -> dict[str, Any]:
        execution = self._find(executionArn)
        execution.status, execution.error, execution.cause = "ABORTED", error, cause
        return {"stopDate": self._now()}

    def redrive_execution(self, *, executionArn: str) -> dict[str, Any]:
        if not self.redrives:
            raise AwsError("ExecutionNotRedrivable", "the execution ended more than 14 days ago")
        execution = self._find(executionArn)
        if execution.status not in ("FAILED", "TIMED_OUT", "ABORTED"):
            raise AwsError("ExecutionNotRedrivable", f"Execution is {execution.status} and not redrivable")
        execution.status, execution.error, execution.cause = "RUNNING", None, None
        return {"redriveDate": NOON}

    def send_task_success(self, *, taskToken: str, output: str) -> None:
        json.loads(output)
        self._answer(Callback(taskToken, output, None, None))

    def send_task_failure(self, *, taskToken: str, error: str, cause: str) -> None:
        self._answer(Callback(taskToken, None, error, cause))

    def _now(self) -> datetime:
        # One execution after another, so that the newest can be told.
        return NOON + timedelta(milliseconds=len(self.executions))

    def _answer(self, callback: Callback) -> None:
        with self._lock:
            if any(earlier.token == callback.token for earlier in self.callbacks):
                raise AwsError("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
            self.callbacks.append(callback)

    def _find(self, arn: str) -> FakeExecution:
        if not _ARN.fullmatch(arn):
            raise AwsError("InvalidArn", f"Invalid Arn: '{arn}'")
        with self._lock:
            if arn not in self.executions:
                raise AwsError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
            return self.executions[arn]
