"""boto3 clients of AWS services, made once for each execution environment and at first use.

One configuration for all: connect quickly, retry what is transient a few times, and leave the rest to the
machine's Retry or to Snowflake, which both come again.
"""

from functools import cache
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBServiceResource
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_stepfunctions import SFNClient


@cache
def s3() -> "S3Client":
    """Amazon S3."""
    return boto3.client("s3", config=_config(read_timeout=30))


@cache
def dynamodb() -> "DynamoDBServiceResource":
    """Amazon DynamoDB, with Python values for attributes."""
    return boto3.resource("dynamodb", config=_config())


@cache
def stepfunctions() -> "SFNClient":
    """AWS Step Functions. Two tries only: its throttles have decided outcomes (429 on POST, 202 on GET)."""
    return boto3.client("stepfunctions", config=_config(tries=2))


@cache
def task_callbacks() -> "SFNClient":
    """AWS Step Functions for SendTask*: many workers answer at once, and a throttle is worth waiting for."""
    return boto3.client("stepfunctions", config=_config(tries=6))


@cache
def sns() -> "SNSClient":
    """Amazon SNS."""
    return boto3.client("sns", config=_config())


@cache
def sqs() -> "SQSClient":
    """Amazon SQS."""
    return boto3.client("sqs", config=_config())


def _config(*, read_timeout: int = 10, tries: int = 4) -> Config:
    retries = {"mode": "standard", "total_max_attempts": tries}
    return Config(connect_timeout=2, read_timeout=read_timeout, retries=retries)  # type: ignore[arg-type]
