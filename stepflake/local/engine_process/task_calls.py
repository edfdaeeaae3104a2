"""One call of a state machine's Task: with the role of the machine, within the rates of what it calls.

MiniStack makes these calls as Python functions, as root and without limits. Here each of them is authorized
and counted, and may have one of the faults that were asked for, as a role's requests over HTTP have. Where it
is refused or its answer is lost, the Task fails with AWS's name for that.

Names of errors: an integration's prefix, and the class of the exception in AWS's SDK for Java: the one of the
error code where the service's model has one, else the service's base class.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
Reported from AWS are Lambda.AWSLambdaException for a denial, with the form of its cause
(https://github.com/awslabs/aws-deployment-framework/issues/460), and SQS.AmazonSQSException and
StepFunctions.AWSStepFunctionsException for a throttle. The others follow from the rule.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from stepflake.local.engine_process import requests
from stepflake.local.engine_process.roles import ServiceRole

STATES_PRINCIPAL = "states.amazonaws.com"

# What AWS says where a role's trust policy does not let Step Functions assume it, or where the role is gone.
NOT_ASSUMED = (
    "Neither the global service principal states.amazonaws.com, nor the regional one is authorized to assume"
    " the provided role."
)

Document = dict[str, Any]


@dataclass(frozen=True)
class Errors:
    """How a service's errors are named in a Task. `denied`: the exception, its code and status.

    `throttled`, `failed`: the exceptions. `details`: of a cause, in the form that the integration's SDK gives
    it.
    """

    prefix: str
    denied: tuple[str, str, int]
    throttled: str
    failed: str
    details: str

    def error(self, exception: str, message: str, code: str, status: int) -> Exception:
        details = self.details.format(code=code, status=status, request=uuid.uuid4())
        return task_error(f"{self.prefix}.{exception}", f"{message} ({details})")

    def lost(self) -> Exception:
        return task_error(
            f"{self.prefix}.SdkClientException", "Unable to execute HTTP request: Read timed out"
        )


@dataclass(frozen=True)
class Machine:
    """Whose Task it is: an execution, and the ARN and role of its machine."""

    execution: Document
    arn: str
    role: ServiceRole

    def authorize(
        self, action: str, resource: str, errors: Errors, context: Mapping[str, Any] | None = None
    ) -> None:
        """Raises the Task's error where the role may not do this. `context`: the request's condition keys."""
        exception, code, status = errors.denied
        if not self.role.can_be_assumed():
            raise errors.error(exception, NOT_ASSUMED, code, status)
        if message := self.role.denial(action, resource, context):
            raise errors.error(exception, message, code, status)


# None outside of Tasks, within what a Task's call does in turn, and where the engine enforces no IAM.
_machine: ContextVar[Machine | None] = ContextVar("machine", default=None)


def current_machine() -> Machine | None:
    """The machine whose Task or Map this thread runs, if any."""
    return _machine.get()


@dataclass(frozen=True)
class TaskCall:
    """`request`: as it would be over HTTP. `resources`: the ARNs for which it needs the right. `context`:
    condition keys."""

    request: requests.Call
    resources: tuple[str, ...]
    errors: Errors
    context: Mapping[str, Any] = field(default_factory=dict)

    def run(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, if the machine may make it; raises the Task's error otherwise."""
        machine = _machine.get()
        if machine is None:
            return call()
        for resource in self.resources:
            machine.authorize(self.request.action, resource, self.errors, self.context)
        expected = requests.fate(f"machine/{self.request.name}")
        if expected.delay:
            time.sleep(expected.delay)
        if error := requests.reason(self.request.service, list(self.request.charges()), expected):
            code, status, message = error
            exception = self.errors.failed if expected.failed else self.errors.throttled
            raise self.errors.error(exception, message, code, status)
        # What the called service does in turn is not the machine's call.
        token = _machine.set(None)
        try:
            with machine.role.acting():
                if not expected.lost:
                    return call()
                with suppress(_execution_error()):
                    call()
                raise self.errors.lost()
        finally:
            _machine.reset(token)


def install() -> None:
    """Lets calls know whose they are. After what changes how executions run."""
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    stepfunctions._execute_task = _as_machine(stepfunctions._execute_task)
    stepfunctions._execute_map = _as_machine(stepfunctions._execute_map)


def task_error(error: str, cause: str) -> Exception:
    """The exception that ends a Task with this error."""
    return _execution_error()(error, cause)


def _execution_error() -> type[Exception]:
    from ministack.services import stepfunctions

    error: type[Exception] = stepfunctions._ExecutionError
    return error


def _as_machine(execute: Callable[..., Any]) -> Callable[..., Any]:
    def as_machine(state: Document, value: Any, execution: Document, context: Document) -> Any:
        with _machine_of(execution):
            return execute(state, value, execution, context)

    return as_machine


@contextmanager
def _machine_of(execution: Document) -> Iterator[None]:
    from ministack import app  # type: ignore[import-untyped]

    token = _machine.set(_find_machine(execution) if app.AUTH else None)
    try:
        yield
    finally:
        _machine.reset(token)


def _find_machine(execution: Document) -> Machine | None:
    from ministack.services import stepfunctions

    # The machine of a distributed Map's children has the Map's label behind a slash.
    arn = execution["stateMachineArn"].partition("/")[0]
    # A running execution keeps the role with which it was started, as it keeps the definition.
    # https://docs.aws.amazon.com/step-functions/latest/apireference/API_UpdateStateMachine.html
    started: Document = next(iter(_parent_of(execution)["events"]), {})
    role = started.get("executionStartedEventDetails", {}).get("roleArn")
    if role is None and (record := stepfunctions._state_machines.get(arn)):
        role = record["roleArn"]
    return Machine(execution, arn, ServiceRole(role, STATES_PRINCIPAL, arn)) if role else None


def _parent_of(execution: Document) -> Document:
    """The execution whose distributed Map started this one; itself where none did."""
    from ministack.services import stepfunctions

    run = stepfunctions._map_runs.get(execution.get("mapRunArn"))
    parent = run and stepfunctions._executions.get(run["executionArn"])
    return _parent_of(parent) if parent else execution
