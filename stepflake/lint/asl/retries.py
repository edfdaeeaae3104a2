"""Retry and Catch: the errors they name, the pace of retries, and the project's named retry policies."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepflake.lint.asl import schema
from stepflake.lint.asl.expressions import PLACEHOLDER
from stepflake.lint.asl.fields import lint_fields
from stepflake.lint.finding import Finding, did_you_mean
from stepflake.lint.values import objects, strings

State = Mapping[str, Any]

# Lambda's own errors; a few tries are enough.
_LAMBDA_ERRORS = ("Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException")
# With the one that the project's Lambdas raise for an error that is transient.
_TRANSIENT_ERRORS = ("TransientError", *_LAMBDA_ERRORS)
# All of the account's concurrency is in use, which may last for minutes.
_THROTTLED = "Lambda.TooManyRequestsException"
# A function's calls wait for a limit that all share (core.calls), and the Lambda's time ended before.
_RATE_LIMITED = "RateLimited"
# The names of the error of a Lambda process that died or ran out of time: it depends on what noticed it, and
# when. Runtime.Unknown: it ended, or ran out of time, while it was initialized. An exception during
# initialization has its own name, or Runtime.ImportModuleError, Runtime.HandlerNotFound or
# Runtime.UserCodeSyntaxError: these are final.
# https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html
# https://github.com/aws/aws-lambda-runtime-interface-emulator/blob/develop/internal/lambda/fatalerror/fatalerror.go
_DEAD_WORKER_ERRORS = (
    "States.Timeout",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.Unknown",
    "Sandbox.Timedout",
    "Runtime.ExitError",
    "Runtime.OutOfMemory",
    "Runtime.Unknown",
)
# What AWS asks to retry on every Lambda task:
# https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html
_LAMBDA_MAY_RECOVER = (*_LAMBDA_ERRORS, "Lambda.ClientExecutionTimeoutException", _THROTTLED)
# StartExecution has no error of its own for a throttle, so a Task gets the general one, which stands for
# final errors too: few tries.
# https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html#API_StartExecution_Errors
_START_ERRORS = (
    "StepFunctions.SdkClientException",
    "StepFunctions.AWSStepFunctionsException",
    "StepFunctions.ExecutionLimitExceededException",
)
# States.ALL does not catch it, its own name does:
# https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
_TERMINAL_ERROR = "States.DataLimitExceeded"
_COMMENT = "Comment"


@dataclass(frozen=True)
class RetryPolicy:
    """A Retry that several Tasks have. `purpose`: which Tasks it is for."""

    purpose: str
    retry: Sequence[Mapping[str, Any]]


def _retrier(errors: Sequence[str], attempts: int, **pace: Any) -> dict[str, Any]:
    return {
        "ErrorEquals": list(errors),
        "IntervalSeconds": 1,
        "MaxAttempts": attempts,
        "BackoffRate": 2,
        "JitterStrategy": "FULL",
        **pace,
    }


# With FULL jitter each wait is between 0 and its delay: together 253 s on average and 507 s at most, which
# is less than the 600 s that a batch may take. They grow slowly: what is free again soon is used soon.
_WAIT = {"BackoffRate": 1.25, "MaxDelaySeconds": 20}
_WAIT_FOR_CONCURRENCY = _retrier((_THROTTLED,), 35, **_WAIT)
_WAIT_FOR_LIMITS = _retrier((_THROTTLED, _RATE_LIMITED), 35, **_WAIT)

# A Task has one of these, or says in a Comment why it has another.
POLICIES = {
    "step": RetryPolicy(
        "for the project's own Lambdas: transient errors and a dead worker, 4 times",
        [_WAIT_FOR_CONCURRENCY, _retrier((*_TRANSIENT_ERRORS, *_DEAD_WORKER_ERRORS), 4, MaxDelaySeconds=30)],
    ),
    "function": RetryPolicy(
        "for users' code: transient errors 5 times, a dead worker once, as it mostly dies again",
        [
            _WAIT_FOR_LIMITS,
            _retrier(_TRANSIENT_ERRORS, 5, MaxDelaySeconds=30),
            _retrier(_DEAD_WORKER_ERRORS, 1),
        ],
    ),
    "queue": RetryPolicy(
        "for SQS:SendMessage: the errors of SQS, 5 times",
        [_retrier(("SQS.SdkClientException", "SQS.AmazonSQSException"), 5, MaxDelaySeconds=30)],
    ),
    "start": RetryPolicy(
        "for states:startExecution: the errors of Step Functions, 4 times",
        [_retrier(_START_ERRORS, 4, MaxDelaySeconds=30)],
    ),
}
_CHOICE = "; ".join(f"{name} ({policy.purpose})" for name, policy in POLICIES.items())


def lint_task_retry(task: State, where: str) -> Iterator[Finding]:
    """Whether a Task retries, covers what AWS asks for, and has a named policy or says why not."""
    retriers = objects(task.get("Retry"))
    if not retriers:
        yield Finding(where, "has no Retry", f"copy one from another Task: {_CHOICE}")
        return
    if _calls_lambda(str(task.get("Resource"))):
        covered = _retried_errors(task)
        missing = [error for error in _LAMBDA_MAY_RECOVER if error not in covered]
        if missing and not covered & {"States.ALL", "States.TaskFailed"}:
            yield Finding(
                f"{where}.Retry", f"doesn't cover {', '.join(missing)}", "add what Lambda may recover from"
            )
    without_comments = [{k: v for k, v in retrier.items() if k != _COMMENT} for retrier in retriers]
    if not any(_COMMENT in retrier for retrier in retriers) and not policy_name(without_comments):
        yield Finding(
            f"{where}.Retry",
            "is none of the project's retry policies",
            f"say why in a Comment of a retrier, or copy one from another Task: {_CHOICE}",
        )


def policy_name(retry: Sequence[Mapping[str, Any]]) -> str | None:
    """Which of the project's policies a Retry without Comments is."""
    return next((name for name, policy in POLICIES.items() if policy.retry == retry), None)


