"""Runs the rows of an object that landed below `ingest/` through a function, and stores the results.

    ingest/{function}/{name}                      the object; its second segment names the remote function
    ingested/{function}/{name}/{content}.jsonl    a line for each row: {"row": its columns, "result": value}

The output's key holds the content (etag and version), so that it always belongs to what was ingested, however
often the object is replaced; it is written once, as a whole. Where the rows are more than one chunk, finished
chunks are checkpoints of the content: another run on the same content continues where this one stopped.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypedDict

from botocore.exceptions import ClientError

from core.calls.answers import StoredAnswers
from core.calls.rows import run_rows
from core.catalog import Signature, read_catalog
from core.checkpoints import load_checkpoint, save_checkpoint
from core.clients import s3
from core.errors import RateLimited, TaskError, is_missing
from core.exact_json import dump_json
from core.objects import put_once
from core.patience import persist
from core.records import Row
from core.remote import load_function
from core.settings import settings
from core.stored import read_stored
from ingest.file_rows import Format, RowError, decode, find_format, read_arguments, read_rows
from ingest.landed_objects import PREFIX, Content, LandedObject, ObjectError, read_content

OUTPUT_PREFIX = "ingested/"

# What fits into the Lambda's memory, unpacked, with its output, which for short rows is six times as large.
MAX_OBJECT_BYTES = 32 * 1024 * 1024

# Each invocation reads the chunks that earlier ones finished, in about 20 ms each.
MAX_CHUNKS = 1000

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
MAX_KEY_BYTES = 1024

# The time kept for joining the chunks and writing the output.
WRITE_SECONDS = 20

# How core.remote begins the message of a row's error.
_ROW_NUMBER = re.compile(r"^((?:\w+, )?)row (\d+):")


class IngestResult(TypedDict):
    """What a run records of an object, and returns.

    `outcome`: processed; recorded (it has no rows, or its key names no function); gone (it was deleted or
    replaced meanwhile). `output`: a key of the bucket.
    """

    outcome: str
    bucket: str
    key: str
    etag: str
    version_id: str | None
    content_type: str
    bytes: int
    function: str | None
    rows: int | None
    output: str | None


@dataclass(frozen=True)
class RowSource:
    """An object's text as rows for a function."""

    text: str
    form: Format
    signature: Signature


def ingest(landed: LandedObject, seconds_left: Callable[[], float]) -> IngestResult | None:
    """Runs the object's rows through its function; None where too little time is left for another chunk.

    Each call finishes at least one more chunk, or waits as long as it can for the function's limit. Raises
    ObjectError, RowError and what `run_rows` raises.
    """
    content = read_stored(Content, landed["content"])
    name, form = function_name(content.key), find_format(landed["content_type"], content.key)
    if name is None or form is None:
        return _result(landed, "recorded")
    signature = find_signature(name)
    output = output_key(content)
    rows = _rows_written(output)
    if rows is None:
        text = _load_text(landed)
        if text is None:
            return _result(landed, "gone")
        source = RowSource(text, form, signature)
        rows = check_rows(source)
        try:
            parts = _run_chunks(content, source, rows, seconds_left)
        except RateLimited:
            return None
        if parts is None:
            return None
        # An earlier owner, whose lease expired since, may have written it; what was written first stays.
        body = b"".join(part.encode("utf-8") for part in parts)
        count = str(rows)
        persist(lambda: put_once(output, body, ContentType="application/jsonl", Metadata={"rows": count}))
    return _result(landed, "processed", signature.name, rows, output)


def function_name(key: str) -> str | None:
    """The remote function that a key names: its second segment, where something follows that."""
    name, slash, rest = key.removeprefix(PREFIX).partition("/")
    return name if slash and rest and name else None


def find_signature(name: str) -> Signature:
    """The function's signature. Raises ObjectError where there is none that takes named columns."""
    catalog = read_catalog()
    if name not in catalog:
        known = ", ".join(catalog)
        raise ObjectError(f"there is no function {name!r}, which the key names; there are: {known}")
    signature = catalog[name]
    if signature.variadic:
        raise ObjectError(f"{signature} takes any number of arguments, which cannot be matched with columns")
    return signature


def output_key(content: Content) -> str:
    """Where the output of a content goes. Raises ObjectError where that key would be too long."""
    key = f"{OUTPUT_PREFIX}{content.key.removeprefix(PREFIX)}/{content.name}.jsonl"
    excess = len(key.encode()) - MAX_KEY_BYTES
    if excess > 0:
        raise ObjectError(
            f"the key is too long: its output's key may have {MAX_KEY_BYTES:,} bytes; "
            f"shorten it by {excess} bytes"
        )
    return key


