"""Amazon S3 in memory."""

import hashlib
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from botocore.response import StreamingBody

from tests.unit.fake_aws.faults import AwsError

BUCKET = "bucket"
PAGE_KEYS = 3


@dataclass(frozen=True)
class StoredObject:
    """An object as it was put."""

    body: bytes
    metadata: dict[str, str] = field(default_factory=dict)
    content_type: str = "binary/octet-stream"
    content_encoding: str | None = None

    @property
    def etag(self) -> str:
        """With the quotes that S3 has around it."""
        return f'"{hashlib.md5(self.body).hexdigest()}"'

    def head(self) -> dict[str, Any]:
        """What GET and HEAD answer alike."""
        encoding = {"ContentEncoding": self.content_encoding} if self.content_encoding else {}
        return {
            "ContentLength": len(self.body),
            "ContentType": self.content_type,
            "ETag": self.etag,
            "Metadata": dict(self.metadata),
            **encoding,
        }


class FakeS3:
    """One bucket without versions: what is written is read at once, and conditional writes are atomic.

    `objects`: by key. `piece_bytes`: the most that one read of a body returns; `sent_bytes`: after how many
    the connection breaks. None: no limit.
    """

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.piece_bytes: int | None = None
        self.sent_bytes: int | None = None
        self._lock = threading.Lock()

    def put(self, key: str, body: bytes, **options: Any) -> None:
        """Puts an object without a call of the code under test."""
        self.objects[key] = StoredObject(body, **options)

    def under(self, prefix: str) -> dict[str, bytes]:
        """The bodies of all objects whose keys begin so, by key."""
        return {key: each.body for key, each in sorted(self.objects.items()) if key.startswith(prefix)}

    # Operations

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        ContentType: str,
        ContentEncoding: str | None = None,
        Metadata: Mapping[str, str] | None = None,
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        _check_bucket(Bucket)
        assert IfNoneMatch in (None, "*"), "S3 takes nothing else for a write"
        with self._lock:
            if IfNoneMatch and Key in self.objects:
                raise AwsError("PreconditionFailed", "At least one of the pre-conditions did not hold")
            stored = StoredObject(bytes(Body), dict(Metadata or {}), ContentType, ContentEncoding)
            self.objects[Key] = stored
        return {"ETag": stored.etag}

    def get_object(self, *, Bucket: str, Key: str, IfMatch: str | None = None) -> dict[str, Any]:
        stored = self._find(Bucket, Key)
        if IfMatch not in (None, stored.etag):
            raise AwsError("PreconditionFailed", "At least one of the pre-conditions did not hold")
        stream = _Connection(stored.body[: self.sent_bytes], self.piece_bytes)
        return {**stored.head(), "Body": StreamingBody(stream, len(stored.body))}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        try:
            return self._find(Bucket, Key).head()
        except AwsError:
            # HEAD has no body and so no code: botocore gives the status.
            raise AwsError("404", "Not Found") from None

    def copy_object(self, *, Bucket: str, Key: str, CopySource: str) -> dict[str, Any]:
        _check_bucket(Bucket)
        bucket, _, key = unquote(CopySource).partition("/")
        stored = self._find(bucket, key)
        with self._lock:
            self.objects[Key] = stored
        return {"CopyObjectResult": {"ETag": stored.etag}}

    def list_objects_v2(self, *, Bucket: str, Prefix: str, ContinuationToken: str = "") -> dict[str, Any]:
        _check_bucket(Bucket)
        with self._lock:
            keys = sorted((key for key in self.objects if key.startswith(Prefix)), key=str.encode)
            left = [key for key in keys if key.encode() > ContinuationToken.encode()]
            page = [{"Key": key, "Size": len(self.objects[key].body)} for key in left[:PAGE_KEYS]]
        answer: dict[str, Any] = {"KeyCount": len(page), "IsTruncated": len(left) > PAGE_KEYS}
        if page:
            answer["Contents"] = page
        if answer["IsTruncated"]:
            answer["NextContinuationToken"] = page[-1]["Key"]
        return answer

    def _find(self, bucket: str, key: str) -> StoredObject:
        _check_bucket(bucket)
        with self._lock:
            if key not in self.objects:
                raise AwsError("NoSuchKey", "The specified key does not exist.")
            return self.objects[key]


class _Connection(io.BytesIO):
    """A body as the network delivers it: a read may return less than was asked for."""

    def __init__(self, body: bytes, piece_bytes: int | None) -> None:
        super().__init__(body)
        self._piece_bytes = piece_bytes

    def readinto(self, buffer: Any) -> int:
        return super().readinto(memoryview(buffer)[: self._piece_bytes])


def _check_bucket(bucket: str) -> None:
    if bucket != BUCKET:
        raise AwsError("NoSuchBucket", "The specified bucket does not exist")
