"""The errors of a machine's Tasks, and which of them are retried.

The class name of a TaskError is what the machine's Retry matches, and what a SQL user sees as `error`.
Retried by the machine: TransientError and RateLimited (with Lambda's own transient errors, and a worker that
died or timed out). Final: all other TaskErrors, since a retry would fail in the same way.

The errors that the API answers are in `batch.errors`.
"""

import sys
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

P = ParamSpec("P")
T = TypeVar("T")


class TaskError(Exception):
    """A Task that failed. Final, unless it is a TransientError."""


class TransientError(TaskError):
    """An error that a retry may avoid: a lost connection, a throttle. A remote function may raise it."""


class ThrottleError(TransientError):
    """The service that is called asks for fewer calls, as by HTTP's 429. A remote function may raise it."""


class RateLimited(TransientError):
    """The invocation's time ended while it waited for a limit; the machine tries again later."""


class RateLimitExceeded(TaskError):
    """The limit did not allow all calls in the batch's time; the message names the limit and the remedy."""


class FunctionError(TaskError):
    """The remote function raised; the message is its error's type and text, and the row."""


class ArgumentError(TaskError):
    """A row's argument is not of the type that the function's hint names."""


class ResultError(TaskError):
    """The remote function returned too few or too many rows, or a value JSON cannot carry."""


# Error codes by which AWS services report a throttle, and those of an internal error:
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
THROTTLE_CODES = frozenset(
    {
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
TRANSIENT_CODES = THROTTLE_CODES | {
    # A million executions are open: those that end make room.
    # https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    "ExecutionLimitExceeded",
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "InternalServerException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
}


def is_missing(error: "ClientError") -> bool:
    """Whether S3 has no such object: GET names the reason, HEAD has no body, so there is only the status."""
    return error.response["Error"]["Code"] in ("NoSuchKey", "404")


def is_throttle(error: BaseException) -> bool:
    """Whether a call was refused only because there were too many: by AWS, or with status 429 by another."""
    if isinstance(error, ThrottleError):
        return True
    # Of urllib and of urllib3, of requests and of httpx: their errors have the status in one of these places.
    response = getattr(error, "response", None)
    if HTTPStatus.TOO_MANY_REQUESTS in (getattr(error, "code", None), getattr(response, "status_code", None)):
        return True
    botocore = sys.modules.get("botocore.exceptions")
    if botocore is None:
        return False
    return isinstance(error, botocore.ClientError) and _code(error) in THROTTLE_CODES


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed when it is retried."""
    if isinstance(error, TransientError | ConnectionError | TimeoutError) or is_throttle(error):
        return True
    # Code that can raise botocore's errors has imported it; other code need not wait for the import.
    botocore = sys.modules.get("botocore.exceptions")
    if botocore is None:
        return False
    if isinstance(error, botocore.ClientError):
        # The answer to a HEAD has no body, so its code is only the status: "503".
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        is_named = _code(error) in TRANSIENT_CODES
        return (
            is_named or status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        )
    network = botocore.HTTPClientError | botocore.ConnectionError | botocore.IncompleteReadError
    return isinstance(error, network)


def _code(error: "ClientError") -> str | None:
    return error.response.get("Error", {}).get("Code")


def reraise_transient(function: Callable[P, T]) -> Callable[P, T]:
    """Makes each transient error of a function a TransientError, which the machine's Retry names."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if is_transient(error) and not isinstance(error, TransientError):
                raise TransientError(f"{type(error).__name__}: {error}") from error
            raise

    return wrapper
