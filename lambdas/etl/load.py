"""Publishes the files of a load under a prefix derived from their content, and the manifest last.

    loads/{dataset}/{load id}/data/[{column}={day}/]part-00000.jsonl.gz    what COPY INTO reads
    loads/{dataset}/{load id}/rejects/part-00000.jsonl.gz                  what was rejected, with reasons
    loads/{dataset}/{load id}/manifest.json                                exists once the load is complete

The same rows give the same prefix: loading twice, by this run or by another, leaves one copy.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.checkpoints import load_step, run_step
from core.clients import s3
from core.errors import reraise_transient
from core.exact_json import dump_json
from core.settings import settings
from etl.stored_files import StoredFile, add_digests, list_keys, publish_file, transformed_files

logger = Logger()

# Parallel copies.
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


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Loaded:
    """Loads once for each run. Raises CheckpointError, StoredFileError."""
    run_id = event["run_id"]
    logger.append_keys(run_id=run_id)
    loaded: Loaded = run_step(run_id, "load", lambda: load(run_id))
    logger.info("loaded", extra=loaded)
    return loaded


def load(run_id: str) -> Loaded:
    """Publishes all files of the run, then the manifest, and returns the checkpoint."""
    extracted = load_step(run_id, "extract")
    data, rejects = transformed_files(run_id, len(extracted["batches"]))
    prefix = f"loads/{extracted['input']['dataset_id']}/{load_id(data + rejects)}/"
    present = set(list_keys(prefix))
    missing = [file for file in data + rejects if prefix + file.name not in present]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: publish_file(file, prefix + file.name), missing))
    manifest = build_manifest(extracted, prefix, data, rejects)
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


def build_manifest(
    extracted: dict[str, Any], prefix: str, data: list[StoredFile], rejects: list[StoredFile]
) -> dict[str, Any]:
    """What the manifest says: the dataset's objects, counts, and the files, each a StoredFile as JSON."""
    return {
        "dataset_id": extracted["input"]["dataset_id"],
        "sources": extracted["sources"],
        "ignored": extracted["ignored"],
        "rows": sum(file.rows for file in data),
        "rejected": sum(file.rows for file in rejects),
        "rows_sha256": add_digests(file.rows_sha256 for file in data),
        "data": [replace(file, key=prefix + file.name).to_json() for file in data],
        "rejects": [replace(file, key=prefix + file.name).to_json() for file in rejects],
    }


def load_id(files: list[StoredFile]) -> str:
    """An id made of the files' names and content: equal files have the same one."""
    text = dump_json([[file.name, file.sha256] for file in files])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:LOAD_ID_CHARS]
