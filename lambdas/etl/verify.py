"""Reads back what was loaded, and compares its row counts and hashes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.checkpoints import load_step, run_step
from core.errors import TaskError, reraise_transient
from etl.stored_files import StoredFile, add_digests, line_digest, list_keys, read_file, transformed_files

logger = Logger()

# Parallel reads of files.
THREADS = 8


class VerificationError(TaskError):
    """What is loaded is not what was transformed; the message names the difference and the remedy."""


class Event(TypedDict):
    """What the machine sends: the files with rows and those of rejects are verified in parallel."""

    run_id: str
    kind: Literal["data", "rejects"]


class Verified(TypedDict):
    """`rows_sha256`: of all rows in any order, see etl.stored_files."""

    files: int
    rows: int
    rows_sha256: str


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Verified:
    """Verifies once for each run. Raises VerificationError, StoredFileError, CheckpointError."""
    run_id, kind = event["run_id"], event["kind"]
    logger.append_keys(run_id=run_id, kind=kind)
    verified: Verified = run_step(run_id, f"verify-{kind}", lambda: verify(run_id, kind))
    logger.info("verified", extra=verified)
    return verified


def verify(run_id: str, kind: Literal["data", "rejects"]) -> Verified:
    """Compares the objects under the load's prefix with what `transform` recorded: none more, none less."""
    extracted, loaded = load_step(run_id, "extract"), load_step(run_id, "load")
    data, rejects = transformed_files(run_id, len(extracted["batches"]))
    wanted = data if kind == "data" else rejects
    prefix = loaded["prefix"]
    keys = {prefix + file.name for file in wanted}
    foreign = [key for key in list_keys(f"{prefix}{kind}/") if key not in keys]
    if foreign:
        raise VerificationError(
            f"{len(foreign)} objects under {prefix}{kind}/ are not of this load, for instance {foreign[0]}; "
            "delete them and resume the run"
        )
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(lambda file: read_back(replace(file, key=prefix + file.name)), wanted))
    verified = Verified(
        files=len(wanted), rows=sum(file.rows for file in wanted), rows_sha256=add_digests(digests)
    )
    if verified["rows_sha256"] != add_digests(file.rows_sha256 for file in wanted):
        raise VerificationError(f"the rows under {prefix}{kind}/ are not those that were transformed")
    return verified


def read_back(file: StoredFile) -> str:
    """The sum of the SHA-256 of a loaded file's rows. Raises StoredFileError where it was changed."""
    return add_digests(map(line_digest, read_file(file)))
