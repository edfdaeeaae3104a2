"""One batch of records made clean: a file of rows for each partition, and one of what was rejected."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.checkpoints import recall_step, run_step
from core.errors import named_for_retry
from core.exact_json import parse_json
from etl import cleaning
from etl.stored_files import Part, load_part, store_part, transform_step

logger = Logger()


class Event(TypedDict):
    """What the machine sends for each batch, numbered from 0."""

    run_id: str
    batch: int


class Transformed(TypedDict):
    """How many records of the batch are rows, and how many were rejected."""

    rows: int
    rejected: int


def handler(event: Event, context: Any) -> Transformed:
    """Transforms a batch once a run. Raises CheckpointError, PartError."""
    run_id, batch = event["run_id"], event["batch"]
    logger.append_keys(run=run_id, batch=batch)
    with named_for_retry():
        done = run_step(run_id, transform_step(batch), lambda: transform(run_id, batch))
    counts = Transformed(rows=count(done["data"]), rejected=count(done["rejects"]))
    logger.info("transformed", extra=counts)
    return counts


def transform(run_id: str, batch: int) -> dict[str, Any]:
    """Stores what the batch becomes and returns the checkpoint: {"data": [part, ...], "rejects": [...]}."""
    extracted = recall_step(run_id, "extract")
    part = Part(**extracted["batches"][batch])
    records = (cleaning.record_from_json(parse_json(line.decode("utf-8"))) for line in load_part(part))
    rows, rejects = cleaning.transform(records, extracted["input"].get("partition_by"))
    name = f"part-{batch:05}.jsonl.gz"
    data = [
        store_part(run_id, "transform", "/".join(filter(None, ["data", partition, name])), lines)
        for partition, lines in sorted(rows.items())
    ]
    rejected = [store_part(run_id, "transform", f"rejects/{name}", rejects)] if rejects else []
    return {"data": [p.to_json() for p in data], "rejects": [p.to_json() for p in rejected]}


def count(parts: list[dict[str, Any]]) -> int:
    """The rows of all parts."""
    return sum(part["rows"] for part in parts)
