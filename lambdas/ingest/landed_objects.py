"""Objects that landed in the bucket, described and read with exactly the content that landed."""

from dataclasses import dataclass
from typing import Any, TypedDict

from botocore.exceptions import ClientError

from core.clients import s3
from core.errors import TaskError
from core.settings import settings

# Objects below it are ingested.
PREFIX = "ingest/"

# NoSuchKey and PreconditionFailed without a body, as HEAD answers them, are bare numbers.
_GONE = frozenset({"404", "412", "NoSuchKey", "NoSuchVersion", "PreconditionFailed"})


class ObjectError(TaskError):
    """An object that cannot be ingested; the message says why and what to do."""


class LandedObject(TypedDict):
    """An object as the machine carries it. `content`: the fields of a Content; `bytes`: its size."""

    content: dict[str, Any]
    content_type: str
    bytes: int


@dataclass(frozen=True)
class Content:
    """One content of an object. `etag`: without quotes; `version_id`: None without versioning."""

    bucket: str
    key: str
    etag: str
    version_id: str | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The etag, with the version where there is one: it distinguishes the contents of a key."""
        return f"{self.etag}.{self.version_id}" if self.version_id else self.etag


def find_object(key: str, etag: str | None, version_id: str | None) -> LandedObject | None:
    """The object of this key and content; None where it is gone. Without an etag: as it is now.

    Raises ObjectError for a key that is not below PREFIX.
    """
    if not key.startswith(PREFIX):
        raise ObjectError(f"the key {key!r} is not below {PREFIX}; upload the object there")
    request: dict[str, Any] = {"Bucket": settings().bucket, "Key": key}
    if version_id:
        request["VersionId"] = version_id
    try:
        head = s3().head_object(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:
            return None
        raise
    present = head["ETag"].strip('"')
    if etag and present != etag.strip('"'):
        return None
    # "null" is the version of what is uploaded while a bucket's versioning is suspended.
    version = head.get("VersionId")
    return LandedObject(
        content={
            "bucket": settings().bucket,
            "key": key,
            "etag": present,
            "version_id": None if version == "null" else version,
        },
        content_type=head.get("ContentType", ""),
        bytes=head["ContentLength"],
    )


def read_content(content: Content) -> bytes | None:
    """All of a content's bytes; None where it is gone: deleted, or replaced in a bucket without versions."""
    request: dict[str, Any] = {"Bucket": content.bucket, "Key": content.key, "IfMatch": f'"{content.etag}"'}
    if content.version_id:
        request["VersionId"] = content.version_id
    try:
        answer = s3().get_object(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:
            return None
        raise
    return answer["Body"].read()
