"""The answers of a chunk that is not finished, in S3, so that its retry does not call for them again.

    {prefix}{attempt}.json.gz   [[row number, JSON text], ...]: all that this attempt knew when it was written

Each attempt has an object of its own: a worker that is still running after its time, beside its retry,
replaces nothing.
"""

import gzip
import uuid
from collections.abc import Mapping

from core.clients import s3
from core.exact_json import dump_json, parse_json
from core.settings import settings


class StoredAnswers:
    """The answers of one chunk. `prefix`: of its objects' keys. `is_first`: there is no earlier attempt."""

    def __init__(self, prefix: str, *, is_first: bool) -> None:
        self._prefix = prefix
        self._is_first = is_first
        self._attempt = uuid.uuid4().hex

    def load(self) -> dict[int, str]:
        """The JSON texts that earlier attempts stored, by row number."""
        if self._is_first:
            return {}
        bucket = settings().bucket
        texts: dict[int, str] = {}
        pages = s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=self._prefix)
        for page in pages:
            for stored in page.get("Contents", []):
                body = s3().get_object(Bucket=bucket, Key=stored["Key"])["Body"].read()
                texts.update(parse_json(gzip.decompress(body).decode("utf-8")))
        return texts

    def save(self, texts: Mapping[int, str]) -> None:
        """Stores all texts that this attempt knows, in place of those that it knew before."""
        s3().put_object(
            Bucket=settings().bucket,
            Key=f"{self._prefix}{self._attempt}.json.gz",
            Body=gzip.compress(dump_json(sorted(texts.items())).encode("utf-8"), compresslevel=1, mtime=0),
            ContentType="application/json",
            ContentEncoding="gzip",
        )
