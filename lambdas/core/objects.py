"""Objects in the stack's bucket that are written once."""

from typing import Any

from botocore.exceptions import ClientError

from core.clients import s3
from core.errors import TransientError
from core.settings import settings


def put_once(key: str, body: bytes, **options: Any) -> None:
    """Puts an object unless it exists: the first writer wins. `options`: of put_object."""
    try:
        s3().put_object(Bucket=settings().bucket, Key=key, Body=body, IfNoneMatch="*", **options)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "ConditionalRequestConflict":
            raise TransientError(f"another writer is putting {key} at the same time") from error
        if code != "PreconditionFailed":
            raise
