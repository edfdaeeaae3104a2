"""The pattern people copy today: one Lambda for POST, GET and the work, and a DynamoDB item for a batch.

POST writes the item and invokes this same function asynchronously; that run computes one row after another
and writes the result into the item; GET reads it. Written for the benchmark, to do what such samples do.
"""

import base64
import gzip
import json
import os
import time
from typing import Any

import boto3

table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
lambda_client = boto3.client("lambda")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any] | None:
    """Serves POST and GET through API Gateway, and its own asynchronous invocation."""
    if "work" in event:
        work(event["work"])
        return None
    batch_id = event["headers"]["sf-external-function-query-batch-id"]
    if event["httpMethod"] == "GET":
        return poll(batch_id)
    body = base64.b64decode(event["body"]) if event["isBase64Encoded"] else event["body"].encode()
    if body[:2] == b"\x1f\x8b":
        body = gzip.decompress(body)
    table.put_item(Item={"batch_id": batch_id, "status": "running"})
    payload = {
        "batch_id": batch_id,
        "function": event["pathParameters"]["name"],
        "data": json.loads(body)["data"],
    }
    lambda_client.invoke(
        FunctionName=context.function_name, InvocationType="Event", Payload=json.dumps({"work": payload})
    )
    return answer(202, {"status": "running"})


def poll(batch_id: str) -> dict[str, Any]:
    """202 while the item's status is running, else its result."""
    item = table.get_item(Key={"batch_id": batch_id})["Item"]
    if item["status"] == "running":
        return answer(202, {"status": "running"})
    return answer(200, {"data": json.loads(str(item["result"]))})


def work(payload: dict[str, Any]) -> None:
    """Computes the rows one after another."""
    result = [[row[0], run(payload["function"], row[1:])] for row in payload["data"]]
    table.put_item(Item={"batch_id": payload["batch_id"], "status": "done", "result": json.dumps(result)})


def run(function: str, arguments: list[Any]) -> Any:
    """What the stack's functions of the same names do."""
    if function == "sleep":
        time.sleep(arguments[0])
        return arguments[0]
    return arguments


def answer(status: int, document: Any) -> dict[str, Any]:
    """A REST API proxy answer."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(document),
        "isBase64Encoded": False,
    }
