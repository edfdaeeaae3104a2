"""Cleans one batch of records: a file of rows for each partition, and a file of rejects."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.checkpoints import load_step, run_step
from core.errors import reraise_transient
from core.exact_json import parse_json
from core.stored import read_stored
from etl import cleaning
from etl.stored_files import StoredFile, read_file, store_file, transform_step

logger = Logger()


class Event(TypedDict):
    """What the machine sends for each batch, numbered from 0."""

    run_id: str
    batch: int


class Transformed(TypedDict):
    """How many records of the batch are rows, and how many were rejected."""

    rows: int
    rejected: int


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Transformed:
    """Transforms a batch once for each run. Raises CheckpointError, StoredFileError."""
    run_id, batch = event["run_id"], event["batch"]
    logger.append_keys(run_id=run_id, batch=batch)
    done = run_step(run_id, transform_step(batch), lambda: transform(run_id, batch))
    counts = Transformed(rows=count(done["data"]), rejected=count(done["rejects"]))
    logger.info("transformed", extra=counts)
    return counts


def transform(run_id: str, batch: int) -> dict[str, Any]:
    """Stores the batch's clean rows and rejects, and returns the checkpoint.

    {"data": [file, ...], "rejects": [file, ...]}, each a StoredFile as JSON.
    """
    extracted = load_step(run_id, "extract")
    file = read_stored(StoredFile, extracted["batches"][batch])
    records = (cleaning.record_from_json(parse_json(line.decode("utf-8"))) for line in read_file(file))
    rows, rejects = cleaning.transform(records, extracted["input"].get("partition_by"))
    name = f"part-{batch:05}.jsonl.gz"
    data = [
        store_file(run_id, "transform", "/".join(filter(None, ["data", partition, name])), lines)
        for partition, lines in sorted(rows.items())
    ]
    rejected = [store_file(run_id, "transform", f"rejects/{name}", rejects)] if rejects else []
    return {"data": [p.to_json() for p in data], "rejects": [p.to_json() for p in rejected]}


def count(files: list[dict[str, Any]]) -> int:
    """The rows of all files."""
    return sum(file["rows"] for file in files)
