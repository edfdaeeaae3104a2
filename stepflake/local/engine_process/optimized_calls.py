"""The calls of Step Functions' optimized integrations, of those that the engine has but ECS.

https://docs.aws.amazon.com/step-functions/latest/dg/integrate-optimized.html
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from stepflake.local.engine_process import requests
from stepflake.local.engine_process.task_calls import (
    Document,
    Errors,
    TaskCall,
    current_machine,
)

Invoke = Callable[[str, Any], Any]


def _v1(service: str) -> str:
    request = "Error Code: {code}; Request ID: {request}; Proxy: null"
    return f"Service: {service}; Status Code: {{status}}; {request}"


ERRORS = {
    "lambda": Errors(
        "Lambda",
        ("AWSLambdaException", "AccessDeniedException", 403),
        "TooManyRequestsException",
        "ServiceException",
        "Service: Lambda, Status Code: {status}, Request ID: {request}",
    ),
    "sqs": Errors(
        "SQS",
        ("AmazonSQSException", "AccessDenied", 403),
        "AmazonSQSException",
        "AmazonSQSException",
        _v1("AmazonSQS"),
    ),
    "sns": Errors(
        "SNS",
        ("AuthorizationErrorException", "AuthorizationError", 403),
        "ThrottledException",
        "InternalErrorException",
        _v1("AmazonSNS"),
    ),
    "states": Errors(
        "StepFunctions",
        ("AWSStepFunctionsException", "AccessDeniedException", 400),
        "AWSStepFunctionsException",
        "AWSStepFunctionsException",
        _v1("AWSStepFunctions"),
    ),
    "dynamodb": Errors(
        "DynamoDB",
        ("AmazonDynamoDBException", "AccessDeniedException", 400),
        "ThrottlingException",
        "InternalServerErrorException",
        _v1("AmazonDynamoDBv2"),
    ),
    "events": Errors(
        "EventBridge",
        ("AmazonEventBridgeException", "AccessDeniedException", 400),
        "AmazonEventBridgeException",
        "InternalException",
        _v1("AmazonEventBridge"),
    ),
}

# Codes that are not in Step Functions' model, so that the SDK has no exceptions for them.
# https://docs.aws.amazon.com/step-functions/latest/apireference/CommonErrors.html
_COMMON_CODES = ("ValidationException", "ThrottlingException", "AccessDeniedException")


def install() -> None:
    """Puts TaskCall.run in front of MiniStack's functions for these integrations."""
    from ministack.services import stepfunctions as sfn  # type: ignore[import-untyped]

    sfn._call_lambda = _call_lambda(sfn._call_lambda)
    sfn._invoke_nested_start_execution = _start_execution
    sfn._invoke_nested_start_execution_sync = _run_execution(sfn._invoke_nested_start_execution_sync)
    sfn._stop_execution = _stop_execution(sfn._stop_execution)
    calls = {
        "sqs:sendMessage": _send_message,
        "sns:publish": _publish,
        "events:putEvents": _put_events,
        **{f"dynamodb:{verb}Item": _item(verb) for verb in ("put", "get", "update", "delete")},
    }
    for name, call in calls.items():
        resource = f"arn:aws:states:::{name}"
        sfn._SERVICE_DISPATCH[resource] = call(sfn._SERVICE_DISPATCH[resource])


def _task_call(action: str, *resources: str, document: Any = None) -> TaskCall:
    """`document`: what is sent, for limits and condition keys that depend on it."""
    from ministack.core import iam_actions  # type: ignore[import-untyped]

    service = action.partition(":")[0]
    body = json.dumps(document).encode()
    context = iam_actions.dynamodb_service_context(body) if service == "dynamodb" else {}
    return TaskCall(requests.Call(service, action, "", {}, body), resources, ERRORS[service], context)


def _call_lambda(call_lambda: Invoke) -> Invoke:
    def invoke(function: str, event: Any) -> Any:
        # The right is needed for the function as it is named: with its version or alias, or without.
        call = _task_call("lambda:InvokeFunction", _arn("lambda", "function:", function))
        return call.run(lambda: _renamed(lambda: call_lambda(function, event), _lambda_error))

    return invoke


def _send_message(invoke: Invoke) -> Invoke:
    def send_message(resource: str, arguments: Any) -> Any:
        # https://sqs.us-east-1.amazonaws.com/123456789012/name
        account, name = arguments.get("QueueUrl", "").split("/")[-2:]
        call = _task_call("sqs:SendMessage", _arn("sqs", "", name, account))
        return call.run(lambda: _renamed(lambda: invoke(resource, arguments), _sqs_error))

    return send_message


def _publish(invoke: Invoke) -> Invoke:
    def publish(resource: str, arguments: Any) -> Any:
        # A message to a phone number is for no resource.
        topic = arguments.get("TopicArn") or arguments.get("TargetArn") or "*"
        call = _task_call("sns:Publish", topic)
        return call.run(lambda: _renamed(lambda: invoke(resource, arguments), _sns_error))

    return publish


