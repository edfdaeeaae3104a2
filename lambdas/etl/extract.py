"""A dataset's objects as batches of records: what is extracted here is what the whole run sees."""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NotRequired, TypedDict
from zoneinfo import ZoneInfo

from aws_lambda_powertools import Logger
from botocore.exceptions import ClientError

from core.catalog import read_workflows
from core.checkpoints import load_checkpoint, run_step
from core.clients import s3
from core.errors import TaskError, TransientError, is_missing, named_for_retry
from core.inputs import check_document
from core.records import DatasetError, Record
from core.settings import settings
from etl import cleaning
from etl.stored_files import Part, list_keys, store_part

logger = Logger()

# The dataset is looked for as often as this while it is not there.
MIN_LOOK_SECONDS = 5
MAX_LOOKS = 100

# A batch takes 7 events of the execution's history, of 25,000; retries take more.
# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_BATCHES = 2000


class InputError(TaskError):
    """A run's input that is not what the workflow's schema says; the message names the path in it."""


class RunConflict(TaskError):
    """The run id belongs to a run that had another input."""


class Event(TypedDict):
    """What the machine sends. `looks`: how often the dataset was looked for in vain."""

    run_id: str
    input: Any
    looks: int


class Extracted(TypedDict):
    """What the machine goes on with: how to look again while the dataset is not there, else all the rest."""

    arrived: bool
    looks: NotRequired[int]
    look_again_seconds: NotRequired[int]
    run_id: NotRequired[str]
    dataset_id: NotRequired[str]
    batches: NotRequired[int]
    transform_at: NotRequired[str]
    approval: NotRequired[bool]


def handler(event: Event, context: Any) -> Extracted:
    """Extracts once a run. Raises InputError, RunConflict, DatasetError."""
    run_id = event["run_id"]
    logger.append_keys(run=run_id)
    wanted = complete(event["input"])
    with named_for_retry():
        finished, found = load_checkpoint(run_id, "extract")
        if not finished:
            keys = list_keys(f"datasets/{wanted['dataset_id']}/")
            sources = [key for key in keys if cleaning.format_of(key)]
            if not sources:
                seconds = look_again(wanted, event["looks"], len(keys))
                return Extracted(arrived=False, looks=event["looks"] + 1, look_again_seconds=seconds)
            found = run_step(run_id, "extract", lambda: extract(run_id, wanted, keys, sources))
        if found["input"] != wanted:
            raise RunConflict(f"run {run_id} had another input; give that, or another run_id for a new run")
        # An approval is in the checkpoint of `schedule`, the step behind it.
        approved, _ = load_checkpoint(run_id, "schedule")
    return Extracted(
        arrived=True,
        run_id=run_id,
        dataset_id=wanted["dataset_id"],
        batches=len(found["batches"]),
        transform_at=found["transform_at"],
        approval=wanted["approval"] and not approved,
    )


def complete(document: Any) -> dict[str, Any]:
    """The input with the schema's defaults and without the run id. Raises InputError."""
    workflow = read_workflows()["etl"]
    try:
        check_document(workflow, document)
    except ValueError as error:
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


def look_again(wanted: dict[str, Any], looks: int, others: int) -> int:
    """After how many seconds to look for the dataset again. Raises DatasetError where the time is over."""
    timeout, dataset = int(wanted["arrival_timeout_seconds"]), wanted["dataset_id"]
    seconds = max(MIN_LOOK_SECONDS, math.ceil(timeout / MAX_LOOKS))
    if looks * seconds < timeout:
        return seconds
    raise DatasetError(
        f"there is no dataset {dataset!r}: no object datasets/{dataset}/*.csv or *.jsonl (or .gz of these) "
        f"within {timeout} s, and {others} of other names; put one there or mend dataset_id"
    )


def extract(run_id: str, wanted: dict[str, Any], keys: list[str], sources: list[str]) -> dict[str, Any]:
    """Stores the dataset's records in batches and returns the checkpoint."""
    records = cleaning.reject_repeated_keys(
        (record for key in sources for record in read_object(key)),
        wanted.get("key_columns"),
        wanted.get("partition_by"),
    )
    batches: list[Part] = []
    for batch in cleaning.split(records, int(wanted["batch_size"])):
        if len(batches) == MAX_BATCHES:
            raise DatasetError(
                f"the dataset has more than {MAX_BATCHES:,} batches of {wanted['batch_size']:,} rows; "
                "raise batch_size, or split the dataset"
            )
        lines = (cleaning.dump_line(record.to_json()) for record in batch)
        batches.append(store_part(run_id, "extract", f"batch-{len(batches):05}", lines))
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
            raise TransientError(f"{key} was deleted while it was to be read") from None
        raise
    stream: Any = gzip.GzipFile(fileobj=body) if key.lower().endswith(".gz") else io.BufferedReader(body)
    # JSON Lines end with \n alone; inside a CSV field any line end may stand.
    ends = "" if cleaning.format_of(key) == ".csv" else "\n"
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline=ends)
    try:
        yield from cleaning.read_records(key, text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetError(f"{key} cannot be unpacked: {error}; write it again") from None
