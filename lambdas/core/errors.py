"""The errors of the Lambdas, and what becomes of each.

Two families. An ApiError is answered to the caller of the API, here and now: its class is the table of
statuses. A TaskError is raised in a machine's Task: its class name is what the machine's Retry matches, and
what a SQL user later sees as `error`.

Retried by the machine: TransientError only (with Lambda's own transient errors, and a dead or timed-out
worker once). Final: all other TaskErrors, since trying again would give the same.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


class ApiError(Exception):
    """Answered as `status` with {"error": its class name, "message": its message}.

    Snowflake fails the query at once on a 4xx and shows the body; it repeats on 429 and 5xx.
    """

    status = 500


class BadRequest(ApiError):
    """The request is not what Snowflake sends; the message says what is wrong and where."""

    status = 400


class UnknownTarget(ApiError):
    """No remote function or workflow of that name; the message lists what there is."""

    status = 404


class UnknownBatch(ApiError):
    """A GET for a batch that was never POSTed."""

    status = 404


class BatchConflict(ApiError):
    """The same batch id came with other rows."""

    status = 409


class ResultExpired(ApiError):
    """The batch was answered, and its result has since been deleted by the bucket's lifecycle."""

    status = 410


class RequestTooLarge(ApiError):
    """More rows in a batch than one request can carry."""

    status = 413


class ResultTooLarge(ApiError):
    """The answer does not fit a response; final, as it will not shrink."""

    status = 422


class BatchFailed(ApiError):
    """The execution failed, timed out or was stopped; `error`, `cause`, `execution` are answered."""

    status = 422

    def __init__(self, error: str, cause: str, execution: str) -> None:
        super().__init__(cause)
        self.error = error
        self.cause = cause
        self.execution = execution


class Throttled(ApiError):
    """AWS asked to slow down; Snowflake does so on 429 and comes again with the same batch id."""

    status = 429


class RunUnfinished(Exception):
    """A workflow run of an earlier try is still at work; the machine asks again later."""


class TaskError(Exception):
    """A Task that could not be done. Final, unless it is a TransientError."""


class TransientError(TaskError):
    """What may well succeed a moment later: a connection, a throttle. A remote function may raise it."""


class FunctionError(TaskError):
    """The remote function raised; the message is its error's type and text, and the row."""


class ArgumentError(TaskError):
    """A row's argument is not of the type that the function's hint names."""


class ResultError(TaskError):
    """The remote function returned too few or too many rows, or a value JSON cannot carry."""


# Error codes by which AWS services say "slow down" or "my fault":
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
TRANSIENT_CODES = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


def is_missing(error: "ClientError") -> bool:
    """Whether S3 has no such object: GET names the reason, HEAD has no body and gives the status alone."""
    return error.response["Error"]["Code"] in ("NoSuchKey", "404")


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a moment later."""
    if isinstance(error, TransientError | ConnectionError | TimeoutError):
        return True
    # Whoever can raise botocore's errors has imported it; this module does not make others pay for it.
    botocore = sys.modules.get("botocore.exceptions")
    if botocore is None:
        return False
    if isinstance(error, botocore.ClientError):
        return error.response.get("Error", {}).get("Code") in TRANSIENT_CODES
    network = botocore.HTTPClientError | botocore.ConnectionError | botocore.IncompleteReadError
    return isinstance(error, network)


@contextmanager
def named_for_retry() -> Iterator[None]:
    """What is transient leaves as a TransientError, the name that the machine's Retry matches."""
    try:
        yield
    except Exception as error:
        if is_transient(error) and not isinstance(error, TransientError):
            raise TransientError(f"{type(error).__name__}: {error}") from error
        raise
