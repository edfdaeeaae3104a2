"""API Gateway's REST APIs as on AWS: sizes, throttles, the integration's timeout, and compressed requests.

An error of API Gateway itself is answered as the stage's gateway responses say.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from ministack import app  # type: ignore[import-untyped]
from ministack.services import apigateway_v1  # type: ignore[import-untyped]

from stepflake.local.engine_process import lambdas
from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.requests import AnswerLostError, Fate, Headers, fate
from stepflake.local.limits import LIMITS, Value

Json = Any
Result = dict[str, Any]

_ACCOUNT, _STAGE = "execute-api.Account", "execute-api.Stage"
_PAYLOAD, _TIMEOUT = "execute-api.PayloadSize", "execute-api.Timeout"

# What API Gateway answers where it could not invoke the Lambda, such as one that is throttled.
_FAILURE = "INTEGRATION_FAILURE"

# zlib's window bits of each coding. "deflate" is zlib's format; some clients send it without its header.
_WINDOWS = {"gzip": (31,), "deflate": (15, -15)}

# Of the request that is being answered.
_expected: ContextVar[Fate] = ContextVar("expected", default=Fate())  # noqa: B039 - it is frozen

# Invocations that their requests no longer wait for.
_going_on: set[asyncio.Future[Any]] = set()


class GatewayError(Exception):
    """An error of API Gateway: the type of its gateway response, and the message."""

    def __init__(self, response_type: str, message: str) -> None:
        super().__init__(message)
        self.response_type = response_type


def install() -> None:
    """Changes MiniStack's REST APIs."""
    app._handle_execute_api_request = _faulty(app._handle_execute_api_request)
    apigateway_v1._execute_in_scope = _checked(apigateway_v1._execute_in_scope)
    apigateway_v1._check_throttle = _throttled(apigateway_v1._check_throttle)
    apigateway_v1._call_lambda_raw = _limited(apigateway_v1._call_lambda_raw)
    apigateway_v1._lambda_proxy_response = _answered(apigateway_v1._lambda_proxy_response)
    apigateway_v1._import_rest_api = _with_gateway_responses(apigateway_v1._import_rest_api)


def _with_gateway_responses(create: Callable[..., str]) -> Callable[..., str]:
    """An API from OpenAPI, with the gateway responses in it, which MiniStack leaves out.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-swagger-extensions-gateway-responses.html
    """

    def create_with(document: dict[str, Any], data: dict[str, Any]) -> str:
        api_id = create(document, data)
        for kind, response in document.get("x-amazon-apigateway-gateway-responses", {}).items():
            apigateway_v1._put_gateway_response(api_id, kind, response)
        return api_id

    return create_with


