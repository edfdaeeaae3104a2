"""Gzipped JSON Lines objects in the bucket, each with a record of its content.

    runs/{run id}/{step}/{sha256}.jsonl.gz       what a step stores; the key is the content's hash
    loads/{dataset}/{load id}/{file's name}      what a load publishes

A run's own objects are under its id, so that runs do not overwrite each other's; two workers on one step
store the same content under the same key, or different content under different keys.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from botocore.exceptions import ClientError

from core.checkpoints import load_step
from core.clients import s3
from core.errors import TaskError, is_missing
from core.settings import settings
from core.stored import read_stored

# Parallel reads of checkpoints.
THREADS = 16


class StoredFileError(TaskError):
    """A stored file that is gone or was changed; the message names the object."""


@dataclass(frozen=True)
class StoredFile:
    """One object. `name`: its path inside a load. `sha256`: of its text.

    `rows_sha256`: of its rows in any order, the sum of their SHA-256 modulo 2^256. Sums can be added.
    """

    name: str
    key: str
    rows: int
    sha256: str
    rows_sha256: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def store_file(run_id: str, step: str, name: str, lines: Iterable[bytes]) -> StoredFile:
    """Stores lines (without their ends) as a file of a run."""
    rows, text = list(lines), bytearray()
    for line in rows:
        text += line + b"\n"
    digest = hashlib.sha256(text).hexdigest()
    key = f"runs/{run_id}/{step}/{digest}.jsonl.gz"
    s3().put_object(
        Bucket=settings().bucket,
        Key=key,
        Body=gzip.compress(text, compresslevel=6, mtime=0),
        ContentType="application/gzip",
    )
    return StoredFile(name, key, len(rows), digest, add_digests(map(line_digest, rows)))


def read_file(file: StoredFile) -> Iterator[bytes]:
    """The lines of a file, without their ends, while it is read.

    Raises StoredFileError, for a file that was changed after its last line.
    """
    digest = hashlib.sha256()
    rows = 0
    try:
        body = s3().get_object(Bucket=settings().bucket, Key=file.key)["Body"]
        for line in gzip.GzipFile(fileobj=body):
            digest.update(line)
            rows += 1
            yield line.removesuffix(b"\n")
    except ClientError as error:
        if is_missing(error):
            raise StoredFileError(f"{file.key} is gone") from None
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise StoredFileError(f"{file.key} is not gzip any more: {error}") from None
    if rows != file.rows:
        raise StoredFileError(f"{file.key} has {rows} rows, and {file.rows} were written")
    if digest.hexdigest() != file.sha256:
        raise StoredFileError(f"{file.key} was changed: its SHA-256 is not what was written")


def publish_file(file: StoredFile, key: str) -> StoredFile:
    """Copies a run's file to `key`, inside S3."""
    bucket = settings().bucket
    try:
        s3().copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": file.key})
    except ClientError as error:
        if is_missing(error):
            raise StoredFileError(f"{file.key} is gone") from None
        raise
    return replace(file, key=key)


def transform_step(batch: int) -> str:
    """The name of the checkpoint of a transformed batch: {"data": [file, ...], "rejects": [file, ...]}."""
    return f"transform-{batch:05}"


def transformed_files(run_id: str, batches: int) -> tuple[list[StoredFile], list[StoredFile]]:
    """The files that `transform` stored, in the order of batches: those with rows, and those with rejects."""
    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(lambda batch: load_step(run_id, transform_step(batch)), range(batches)))
    data = [read_stored(StoredFile, file) for batch in done for file in batch["data"]]
    return data, [read_stored(StoredFile, file) for batch in done for file in batch["rejects"]]


def list_keys(prefix: str) -> list[str]:
    """All keys that begin with `prefix`, in the order of their bytes."""
    pages = s3().get_paginator("list_objects_v2").paginate(Bucket=settings().bucket, Prefix=prefix)
    return [str(item["Key"]) for page in pages for item in page.get("Contents", [])]


def line_digest(line: bytes) -> str:
    """The SHA-256 of one line, in hex."""
    return hashlib.sha256(line).hexdigest()


def add_digests(digests: Iterable[str]) -> str:
    """The sum of SHA-256 values modulo 2^256, in hex: the same for the same rows in any order."""
    return f"{sum(int(digest, 16) for digest in digests) % 2**256:064x}"
