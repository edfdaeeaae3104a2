"""What was loaded, read back: counted, and hashed file by file and all together."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypedDict

from aws_lambda_powertools import Logger

from core.checkpoints import recall_step, run_step
from core.errors import TaskError, named_for_retry
from etl.stored_files import Part, add_digests, line_digest, list_keys, load_part, recall_parts

logger = Logger()

# Files that are read side by side.
THREADS = 8


class VerificationError(TaskError):
    """What is loaded is not what was transformed; the message names the difference and the remedy."""


class Event(TypedDict):
    """What the machine sends: the files with rows and those of rejects are verified side by side."""

    run_id: str
    kind: Literal["data", "rejects"]


class Verified(TypedDict):
    """`rows_sha256`: of all rows in any order, see etl.stored_files."""

    files: int
    rows: int
    rows_sha256: str


def handler(event: Event, context: Any) -> Verified:
    """Verifies once a run. Raises VerificationError, PartError, CheckpointError."""
    run_id, kind = event["run_id"], event["kind"]
    logger.append_keys(run=run_id, kind=kind)
    with named_for_retry():
        verified: Verified = run_step(run_id, f"verify-{kind}", lambda: verify(run_id, kind))
    logger.info("verified", extra=verified)
    return verified


def verify(run_id: str, kind: Literal["data", "rejects"]) -> Verified:
    """Compares what lies under the load's prefix with what `transform` recorded: neither more nor less."""
    extracted, loaded = recall_step(run_id, "extract"), recall_step(run_id, "load")
    data, rejects = recall_parts(run_id, len(extracted["batches"]))
    wanted = data if kind == "data" else rejects
    prefix = loaded["prefix"]
    keys = {prefix + part.name for part in wanted}
    strange = [key for key in list_keys(f"{prefix}{kind}/") if key not in keys]
    if strange:
        raise VerificationError(
            f"{len(strange)} objects under {prefix}{kind}/ are not of this load, for instance {strange[0]}; "
            "delete them and resume the run"
        )
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(lambda part: read_back(replace(part, key=prefix + part.name)), wanted))
    verified = Verified(
        files=len(wanted), rows=sum(part.rows for part in wanted), rows_sha256=add_digests(digests)
    )
    if verified["rows_sha256"] != add_digests(part.rows_sha256 for part in wanted):
        raise VerificationError(f"the rows under {prefix}{kind}/ are not those that were transformed")
    return verified


def read_back(part: Part) -> str:
    """The sum of the SHA-256 of a loaded file's rows. Raises PartError where it is not what was written."""
    return add_digests(map(line_digest, load_part(part)))
