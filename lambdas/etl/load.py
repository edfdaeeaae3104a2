"""The files of a load: published under a prefix that is made of their content, the manifest last.

    loads/{dataset}/{load id}/data/[{column}={day}/]part-00000.jsonl.gz    what COPY INTO reads
    loads/{dataset}/{load id}/rejects/part-00000.jsonl.gz                  what it does not, with reasons
    loads/{dataset}/{load id}/manifest.json                                there once all of it is

The same rows give the same prefix: loading twice, by this run or by another, leaves one copy.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.checkpoints import recall_step, run_step
from core.clients import s3
from core.errors import named_for_retry
from core.exact_json import dump_json
from core.settings import settings
from etl.stored_files import Part, add_digests, list_keys, publish_part, recall_parts

logger = Logger()

# Copies that wait side by side.
THREADS = 16
LOAD_ID_CHARS = 20


class Event(TypedDict):
    """What the machine sends."""

    run_id: str


class Loaded(TypedDict):
    """`prefix`: of the load, in the bucket; `files`: with rows, without those of rejects."""

    prefix: str
    manifest: str
    files: int
    rows: int
    rejected: int


def handler(event: Event, context: Any) -> Loaded:
    """Loads once a run. Raises CheckpointError, PartError."""
    run_id = event["run_id"]
    logger.append_keys(run=run_id)
    with named_for_retry():
        loaded: Loaded = run_step(run_id, "load", lambda: load(run_id))
    logger.info("loaded", extra=loaded)
    return loaded


def load(run_id: str) -> Loaded:
    """Publishes all parts of the run, then the manifest, and returns the checkpoint."""
    extracted = recall_step(run_id, "extract")
    data, rejects = recall_parts(run_id, len(extracted["batches"]))
    dataset = extracted["input"]["dataset_id"]
    prefix = f"loads/{dataset}/{load_id(data + rejects)}/"
    present = set(list_keys(prefix))
    missing = [part for part in data + rejects if prefix + part.name not in present]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda part: publish_part(part, prefix + part.name), missing))
    manifest = {
        "dataset_id": dataset,
        "sources": extracted["sources"],
        "ignored": extracted["ignored"],
        "rows": sum(part.rows for part in data),
        "rejected": sum(part.rows for part in rejects),
        "rows_sha256": add_digests(part.rows_sha256 for part in data),
        "data": [replace(part, key=prefix + part.name).to_json() for part in data],
        "rejects": [replace(part, key=prefix + part.name).to_json() for part in rejects],
    }
    key = prefix + "manifest.json"
    if key not in present:
        body = dump_json(manifest).encode("utf-8")
        s3().put_object(Bucket=settings().bucket, Key=key, Body=body, ContentType="application/json")
    return Loaded(
        prefix=prefix,
        manifest=key,
        files=len(data),
        rows=manifest["rows"],
        rejected=manifest["rejected"],
    )


def load_id(parts: list[Part]) -> str:
    """The same for the same files with the same content."""
    text = dump_json([[part.name, part.sha256] for part in parts])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LOAD_ID_CHARS]
