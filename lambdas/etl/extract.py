"""Stores a dataset's objects as batches of records; the later steps read only those."""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NotRequired, TypedDict
from zoneinfo import ZoneInfo

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError

from core import inputs
from core.catalog import read_workflows
from core.checkpoints import RunConflict, load_checkpoint, run_step
from core.clients import s3
from core.errors import TransientError, is_missing, reraise_transient
from core.inputs import InputError
from core.records import DatasetError, Record
from core.settings import settings
from etl import cleaning
from etl.stored_files import StoredFile, list_keys, store_file

logger = Logger()

# Limits of the retries while the dataset has not arrived.
MIN_RETRY_SECONDS = 5
MAX_ATTEMPTS = 100

# A batch adds 7 events to the execution's history, which has at most 25,000; retries add more.
# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_BATCHES = 2000


class Event(TypedDict):
    """What the machine sends. `attempts`: how often the dataset had not arrived yet.

    An execution keeps the definition that it was started with: version 0.1's sends `looks` for `attempts`.
    """

    run_id: str
    input: Any
    attempts: NotRequired[int]
    looks: NotRequired[int]


class Extracted(TypedDict):
    """The machine's next input: when to retry while the dataset has not arrived, else the other fields.

    Version 0.1's definition reads `looks` and `look_again_seconds` for `attempts` and `retry_seconds`.
    """

    arrived: bool
    attempts: NotRequired[int]
    retry_seconds: NotRequired[int]
    looks: NotRequired[int]
    look_again_seconds: NotRequired[int]
    run_id: NotRequired[str]
    dataset_id: NotRequired[str]
    batches: NotRequired[int]
    transform_at: NotRequired[str]
    approval: NotRequired[bool]


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Extracted:
    """Extracts the dataset once for each run. Raises InputError, RunConflict, DatasetError."""
    run_id = event["run_id"]
    logger.append_keys(run_id=run_id)
    wanted = complete(event["input"])
    finished, extracted = load_checkpoint(run_id, "extract")
    if not finished:
        keys = list_keys(f"datasets/{wanted['dataset_id']}/")
        sources = [key for key in keys if cleaning.format_of(key)]
        if not sources:
            return not_arrived(event, wanted, len(keys))
        extracted = run_step(run_id, "extract", lambda: extract(run_id, wanted, keys, sources))
    if extracted["input"] != wanted:
        raise RunConflict(f"run {run_id} had another input; give that, or another run_id for a new run")
    # An approval is in the checkpoint of `schedule`, the next step.
    approved, _ = load_checkpoint(run_id, "schedule")
    return Extracted(
        arrived=True,
        run_id=run_id,
        dataset_id=wanted["dataset_id"],
        batches=len(extracted["batches"]),
        transform_at=extracted["transform_at"],
        approval=wanted["approval"] and not approved,
    )


def complete(document: Any) -> dict[str, Any]:
    """The input with the schema's defaults and without the run id. Raises InputError."""
    workflow = read_workflows()["etl"]
    try:
        inputs.validate(workflow, document)
    except InputError as error:
        raise InputError(f"the input, {error}") from None
    properties = workflow.schema["properties"]
    defaults = {name: member["default"] for name, member in properties.items() if "default" in member}
    wanted = {**defaults, **document}
    wanted.pop("run_id", None)
    try:
        ZoneInfo(wanted["time_zone"])
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"the input, at $.time_zone: {wanted['time_zone']!r} is not in the IANA time zone database; "
            "a name there is, for instance, Asia/Tokyo"
        ) from None
    return wanted


def not_arrived(event: Event, wanted: dict[str, Any], others: int) -> Extracted:
    """When to try again. Raises DatasetError once the arrival timeout has passed."""
    attempts = event.get("attempts", event.get("looks", 0))
    seconds = retry_seconds(wanted, attempts, others)
    return Extracted(
        arrived=False,
        attempts=attempts + 1,
        retry_seconds=seconds,
        looks=attempts + 1,
        look_again_seconds=seconds,
    )


def retry_seconds(wanted: dict[str, Any], attempts: int, others: int) -> int:
    """After how many seconds to try again. Raises DatasetError once the arrival timeout has passed."""
    timeout, dataset = int(wanted["arrival_timeout_seconds"]), wanted["dataset_id"]
    seconds = max(MIN_RETRY_SECONDS, math.ceil(timeout / MAX_ATTEMPTS))
    if attempts * seconds < timeout:
        return seconds
    raise DatasetError(
        f"there is no dataset {dataset!r}: no object datasets/{dataset}/*.csv or *.jsonl (or .gz of these) "
        f"within {timeout} s, and {others} of other names; put one there or correct dataset_id"
    )


def extract(run_id: str, wanted: dict[str, Any], keys: list[str], sources: list[str]) -> dict[str, Any]:
    """Stores the dataset's records in batches and returns the checkpoint."""
    records = cleaning.reject_repeated_keys(
        (record for key in sources for record in read_object(key)),
        wanted.get("key_columns"),
        wanted.get("partition_by"),
    )
    batches: list[StoredFile] = []
    for batch in cleaning.split(records, int(wanted["batch_size"])):
        if len(batches) == MAX_BATCHES:
            raise DatasetError(
                f"the dataset has more than {MAX_BATCHES:,} batches of {wanted['batch_size']:,} rows; "
                "raise batch_size, or split the dataset"
            )
        lines = (cleaning.dump_line(record.to_json()) for record in batch)
        batches.append(store_file(run_id, "extract", f"batch-{len(batches):05}", lines))
    logger.info("extracted", extra={"sources": len(sources), "batches": len(batches)})
    transform_at = datetime.now(UTC) + timedelta(seconds=wanted["rate_limit_seconds"])
    return {
        "input": wanted,
        "sources": sources,
        "ignored": [key for key in keys if key not in set(sources) and not key.endswith("/")],
        "batches": [batch.to_json() for batch in batches],
        "transform_at": transform_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def read_object(key: str) -> Iterator[Record]:
    """The records of one object, while it is read. Raises DatasetError."""
    try:
        body = s3().get_object(Bucket=settings().bucket, Key=key)["Body"]
    except ClientError as error:
        if is_missing(error):
            raise TransientError(f"{key} was deleted before it was read") from None
        raise
    stream: Any = gzip.GzipFile(fileobj=body) if key.lower().endswith(".gz") else io.BufferedReader(body)
    # JSON Lines end with \n only; a CSV field may contain any line end.
    ends = "" if cleaning.format_of(key) == ".csv" else "\n"
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline=ends)
    try:
        yield from cleaning.read_records(key, text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{key} cannot be unpacked: {error}; write it again") from None
