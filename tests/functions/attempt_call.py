from typing import Any

import boto3
from botocore.exceptions import ClientError

from stepflake_lambda import remote_function


@remote_function()
def attempt_call(service: str, operation: str, arguments: dict[str, Any]) -> str:
    """Calls AWS with the role that remote functions have; returns the error's code, or "allowed"."""
    make: Any = boto3.client  # its type is an overload for each service
    client = make(service)
    try:
        getattr(client, operation)(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    finally:
        client.close()
    return "allowed"