def lint_retry(state: State, where: str) -> Iterator[Finding]:
    """Each retrier of a state on its own."""
    for i, retrier in enumerate(objects(state.get("Retry"))):
        here = f"{where}.Retry[{i}]"
        yield from lint_fields(retrier, here, schema.RETRIER)
        if retrier.get("MaxAttempts") != 0:
            for field in schema.RETRIER_PACE:
                if field not in retrier:
                    yield Finding(
                        here, f"{field} is missing", schema.RETRIER["properties"][field]["description"]
                    )
    yield from _errors(state, where, "Retry")


def lint_catch(state: State, where: str) -> Iterator[Finding]:
    """Each catcher of a state, and what States.ALL does not catch."""
    named: set[str] = set()
    for i, catcher in enumerate(objects(state.get("Catch"))):
        here = f"{where}.Catch[{i}]"
        yield from lint_fields(catcher, here, schema.CATCHER)
        errors = strings(catcher.get("ErrorEquals"))
        if "States.ALL" in errors and _TERMINAL_ERROR not in named:
            yield Finding(
                f"{here}.ErrorEquals",
                f"on AWS, States.ALL doesn't catch {_TERMINAL_ERROR} (more than 256 KiB of data)",
                "put a catcher that names it before this one",
            )
        named.update(errors)
    yield from _errors(state, where, "Catch")


def _errors(state: State, where: str, field: str) -> Iterator[Finding]:
    """The names of errors in Retry or Catch, and the place of States.ALL."""
    entries = objects(state.get(field))
    for i, entry in enumerate(entries):
        here = f"{where}.{field}[{i}].ErrorEquals"
        errors = strings(entry.get("ErrorEquals"))
        if "States.ALL" in errors and len(errors) > 1:
            yield Finding(here, "States.ALL stands beside others", "let it stand alone")
        if "States.ALL" in errors and i < len(entries) - 1:
            yield Finding(here, "States.ALL hides the entries behind it", "move it to the end")
        for error in errors:
            if error.startswith("States.") and error not in schema.ERROR_NAMES:
                hint = did_you_mean(error, schema.ERROR_NAMES)
                yield Finding(here, f"Step Functions has no error {error}", f"take one it has{hint}")


def _calls_lambda(resource: str) -> bool:
    """A placeholder alone stands for a function's ARN: service integrations are written out."""
    return ":lambda:" in resource or bool(PLACEHOLDER.fullmatch(resource))


def _retried_errors(state: State) -> set[str]:
    """Errors that are retried at least once: the first retrier that names an error decides."""
    decided: dict[str, bool] = {}
    for retrier in objects(state.get("Retry")):
        for error in strings(retrier.get("ErrorEquals")):
            decided.setdefault(error, retrier.get("MaxAttempts") != 0)
    return {error for error, retried in decided.items() if retried}
