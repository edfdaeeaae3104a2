"""What Lambda hands to a handler: its context, and the events of API Gateway and SQS."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import simplejson
from aws_lambda_powertools.utilities.typing import LambdaContext

BATCH_ID = "01b02bdf-0001-7b58-0003-27d60056b5a6:1:1:0:0"
BATCH_ID_HEADER = "sf-external-function-query-batch-id"


class FakeContext(LambdaContext):
    """The context of one invocation, which has so many seconds left."""

    def __init__(self, seconds_left: float = 280) -> None:
        self.seconds_left = seconds_left
        self._function_name = "stack-function"
        self._function_version = "$LATEST"
        self._invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:stack-function"
        self._memory_limit_in_mb = 512
        self._aws_request_id = "8e1a1c4e-5f3a-4f0b-9d52-1f6f0e0f7c11"
        self._log_group_name = "/stepflake/stack/lambdas"
        self._log_stream_name = "2026/11/22/stack-function[$LATEST]0123456789abcdef"

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]  # Powertools has it static
        return int(self.seconds_left * 1000)


# For handlers that do not ask how much time is left.
CONTEXT = FakeContext()


def api_event(
    name: str,
    method: str = "GET",
    body: bytes | None = None,
    *,
    kind: str = "functions",
    batch_id: str | None = BATCH_ID,
    as_text: bool = False,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """API Gateway's event for a request as Snowflake makes it. `as_text`: the body is not in base64."""
    sent = {
        "Host": "abcdef1234.execute-api.us-east-1.amazonaws.com",
        "User-Agent": "snowflake/1.0",
        "Accept": "*/*",
        "Accept-Encoding": "gzip",
        "sf-external-function-format": "json",
        "sf-external-function-format-version": "1.0",
        "sf-external-function-current-query-id": "01b02bdf-0001-7b58-0003-27d60056b5a6",
        "sf-external-function-name": "ECHO",
    }
    if batch_id is not None:
        sent[BATCH_ID_HEADER] = batch_id
    text = None
    if body is not None:
        text = body.decode() if as_text else base64.b64encode(body).decode()
    return {
        "resource": f"/{kind}/{{name}}",
        "path": f"/{kind}/{name}",
        "httpMethod": method,
        "headers": sent | dict(headers or {}),
        "pathParameters": {"name": name},
        "body": text,
        "isBase64Encoded": text is not None and not as_text,
        "requestContext": {"requestId": "c6af9ac6", "identity": {"userArn": "arn"}},
    }


def post_event(name: str, rows: Sequence[Sequence[Any]], **options: Any) -> dict[str, Any]:
    """A POST with these rows, which are numbered here."""
    data = {"data": [[number, *row] for number, row in enumerate(rows)]}
    return api_event(name, "POST", simplejson.dumps(data, use_decimal=True).encode(), **options)


def sqs_event(queue: str, *bodies: str, receive_count: int = 1) -> dict[str, Any]:
    """SQS's event with these messages; their ids are numbers from 0, their receipt handles their bodies."""
    return {
        "Records": [
            {
                "messageId": f"059f36b4-87a3-44ab-83d2-{number:012}",
                "receiptHandle": body,
                "body": body,
                "attributes": {"ApproximateReceiveCount": str(receive_count)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
                "awsRegion": "us-east-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


def redelivered(event: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
    """The bodies of the messages of an SQS event that are to be delivered again, by a handler's answer."""
    failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    return [record["body"] for record in event["Records"] if record["messageId"] in failed]


def error_document(error: BaseException) -> str:
    """What Lambda's runtime writes of an error that a handler raises; it becomes an execution's cause."""
    document = {
        "errorMessage": str(error),
        "errorType": type(error).__name__,
        "requestId": CONTEXT.aws_request_id,
        "stackTrace": ['  File "/var/task/process.py", line 42, in handler\n'],
    }
    return json.dumps(document)
