"""The errors of the API, each with the HTTP status that answers it.

Snowflake fails the query at once on a 4xx and shows the body. It retries the request on 429 and 5xx, with the
same batch id.
"""


class ApiError(Exception):
    """Answered as `status` with {"error": its class name, "message": its message}."""

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
    """The batch was answered, and the bucket's lifecycle has deleted its result since."""

    status = 410


class RequestTooLarge(ApiError):
    """More rows in a batch than one request can carry."""

    status = 413


class ResultTooLarge(ApiError):
    """The answer does not fit a response; final, as the same batch has the same answer."""

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
    """AWS throttled a call, or more calls are queued than a function's limit allows in a batch's time.

    On 429 Snowflake slows down and retries the request.
    """

    status = 429
