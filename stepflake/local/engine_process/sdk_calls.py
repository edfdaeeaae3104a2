"""The calls of Step Functions' integrations of the AWS SDK: arn:aws:states:::aws-sdk:SERVICE:ACTION.

https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from stepflake.local.engine_process import requests
from stepflake.local.engine_process.task_calls import Errors, TaskCall

# The exceptions for an error of the service's own; others have none besides their base class.
_FAILURES = {
    "comprehend": "InternalServerException",
    "dynamodb": "InternalServerErrorException",
    "eventbridge": "InternalException",
    "lambda": "ServiceException",
    "sns": "InternalErrorException",
}

# How the errors of the integration that runs are named.
_errors: ContextVar[Errors | None] = ContextVar("sdk_errors", default=None)


def install() -> None:
    """Puts TaskCall.run in front of the requests that these integrations make."""
    from ministack import app  # type: ignore[import-untyped]
    from ministack.services import stepfunctions  # type: ignore[import-untyped]

    stepfunctions._invoke_aws_sdk_integration = _integration(stepfunctions._invoke_aws_sdk_integration)
    app.call_service_handler_sync = _request(app.call_service_handler_sync)


def _integration(invoke: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    def integration(resource: str, arguments: Any) -> Any:
        from ministack.services import stepfunctions

        service = resource.rpartition("aws-sdk:")[2].partition(":")[0].lower()
        prefix = stepfunctions._AWS_SDK_ERROR_PREFIX.get(service, service.capitalize())
        base = f"{prefix}Exception"
        details = f"Service: {prefix}, Status Code: {{status}}, Request ID: {{request}}"
        failed = _FAILURES.get(service, base)
        token = _errors.set(Errors(prefix, (base, "AccessDeniedException", 403), base, failed, details))
        try:
            return invoke(resource, arguments)
        finally:
            _errors.reset(token)

    return integration


def _request(call_handler: Callable[..., Any]) -> Callable[..., Any]:
    def request(handler: Any, *sent: Any, **options: Any) -> Any:
        def call() -> Any:
            return call_handler(handler, *sent, **options)

        errors = _errors.get()
        return _task_call(errors, _Request(*sent)).run(call) if errors else call()

    return request


class _Request(NamedTuple):
    """As MiniStack's handlers take it."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | bytes
    query: dict[str, Any]


def _task_call(errors: Errors, request: _Request) -> TaskCall:
    from ministack import app
    from ministack.core import iam_actions, responses, router  # type: ignore[import-untyped]

    method, path, headers, body, query = request
    sent = body.encode() if isinstance(body, str) else body
    params = app._routing_params(method, path, headers, sent, query)
    service = router.detect_service(method, path, headers, params)
    action = iam_actions.extract_iam_action(service, method, path, headers, sent, params) or ""
    resource = iam_actions.extract_resource_arn(
        service, method, path, headers, sent, params, responses.get_region(), responses.get_account_id()
    )
    context = {}
    if service == "dynamodb":
        context = iam_actions.dynamodb_service_context(sent)
    elif service == "s3":
        context = iam_actions.s3_service_context(action, query, path, headers)
    call = requests.Call(service, action, path, headers, sent)
    return TaskCall(call, (resource,) if action else (), errors, context)