def check_rows(source: RowSource) -> int:
    """The number of rows. Reads each of them, so that bad input fails before anything is done.

    Raises RowError, also where no row has a column that the function takes.
    """
    count = 0
    columns: dict[str, None] = {}
    for row in read_rows(source.text, source.form):
        count += 1
        columns.update(dict.fromkeys(row.values))
        read_arguments(source.signature, source.form, row)
    missing = [p.name for p in source.signature.parameters if p.name not in columns]
    if count and missing:
        known = ", ".join(columns)
        raise RowError(
            f"no row has the column {missing[0]!r}, which {source.signature} takes; there are: {known}"
        )
    return count


def _load_text(landed: LandedObject) -> str | None:
    """The object's text, of exactly this content; None where it is gone."""
    if landed["bytes"] > MAX_OBJECT_BYTES:
        raise ObjectError(
            f"the object has {landed['bytes']:,} bytes and at most {MAX_OBJECT_BYTES:,} are ingested; "
            "split it"
        )
    body = read_content(read_stored(Content, landed["content"]))
    return None if body is None else decode(body, MAX_OBJECT_BYTES)


def _run_chunks(
    content: Content, source: RowSource, count: int, seconds_left: Callable[[], float]
) -> list[str] | None:
    """The output, a part for each chunk; None where the next chunk may not fit into the time that is left."""
    run_id = checkpoints_id(content)
    run_chunk = partial(_run_chunk, source, load_function(source.signature.name), run_id)
    rows = read_rows(source.text, source.form)
    size = source.signature.chunk_rows
    if count <= size:
        return [run_chunk(f"rows-0-{size}", list(rows), again=True)]
    if count > size * MAX_CHUNKS:
        raise ObjectError(
            f"the object has {count:,} rows, and {source.signature.name} takes at most {size * MAX_CHUNKS:,} "
            f"of one object ({MAX_CHUNKS:,} chunks); split it"
        )
    parts: list[str] = []
    longest: float | None = None
    for first in range(0, count, size):
        chunk = list(islice(rows, size))
        step = f"rows-{first}-{size}"
        finished, part = load_checkpoint(run_id, step)
        if not finished:
            if longest is not None and seconds_left() < 2 * longest + WRITE_SECONDS:
                return None
            began = time.monotonic()
            # An earlier invocation has stopped at the first of the unfinished chunks, and not at a later one.
            result = run_chunk(step, chunk, again=longest is None)
            part = persist(partial(save_checkpoint, run_id, step, result))
            longest = max(longest or 0, time.monotonic() - began)
        parts.append(part)
    return parts


def _run_chunk(
    source: RowSource,
    function: Callable[..., Any],
    run_id: str,
    step: str,
    rows: Sequence[Row],
    *,
    again: bool,
) -> str:
    """A chunk's part of the output. `again`: an earlier invocation may have stored answers of it."""
    answers = StoredAnswers(f"runs/{run_id}/{step}/answers-", is_first=not again)
    arguments = [read_arguments(source.signature, source.form, row) for row in rows]
    try:
        values = run_rows(source.signature, function, arguments, 0, answers)
    except TaskError as error:
        # run_rows numbers the rows of the chunk; the author of a file needs the line.
        error.args = (_ROW_NUMBER.sub(lambda m: f"{m[1]}line {rows[int(m[2])].line}:", str(error)),)
        raise
    return "".join(
        f'{{"row":{dump_json(row.values)},"result":{value}}}\n'
        for row, value in zip(rows, values, strict=True)
    )


def checkpoints_id(content: Content) -> str:
    """The run id of a content's checkpoints; a hash, since a key may hold any character."""
    identity = json.dumps([content.bucket, content.key, content.name])
    return "ingest-" + hashlib.sha256(identity.encode()).hexdigest()[:40]


def _rows_written(output: str) -> int | None:
    try:
        head = s3().head_object(Bucket=settings().bucket, Key=output)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return int(head["Metadata"]["rows"])


def _result(
    landed: LandedObject,
    outcome: str,
    function: str | None = None,
    rows: int | None = None,
    output: str | None = None,
) -> IngestResult:
    content = landed["content"]
    return IngestResult(
        outcome=outcome,
        bucket=content["bucket"],
        key=content["key"],
        etag=content["etag"],
        version_id=content["version_id"],
        content_type=landed["content_type"],
        bytes=landed["bytes"],
        function=function,
        rows=rows,
        output=output,
    )
