"""S3, Step Functions and the batch machine in memory, and API Gateway's events, for tests of the handlers."""

import base64
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import simplejson
from botocore.exceptions import ClientError

MACHINES = "arn:aws:states:us-east-1:123456789012:stateMachine:stack-"


def client_error(code: str, operation: str) -> ClientError:
    """What boto3 raises for an AWS service's error code."""
    return ClientError({"Error": {"Code": code, "Message": "from the fake"}}, operation)


@dataclass
class Faults:
    """Calls that fail: `faults.add("get_object", "SlowDown", times=2)`."""

    codes: dict[str, list[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def add(self, operation: str, code: str, *, times: int = 1) -> None:
        self.codes.setdefault(operation, []).extend([code] * times)

    def check(self, operation: str) -> None:
        self.calls.append(operation)
        if codes := self.codes.get(operation):
            raise client_error(codes.pop(0), operation)


class FakeS3:
    """One bucket: conditional writes are atomic, and what is written is read at once, as in S3."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.faults = Faults()
        self._lock = threading.Lock()

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        ContentType: str,
        ContentEncoding: str = "",
        Metadata: Mapping[str, str] | None = None,
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        with self._lock:
            self.faults.check("put_object")
            if IfNoneMatch == "*" and Key in self.objects:
                raise client_error("PreconditionFailed", "PutObject")
            self.objects[Key] = (Body, dict(Metadata or {}))
            return {}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        with self._lock:
            self.faults.check("get_object")
            if Key not in self.objects:
                raise client_error("NoSuchKey", "GetObject")
            body, metadata = self.objects[Key]
            return {"Body": io.BytesIO(body), "Metadata": metadata}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        with self._lock:
            self.faults.check("head_object")
            if Key not in self.objects:
                raise client_error("404", "HeadObject")
            return {"Metadata": self.objects[Key][1]}


@dataclass
class FakeExecution:
    """`status` and what goes with it, as DescribeExecution tells it."""

    input: str
    status: str = "RUNNING"
    output: str | None = None
    error: str | None = None
    cause: str | None = None
    runs: int = 0


class FakeStepFunctions:
    """Executions by name. Each new one is handed to `work`, if it is set, before StartExecution answers."""

    def __init__(self) -> None:
        self.executions: dict[str, FakeExecution] = {}
        self.faults = Faults()
        self.work: Callable[[str, FakeExecution], None] | None = None
        self._lock = threading.Lock()

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:
        assert stateMachineArn == MACHINES + "batch"
        with self._lock:
            self.faults.check("start_execution")
            earlier = self.executions.get(name)
            if earlier:
                if earlier.status == "RUNNING" and earlier.input == input:
                    return {}
                raise client_error("ExecutionAlreadyExists", "StartExecution")
            execution = self.executions[name] = FakeExecution(input)
        if self.work:
            self.work(name, execution)
        return {}

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:
        self.faults.check("describe_execution")
        prefix, _, name = executionArn.rpartition(":")
        assert prefix == MACHINES.replace(":stateMachine:", ":execution:") + "batch"
        execution = self.executions.get(name)
        if execution is None:
            raise client_error("ExecutionDoesNotExist", "DescribeExecution")
        fields = ("status", "input", "output", "error", "cause")
        return {name: getattr(execution, name) for name in fields if getattr(execution, name) is not None}


def run_batch(name: str, execution: FakeExecution) -> None:
    """What the batch machine does, without its retries: each chunk through `process`, then `collect`."""
    from batch import collect, process

    batch = json.loads(execution.input)
    execution.runs += 1
    try:
        for chunk in range(batch["chunks"]):
            process.handler({"execution": name, "batch": batch, "chunk": chunk, "again": False}, None)
        if batch["chunks"] > 1:
            collect.handler({"execution": name, "batch": batch}, None)
    except Exception as error:  # noqa: BLE001 - whatever a Lambda raises fails the execution
        execution.error = type(error).__name__
        # As Lambda's runtime writes it.
        execution.cause = json.dumps(
            {
                "errorMessage": str(error),
                "errorType": type(error).__name__,
                "requestId": "8e1a1c4e",
                "stackTrace": ['  File "/var/task/process.py", line 42, in handler\n'],
            }
        )
        execution.status = "FAILED"
    else:
        execution.status, execution.output = "SUCCEEDED", "{}"


class FakeTime:
    """A clock that only sleeping moves; what was planned with `at` happens meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._plans: list[tuple[float, Callable[[], None]]] = []

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Plans an action so many seconds from now."""
        self._plans.append((self.now + seconds, action))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [plan for plan in self._plans if plan[0] <= self.now]
        self._plans = [plan for plan in self._plans if plan[0] > self.now]
        for _, action in due:
            action()


@dataclass
class FakeAws:
    """All of it."""

    s3: FakeS3 = field(default_factory=FakeS3)
    step_functions: FakeStepFunctions = field(default_factory=FakeStepFunctions)
    time: FakeTime = field(default_factory=FakeTime)

    @property
    def execution(self) -> FakeExecution:
        """The only execution there is."""
        (execution,) = self.step_functions.executions.values()
        return execution

    def finish(self) -> None:
        """Runs the executions that have not run yet."""
        for name, execution in self.step_functions.executions.items():
            if execution.status == "RUNNING":
                run_batch(name, execution)


BATCH_ID = "01b02bdf-0001-7b58-0003-27d60056b5a6:1:1:0:0"


def event(
    name: str,
    method: str = "GET",
    body: bytes | None = None,
    *,
    batch_id: str | None = BATCH_ID,
    as_text: bool = False,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """API Gateway's event for a request as Snowflake makes it. `as_text`: the body isn't in base64."""
    sent = {
        "Host": "abcdef1234.execute-api.us-east-1.amazonaws.com",
        "User-Agent": "snowflake/1.0",
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
        "sf-external-function-format": "json",
        "sf-external-function-format-version": "1.0",
        "sf-external-function-current-query-id": "01b02bdf-0001-7b58-0003-27d60056b5a6",
        "sf-external-function-name": "ECHO",
    }
    if batch_id is not None:
        sent["sf-external-function-query-batch-id"] = batch_id
    text = None
    if body is not None:
        text = body.decode() if as_text else base64.b64encode(body).decode()
    return {
        "resource": "/functions/{name}",
        "path": f"/functions/{name}",
        "httpMethod": method,
        "headers": sent | dict(headers or {}),
        "pathParameters": {"name": name},
        "body": text,
        "isBase64Encoded": text is not None and not as_text,
        "requestContext": {"requestId": "c6af9ac6", "identity": {"userArn": "arn"}},
    }


def post(name: str, rows: Sequence[Sequence[Any]], **options: Any) -> dict[str, Any]:
    """A POST with these rows, which are numbered here."""
    data = {"data": [[number, *row] for number, row in enumerate(rows)]}
    return event(name, "POST", simplejson.dumps(data, use_decimal=True).encode(), **options)
