"""AWS's limits as the local engine has them: name, default, AWS's name for it, source, if it can be raised.

Defaults are those of an account in us-east-1. Figures: November 2026.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from stepflake.errors import UserError

# A rate is a token bucket: `size` requests at once, `refill` more each second. The others are maxima.
Kind = Literal["rate", "concurrency", "bytes", "count", "seconds"]

_STATES = "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"
_DESCRIBE = "https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html"
_LAMBDA = "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"
_API = "https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-execution-service-limits-table.html"
_COMPREHEND = "https://docs.aws.amazon.com/comprehend/latest/dg/guidelines-and-limits.html"
_S3 = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html"
_DYNAMODB = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"


@dataclass(frozen=True)
class Limit:
    """One limit. `refill`: tokens a second of a rate, else None. `title`: AWS's name for it."""

    name: str
    kind: Kind
    size: float
    refill: float | None
    title: str
    source: str
    adjustable: bool


def _rate(
    name: str, size: float, refill: float, title: str, source: str, *, adjustable: bool = True
) -> Limit:
    return Limit(name, "rate", size, refill, title, source, adjustable)


def _maximum(
    name: str, kind: Kind, size: float, title: str, source: str, *, adjustable: bool = False
) -> Limit:
    return Limit(name, kind, size, None, title, source, adjustable)


LIMITS = {
    limit.name: limit
    for limit in (
        _rate("states.StartExecution", 1300, 300, "StartExecution throttle token bucket", _STATES),
        _rate("states.DescribeExecution", 300, 15, "DescribeExecution throttle token bucket", _STATES),
        _rate("states.GetExecutionHistory", 400, 20, "GetExecutionHistory throttle token bucket", _STATES),
        _rate("states.ListExecutions", 200, 10, "ListExecutions throttle token bucket", _STATES),
        _rate("states.StopExecution", 1000, 200, "StopExecution throttle token bucket", _STATES),
        _rate("states.RedriveExecution", 1300, 300, "RedriveExecution throttle token bucket", _STATES),
        _rate("states.StartSyncExecution", 6000, 6000, "StartSyncExecution throttle token bucket", _STATES),
        _rate("states.SendTaskSuccess", 3000, 500, "SendTaskSuccess throttle token bucket", _STATES),
        _rate("states.SendTaskFailure", 3000, 500, "SendTaskFailure throttle token bucket", _STATES),
        _rate("states.SendTaskHeartbeat", 3000, 500, "SendTaskHeartbeat throttle token bucket", _STATES),
        _rate("states.StateTransition", 5000, 5000, "StateTransition throttle token bucket", _STATES),
        _maximum("states.PayloadSize", "bytes", 262_144, "Maximum input or output size", _STATES),
        _maximum("states.HistoryEvents", "count", 25_000, "Maximum execution history size", _STATES),
        _maximum("states.NameLength", "count", 80, "Names in Step Functions", _STATES),
        # For how long roles do not see a new execution. AWS gives no figure.
        _maximum("states.DescribeDelay", "seconds", 0.05, "DescribeExecution sees later", _DESCRIBE),
        _maximum("lambda.ConcurrentExecutions", "concurrency", 1000, "Concurrent executions", _LAMBDA,
                 adjustable=True),
        _maximum("lambda.SyncPayload", "bytes", 6_291_456, "Synchronous payload, each way", _LAMBDA),
        _maximum("lambda.AsyncPayload", "bytes", 1_048_576, "Asynchronous payload", _LAMBDA),
        _rate("execute-api.Account", 5000, 10_000, "Throttle quota per account", _API),
        # Of each stage, what its method settings say; in the template ApiBurstLimit and ApiRateLimit.
        _rate("execute-api.Stage", 1000, 500, "Method throttling of a stage", _API),
        _maximum("execute-api.PayloadSize", "bytes", 10_485_760, "Payload size", _API),
        _maximum("execute-api.Timeout", "seconds", 29, "Integration timeout", _API, adjustable=True),
        _rate("comprehend.BatchDetectSentiment", 10, 10, "BatchDetectSentiment per second", _COMPREHEND),
        _rate("comprehend.DetectSentiment", 20, 20, "DetectSentiment per second", _COMPREHEND),
        _maximum("comprehend.Documents", "count", 25, "Documents in a synchronous batch", _COMPREHEND),
        _maximum("comprehend.DocumentSize", "bytes", 5000, "Document size", _COMPREHEND),
        _rate("s3.Reads", 5500, 5500, "GET and HEAD requests per second per prefix", _S3, adjustable=False),
        _rate("s3.Writes", 3500, 3500, "PUT, COPY, POST, DELETE requests per second per prefix", _S3,
              adjustable=False),
        _rate("dynamodb.PartitionReads", 3000, 3000, "Read units per second per partition", _DYNAMODB,
              adjustable=False),
        _rate("dynamodb.PartitionWrites", 1000, 1000, "Write units per second per partition", _DYNAMODB,
              adjustable=False),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """What a limit is set to. `refill`: None where it is not a rate."""

    size: float
    refill: float | None


class LimitError(UserError):
    """A limit that does not exist, or a value that it cannot have."""


def parse_limit(text: str) -> tuple[str, Value]:
    """A limit's name and value, of `NAME=VALUE`: of a rate SIZE/REFILL, or one number for both.

    Raises LimitError.
    """
    name, _, value = text.partition("=")
    limit = LIMITS.get(name)
    if limit is None:
        raise LimitError(f"There is no limit {name!r}; there are: {', '.join(LIMITS)}.")
    form = "a number" if limit.refill is None else "a number a second, or SIZE/REFILL"
    try:
        numbers = [float(part) for part in value.split("/")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= (1 if limit.refill is None else 2) or not all(0 <= n < 1e12 for n in numbers):  # noqa: PLR2004 - size and refill
        raise LimitError(
            f"The limit {text!r} is not valid: {name} is {form}, such as {name}={_example(limit)}."
        )
    return name, Value(numbers[0], numbers[-1] if limit.refill is not None else None)


def parse_limits(texts: Iterable[str]) -> dict[str, Value]:
    """Each `NAME=VALUE`; the last one of a name counts. Raises LimitError."""
    return dict(parse_limit(text) for text in texts)


def _example(limit: Limit) -> str:
    return f"{limit.size:g}" if limit.refill is None else f"{limit.size:g}/{limit.refill:g}"