def _faulty(handle: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Requests to APIs, with the faults that are on."""

    async def faulty(host: str, path: str, *request: Any, **details: Any) -> Any:
        if app._parse_execute_api_url(host, path) is None:
            return await handle(host, path, *request, **details)
        expected = fate("execute-api.Invoke")
        _expected.set(expected)
        if expected.delay:
            await asyncio.sleep(expected.delay)
        if expected.failed:
            answer = _internal_error(500)
            return answer["statusCode"], answer["headers"], answer["body"].encode()
        answer = await handle(host, path, *request, **details)
        if expected.lost:
            raise AnswerLostError(path)
        return answer

    return faulty


def _checked(execute: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A request to a stage, whose body has the right size and is unpacked."""

    async def checked(request: dict[str, Any], api_id: str, stage_name: str, *details: Any) -> Any:
        method, path, headers, body, *others = details
        request["stage"] = stage = apigateway_v1._stages_v1.get(api_id, {}).get(stage_name)
        try:
            if stage is not None:
                body = unpack(body, headers)
            return await execute(request, api_id, stage_name, method, path, headers, body, *others)
        except GatewayError as error:
            # Without a response of its own in the API, its status is 500 on AWS, and not 504 as documented.
            if error.response_type == _FAILURE and _FAILURE not in _responses(api_id, stage):
                answer = _internal_error(500)
                return answer["statusCode"], answer["headers"], answer["body"].encode()
            return apigateway_v1._gw_error(error.response_type, str(error))

    return checked


def _responses(api_id: str, stage: dict[str, Any] | None) -> dict[str, Any]:
    """The gateway responses that a stage's deployment has of its own."""
    deployed = apigateway_v1._deployed_gateway_responses.get(api_id, {})
    responses: dict[str, Any] = deployed.get((stage or {}).get("deploymentId")) or {}
    return responses


def unpack(body: bytes, headers: Headers) -> bytes:
    """The body without its compression. Its header stays as it is.

    Raises GatewayError for one that is too large, or not compressed as its header says.
    https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-make-request-with-compressed-payload.html
    """
    _check_size(len(body))
    coding = headers.get("content-encoding", "identity").strip().lower()
    if not body or coding == "identity":
        return body
    if coding not in _WINDOWS:
        raise GatewayError("UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type")
    for window in _WINDOWS[coding]:
        try:
            return _unpack(body, window)
        except zlib.error:
            continue
    raise GatewayError("UNSUPPORTED_MEDIA_TYPE", "Unsupported Media Type")


def _unpack(body: bytes, window: int) -> bytes:
    """Raises GatewayError for what is too large unpacked, and zlib.error."""
    most = ACCOUNT.value(_PAYLOAD).size
    unpacker = zlib.decompressobj(window)
    # No more than shows that it is too large; 0 is without a limit.
    unpacked = unpacker.decompress(body, 0 if most == float("inf") else int(most) + 1)
    if len(unpacked) > most:
        _check_size(len(unpacked))
    elif not unpacker.eof:
        raise zlib.error("the end is missing")
    return unpacked


def _check_size(size: int) -> None:
    if not ACCOUNT.fits(_PAYLOAD, size):
        raise GatewayError("REQUEST_TOO_LARGE", "Request Too Long")


def _throttled(check: Callable[..., Any]) -> Callable[..., Any]:
    """The throttles of usage plans, which are MiniStack's, then those of the stage and of the account."""

    def throttled(stage: dict[str, Any], *request: Any) -> Any:
        refusal = check({**stage, "methodSettings": {}}, *request)
        if refusal is not None:
            return refusal
        api_id, stage_name, resource_path, method, _key = request
        rate = _stage_rate(apigateway_v1._method_throttle_settings(stage, resource_path, method) or {})
        bucket = f"{api_id}/{stage_name}{resource_path}/{method}"
        is_allowed = (
            not _expected.get().throttled
            and (rate is None or ACCOUNT.allows_rate(_STAGE, bucket, rate))
            and ACCOUNT.allows(_ACCOUNT)
        )
        return None if is_allowed else apigateway_v1._gw_error("THROTTLED", "Too Many Requests")

    return throttled


def _stage_rate(settings: dict[str, Any]) -> Value | None:
    """What a method's settings allow, or what was set for the engine; None where neither says anything."""
    default = LIMITS[_STAGE]
    own = ACCOUNT.value(_STAGE)
    if ACCOUNT.enabled and (own.size, own.refill) != (default.size, default.refill):
        return own
    burst, rate = settings.get("throttlingBurstLimit"), settings.get("throttlingRateLimit")
    if burst is None and rate is None:
        return None
    return Value(float(burst or rate or 0), float(rate or 0))


def _limited(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A Lambda's invocation, within Lambda's payload limit and as long as an integration may take."""

    async def limited(function_ref: str, event: Json, **scope: Any) -> Any:
        # A binary body is in the event as base64: 6 MB of event are 4.5 MB of body.
        if not lambdas.fits(event):
            raise GatewayError("REQUEST_TOO_LARGE", "Request Too Long")
        expected = fate("lambda.Invoke")
        if expected.failed:
            raise GatewayError(_FAILURE, "Internal server error")
        if expected.throttled:
            return lambdas.throttled("ConcurrentInvocationLimitExceeded"), None
        seconds = ACCOUNT.value(_TIMEOUT).size
        invocation = asyncio.ensure_future(call(function_ref, event, **scope))
        done, _ = await asyncio.wait({invocation}, timeout=None if seconds == float("inf") else seconds)
        if not done:
            _going_on.add(invocation)
            invocation.add_done_callback(_going_on.discard)
            ACCOUNT.count(_TIMEOUT, allowed=False)
            raise GatewayError("INTEGRATION_TIMEOUT", "Endpoint request timed out")
        return await invocation

    return limited


def _answered(shape: Callable[[Result], Any]) -> Callable[[Result], Any]:
    """A Lambda's answer for the caller, who does not learn why there is none.

    https://docs.aws.amazon.com/lambda/latest/dg/services-apigateway-errors.html
    """

    def answered(result: Result) -> Any:
        if result.get("throttle"):
            raise GatewayError(_FAILURE, "Internal server error")
        if result.get("error"):
            return _internal_error(502), None
        return shape(result)

    return answered


def _internal_error(status: int) -> Json:
    return {
        "statusCode": status,
        "headers": {"x-amzn-ErrorType": "InternalServerErrorException"},
        "body": '{"message": "Internal server error"}',
    }
