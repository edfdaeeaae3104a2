"""A batch in S3: rows that are too large for an execution's input, finished chunks, and the result.

    batches/{execution}/rows-{digest}.json.gz   an array of argument arrays
    batches/{execution}/chunk-00000.json.gz     rows as `wire.render_rows` writes them
    batches/{execution}/chunk-00000-answers-*   what attempts at an unfinished chunk know (core.calls.answers)
    batches/{execution}/result.json.gz          the body of the 200

Chunks and results are written once, and the first writer wins: a worker that timed out and writes after its
retry has written changes nothing, and each GET answers the same bytes.
"""

import gzip
from dataclasses import asdict, dataclass
from typing import Any, Self

from botocore.exceptions import ClientError

from batch import wire
from core.clients import s3
from core.errors import ResultError, is_missing
from core.exact_json import Json, parse_json
from core.objects import put_once
from core.settings import settings
from core.stored import read_stored


@dataclass(frozen=True)
class Batch:
    """What every batch has in its execution's input.

    `digest`: SHA-256 of the rows' canonical text. `chunk_rows`: rows in a chunk.
    """

    batch_id: str
    query_id: str
    digest: str
    row_count: int
    chunk_rows: int
    chunks: int

    def to_input(self) -> dict[str, Any]:
        """The document that StartExecution gets."""
        return asdict(self)

    @classmethod
    def from_input(cls, document: dict[str, Any]) -> Self:
        """The batch in an execution's input."""
        return read_stored(cls, document)

    def chunk_range(self, chunk: int) -> range:
        """The row numbers of a chunk."""
        first = chunk * self.chunk_rows
        return range(first, min(first + self.chunk_rows, self.row_count))


@dataclass(frozen=True)
class FunctionBatch(Batch):
    """Rows for a remote function.

    `rows`: the rows as JSON text, or None where they are in S3. Text and not JSON, since JSONata reads
    numbers as doubles and would lose digits.
    """

    function: str
    rows: str | None


@dataclass(frozen=True)
class WorkflowBatch(Batch):
    """Inputs for a workflow, one run for each row; each row is a chunk.

    `detached`: answer with the runs' handles at once, and not with their outputs.
    """

    workflow: str
    documents: list[Json]
    detached: bool


@dataclass(frozen=True)
class Result:
    """A finished batch: the gzipped body of its 200, and the digest of the rows that it answers."""

    body: bytes
    digest: str


def store_rows(execution: str, rows: wire.Rows) -> None:
    """Puts rows where `load_rows` finds them. The key holds their digest: other rows never replace them."""
    s3().put_object(
        Bucket=settings().bucket,
        Key=_rows_key(execution, rows.digest),
        Body=gzip.compress(rows.text.encode("utf-8"), compresslevel=6, mtime=0),
        ContentType="application/json",
        ContentEncoding="gzip",
    )


def load_rows(execution: str, batch: FunctionBatch) -> list[list[Json]]:
    """All rows of a batch, from its input or from S3."""
    if batch.rows is not None:
        text = batch.rows
    else:
        stored = _get(_rows_key(execution, batch.digest))
        if stored is None:
            raise ResultError(f"the rows of {execution} are gone: {_rows_key(execution, batch.digest)}")
        text = gzip.decompress(stored.body).decode("utf-8")
    rows: list[list[Json]] = parse_json(text)
    return rows


def store_chunk(execution: str, batch: Batch, chunk: int, rows: str) -> None:
    """Checkpoints a finished chunk, unless it is there already."""
    body = gzip.compress(rows.encode("utf-8"), compresslevel=6, mtime=0)
    _put_once(_chunk_key(execution, chunk), body, batch.digest)


def load_chunk(execution: str, chunk: int) -> str | None:
    """A finished chunk's rows, or None."""
    stored = _get(_chunk_key(execution, chunk))
    return gzip.decompress(stored.body).decode("utf-8") if stored else None


def has_chunk(execution: str, chunk: int) -> bool:
    """Whether a chunk is finished."""
    return _exists(_chunk_key(execution, chunk))


def answers_prefix(execution: str, chunk: int) -> str:
    """Where the answers of an unfinished chunk are."""
    return f"batches/{execution}/chunk-{chunk:05}-answers-"


def store_result(execution: str, batch: Batch, chunks: list[str]) -> None:
    """Writes the answer of the whole batch, unless it is there already."""
    _put_once(_result_key(execution), wire.render_result(chunks), batch.digest)


def load_result(execution: str) -> Result | None:
    """The answer of the whole batch, or None while there is none."""
    return _get(_result_key(execution))


def has_result(execution: str) -> bool:
    """Whether the batch has its answer."""
    return _exists(_result_key(execution))


def _rows_key(execution: str, digest: str) -> str:
    return f"batches/{execution}/rows-{digest}.json.gz"


def _chunk_key(execution: str, chunk: int) -> str:
    return f"batches/{execution}/chunk-{chunk:05}.json.gz"


def _result_key(execution: str) -> str:
    return f"batches/{execution}/result.json.gz"


def _get(key: str) -> Result | None:
    try:
        stored = s3().get_object(Bucket=settings().bucket, Key=key)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return Result(stored["Body"].read(), stored["Metadata"].get("digest", ""))


def _exists(key: str) -> bool:
    try:
        s3().head_object(Bucket=settings().bucket, Key=key)
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    return True


def _put_once(key: str, body: bytes, digest: str) -> None:
    put_once(key, body, ContentType="application/json", ContentEncoding="gzip", Metadata={"digest": digest})
