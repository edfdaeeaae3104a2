"""boto3 clients of AWS services, made once for each execution environment and at first use.

Few retries of transient errors, since the machine's Retry and Snowflake retry as well. And short timeouts: a
call that is never answered ends after three attempts of 2 s to connect and 5 s to answer, with up to 1 s and
2 s between them (six attempts for callbacks, in workers that have longer). These 24 s are less than the 29 s
of API Gateway, `initiate` and `poll`, which wait for rows only while there is time for another read.
"""

import threading
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_stepfunctions import SFNClient

# By service and number of attempts.
_clients: dict[tuple[str, int], Any] = {}
_lock = threading.Lock()


def s3() -> "S3Client":
    """Amazon S3."""
    return _client("s3")  # type: ignore[no-any-return]


def dynamodb() -> "DynamoDBClient":
    """Amazon DynamoDB; only `core.table` calls it."""
    return _client("dynamodb")  # type: ignore[no-any-return]


def stepfunctions() -> "SFNClient":
    """AWS Step Functions. Two attempts: after that, a throttled POST is answered 429 and a GET 202."""
    return _client("stepfunctions", attempts=2)  # type: ignore[no-any-return]


def task_callbacks() -> "SFNClient":
    """AWS Step Functions for SendTask*. Six attempts, since many workers send callbacks at the same time."""
    return _client("stepfunctions", attempts=6)  # type: ignore[no-any-return]


def sns() -> "SNSClient":
    """Amazon SNS."""
    return _client("sns")  # type: ignore[no-any-return]


def sqs() -> "SQSClient":
    """Amazon SQS."""
    return _client("sqs")  # type: ignore[no-any-return]


def comprehend() -> Any:
    """Amazon Comprehend, which computes before it answers.

    One attempt: `core.sentiment` waits for the quota, and for longer.
    """
    return _client("comprehend", read_timeout=20, attempts=1)


def _client(service: str, *, read_timeout: int = 5, attempts: int = 3) -> Any:
    # Making a client takes longer than most calls, and boto3's default session is not thread-safe: if several
    # threads need the same client at a cold start, one makes it and the others wait.
    with _lock:
        client = _clients.get((service, attempts))
        if client is None:
            retries: Any = {"mode": "standard", "total_max_attempts": attempts}
            config = Config(connect_timeout=2, read_timeout=read_timeout, retries=retries)
            client = _clients[service, attempts] = boto3.client(service, config=config)  # type: ignore[call-overload]
        return client