def _put_events(invoke: Invoke) -> Invoke:
    def put_events(resource: str, arguments: Any) -> Any:
        buses = [entry.get("EventBusName") or "default" for entry in arguments.get("Entries", [])]
        arns = (_arn("events", "event-bus/", bus) for bus in dict.fromkeys(buses))
        return _task_call("events:PutEvents", *arns).run(lambda: invoke(resource, arguments))

    return put_events


def _item(verb: str) -> Callable[[Invoke], Invoke]:
    def of_item(invoke: Invoke) -> Invoke:
        def item(resource: str, arguments: Any) -> Any:
            table = _arn("dynamodb", "table/", arguments.get("TableName", ""))
            call = _task_call(f"dynamodb:{verb.title()}Item", table, document=arguments)
            return call.run(lambda: invoke(resource, arguments))

        return item

    return of_item


def _start_execution(_resource: str, arguments: Document) -> Document:
    """Starts an execution and does not wait for it."""
    from ministack.services import stepfunctions

    request = stepfunctions._nested_start_execution_request(arguments)
    # Behind a # is a test case of MiniStack's mocks.
    call = _task_call("states:StartExecution", request["stateMachineArn"].partition("#")[0])
    started = call.run(lambda: _answer(stepfunctions._start_execution(request)))
    return {"ExecutionArn": started["executionArn"], "StartDate": started["startDate"]}


def _run_execution(run: Invoke) -> Invoke:
    """Needs besides StartExecution what Step Functions waits with for the end.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html
    What AWS does where only that right is missing is not documented.
    """

    def run_execution(resource: str, arguments: Document) -> Any:
        from ministack.services import stepfunctions

        request = stepfunctions._nested_start_execution_request(arguments)
        call = _task_call("states:StartExecution", request["stateMachineArn"].partition("#")[0])
        result = call.run(lambda: run(resource, arguments))
        if machine := current_machine():
            machine.authorize("states:DescribeExecution", result["ExecutionArn"], ERRORS["states"])
        return result

    return run_execution


def _stop_execution(stop: Callable[[Document], Any]) -> Callable[[Document], Any]:
    """A Task that is stopped stops the execution that it waits for, if its role may."""

    def stop_execution(data: Document) -> Any:
        from ministack.services import stepfunctions

        machine = current_machine()
        message = machine and machine.role.denial("states:StopExecution", data["executionArn"])
        if message:
            return stepfunctions.error_response_json("AccessDeniedException", message, 400)
        return stop(data)

    return stop_execution


def _arn(service: str, kind: str, name: str, account: str = "") -> str:
    """The ARN of what is named by its ARN or its name."""
    from ministack.core import responses

    if name.startswith("arn:"):
        return name
    return f"arn:aws:{service}:{responses.get_region()}:{account or responses.get_account_id()}:{kind}{name}"


def _answer(response: tuple[int, Any, bytes]) -> Any:
    """Step Functions' answer. Raises the Task's error for a refusal."""
    status, _, body = response
    answer = json.loads(body)
    if status < 400:  # noqa: PLR2004 - HTTP
        return answer
    code = answer["__type"]
    exception = "AWSStepFunctionsException" if code in _COMMON_CODES else f"{code}Exception"
    raise ERRORS["states"].error(exception, answer.get("message", ""), code, status)


def _renamed(call: Callable[[], Any], rename: Callable[[Any], Exception]) -> Any:
    """What `call` returns, or its error under AWS's name."""
    from ministack.services import stepfunctions

    try:
        return call()
    except stepfunctions._ExecutionError as error:
        raise rename(error) from None


def _lambda_error(error: Any) -> Exception:
    """A refusal of Lambda itself, such as a throttle, has a code where a function's error has a type."""
    with suppress(ValueError):
        body = json.loads(error.cause)
        if error.error == "Lambda.Unknown" and isinstance(body, dict) and "__type" in body:
            code = body["__type"]
            return ERRORS["lambda"].error(code, body.get("message", ""), code, 429)
    same: Exception = error
    return same


def _sqs_error(error: Any) -> Exception:
    code = error.error.removeprefix("SQS.")
    exception = f"{code}Exception" if code == "QueueDoesNotExist" else "AmazonSQSException"
    return ERRORS["sqs"].error(exception, error.cause, code, 400)


def _sns_error(error: Any) -> Exception:
    """Of the XML in which MiniStack leaves it."""
    found = re.search("<Code>(.+?)</Code>.*?<Message>(.*?)</Message>", error.cause, re.DOTALL)
    code, message = found.groups() if found else ("InternalError", error.cause)
    return ERRORS["sns"].error(f"{code.removesuffix('Exception')}Exception", message, code, 400)
