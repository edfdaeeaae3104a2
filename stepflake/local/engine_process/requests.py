"""Requests to AWS's services: their rates, and the faults that were asked for.

A refused request is answered as its service answers a throttle, before anything is done.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepflake.local.engine_process.account import ACCOUNT, Account
from stepflake.local.faults import SERVICES
from stepflake.local.limits import LIMITS

Headers = dict[str, str]
Answer = tuple[int, Headers, Any]
# A rate's name, the key of its bucket, and tokens.
Charge = tuple[str, str, float]
Dispatch = Callable[[str, str, Headers, bytes, dict[str, list[str]], str], Awaitable[Answer]]

_RATES = frozenset(name for name, limit in LIMITS.items() if limit.kind == "rate")

# An error's code, status and message.
Error = tuple[str, int, str]

# Of a throttle: https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
_THROTTLES = {
    "s3": ("SlowDown", 503, "Please reduce your request rate."),
    "dynamodb": ("ThrottlingException", 400, "Throughput exceeds the current capacity of your table."),
    "lambda": ("TooManyRequestsException", 429, "Rate Exceeded."),
    "sqs": ("RequestThrottled", 403, "Request is throttled."),
    "sns": ("Throttling", 400, "Rate exceeded"),
    "comprehend": ("ThrottlingException", 429, "Rate exceeded"),
}
_THROTTLE = ("ThrottlingException", 400, "Rate exceeded")

# Of an error of the service's own: as its model names it, else the code that all services have for it, as in
# https://docs.aws.amazon.com/step-functions/latest/apireference/CommonErrors.html
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_FAILURES = {
    "s3": ("InternalError", 500, "We encountered an internal error. Please try again."),
    "dynamodb": ("InternalServerError", 500, "The request could not be processed; try it again."),
    "lambda": ("ServiceException", 500, "The service encountered an internal error."),
    "sns": ("InternalError", 500, "The request could not be processed; try it again."),
    "events": ("InternalException", 500, "An internal error occurred."),
    "comprehend": ("InternalServerException", 500, "An internal server error occurred."),
}
_FAILURE = ("InternalFailure", 500, "The request could not be processed because of an internal error.")


class AnswerLostError(Exception):
    """What was asked for was done, and the connection breaks before its answer."""


@dataclass(frozen=True)
class Call:
    """One request to a service. `action`: as IAM names it, such as s3:GetObject; "" where it is unknown."""

    service: str
    action: str
    path: str
    headers: Headers
    body: bytes

    @property
    def operation(self) -> str:
        return self.action.partition(":")[2]

    @property
    def name(self) -> str:
        """As limits are named: states.StartExecution."""
        return f"{self.service}.{self.operation}"

    def charges(self) -> Iterator[Charge]:
        """The rates it counts for."""
        if self.service == "s3" and self.action:
            bucket, _, key = self.path.lstrip("/").partition("/")
            reads = self.operation.startswith(("Get", "Head", "List"))
            yield ("s3.Reads" if reads else "s3.Writes", f"{bucket}/{key.partition('/')[0]}", 1)
        elif self.service == "dynamodb":
            yield from _item_charge(self)
        elif self.name in _RATES:
            yield (self.name, "", 1)


# Bytes of an item that one unit writes or reads (a consistent read; half as many otherwise).
# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/capacity-mode.html
_WRITE_UNIT, _READ_UNIT = 1024, 4096


def read_charge(table: str, key: Mapping[str, Any], *, consistent: bool) -> Charge:
    """One unit of the partition that a key of DynamoDB's names; for what is larger, see `charge_reads`."""
    return "dynamodb.PartitionReads", _partition(table, key), 1 if consistent else 0.5


def charge_reads(charges: Iterable[Charge], body: bytes) -> None:
    """Charges the units of what DynamoDB read, which its answer shows; the first is charged already."""
    for name, key, amount in charges:
        if name == "dynamodb.PartitionReads":
            ACCOUNT.charge(name, key, amount * (-(-len(body) // _READ_UNIT) - 1))


def write_charge(table: str, key: Mapping[str, Any], size: int) -> Charge:
    """The units of what is written. `key`: may have the item's other attributes too. `size`: bytes."""
    return "dynamodb.PartitionWrites", _partition(table, key), max(1, -(-size // _WRITE_UNIT))


def _partition(table: str, key: Mapping[str, Any]) -> str:
    # Every key of the stack's tables begins with its partition key; a Query names it in its first value.
    return f"{table}/{key.get('pk') or key.get(':pk') or ''}"


def _item_charge(call: Call) -> Iterator[Charge]:
    """The units of a DynamoDB call for one item, or of a Query, on the partition that it names."""
    try:
        document = json.loads(call.body)
    except ValueError:
        return
    if not isinstance(document, dict):
        return
    keys = document.get("Key") or document.get("Item") or document.get("ExpressionAttributeValues") or {}
    table = document.get("TableName", "")
    if call.operation in ("PutItem", "UpdateItem", "DeleteItem"):
        yield write_charge(table, keys, len(call.body))
    elif call.operation in ("GetItem", "Query"):
        yield read_charge(table, keys, consistent=bool(document.get("ConsistentRead")))


def throttle(service: str) -> Error:
    """With which this service refuses a request that comes too soon."""
    return _THROTTLES.get(service, _THROTTLE)


def refused(service: str, error: Error) -> Answer:
    """How this service answers an error."""
    code, status, message = error
    if service == "s3":
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return status, {"Content-Type": "application/xml"}, body.encode()
    if service == "sns":
        fault = "Sender" if status < 500 else "Receiver"  # noqa: PLR2004 - HTTP
        text = f"<Error><Type>{fault}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        body = f"<ErrorResponse>{text}</ErrorResponse>"
        return status, {"Content-Type": "text/xml"}, body.encode()
    document = {"__type": code, "message": message}
    return (
        status,
        {"Content-Type": "application/x-amz-json-1.0", "x-amzn-errortype": code},
        json.dumps(document).encode(),
    )


@dataclass(frozen=True)
class Fate:
    """What happens to one call: it is throttled, the service fails, its answer is lost, it is late."""

    throttled: bool = False
    failed: bool = False
    lost: bool = False
    delay: float = 0


def fate(operation: str, account: Account = ACCOUNT) -> Fate:
    """Of the next call of an operation, by the faults that are on.

    `operation`: with its service, such as s3.GetObject; one that a machine calls is machine/s3.GetObject.
    """
    faults = account.faults
    if not faults.any or not faults.concern(operation.rpartition("/")[2].partition(".")[0]):
        return Fate()
    number = account.call_number(operation)
    first = faults.chance(f"{operation}/refused or lost", number)
    late = faults.chance(f"{operation}/late", number)
    return Fate(
        throttled=first < faults.throttle,
        lost=0 <= first - faults.throttle < faults.lost,
        failed=0 <= first - faults.throttle - faults.lost < faults.fail,
        # The smaller the draw, the later: of the late ones, few are very late.
        delay=faults.delay_seconds * (1 - late / faults.delay) if late < faults.delay else 0,
    )


def reason(service: str, charges: Iterable[Charge], expected: Fate) -> Error | None:
    """With what error a call ends before anything is done, by its fate and the rates that it counts for."""
    if expected.throttled or expected.failed:
        for name, _, _ in charges:
            ACCOUNT.fail(name)
        return throttle(service) if expected.throttled else _FAILURES.get(service, _FAILURE)
    return None if all(ACCOUNT.allows(*charge) for charge in charges) else throttle(service)


def install() -> None:
    """Puts limits and faults in front of MiniStack's services."""
    from ministack import app  # type: ignore[import-untyped]
    from ministack.core import iam_actions, router  # type: ignore[import-untyped]

    dispatch: Dispatch = app._dispatch_service_request

    async def limited(  # noqa: PLR0917 - as MiniStack calls it
        method: str, path: str, headers: Headers, body: bytes, query: dict[str, list[str]], request_id: str
    ) -> Answer:
        params = app._routing_params(method, path, headers, body, query)
        service = router.detect_service(method, path, headers, params)
        action = iam_actions.extract_iam_action(service, method, path, headers, body, params) or ""
        call = Call(service, action, path, headers, body)
        charges = list(call.charges())
        own = service in SERVICES and is_role(router.extract_access_key_id(headers, query))
        expected = fate(call.name) if own else Fate()
        if expected.delay:
            await asyncio.sleep(expected.delay)
        if error := reason(service, charges, expected):
            return refused(service, error)
        answer = await dispatch(method, path, headers, body, query, request_id)
        if service == "dynamodb":
            charge_reads(charges, answer[2])
        if expected.lost:
            raise AnswerLostError(call.name)
        return answer

    app._dispatch_service_request = limited


def is_role(access_key: str | None) -> bool:
    """Whether the caller is one of the stack's roles. Faults leave the developer's own calls alone."""
    return bool(access_key) and str(access_key).startswith("ASIA")
