"""The finished chunks of a batch, in order, as its result."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from batch import store
from batch.store import Batch
from core.errors import ResultError, reraise_transient

logger = Logger()

# Parallel reads from S3.
READERS = 16


class Event(TypedDict):
    """What the batch machine sends."""

    execution: str
    batch: dict[str, Any]


class Done(TypedDict):
    """What the execution's history shows of a finished batch."""

    chunks: int
    rows: int


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Done:
    """Joins the chunks into the result. Raises ResultError where one is missing."""
    execution, batch = event["execution"], Batch.from_input(event["batch"])
    logger.append_keys(execution=execution)
    with ThreadPoolExecutor(READERS) as pool:
        chunks = list(pool.map(lambda chunk: load(execution, chunk), range(batch.chunks)))
    store.store_result(execution, batch, chunks)
    return Done(chunks=batch.chunks, rows=batch.row_count)


def load(execution: str, chunk: int) -> str:
    """The rows of a chunk, which must have been stored. Raises ResultError."""
    rows = store.load_chunk(execution, chunk)
    if rows is None:
        raise ResultError(f"chunk {chunk} of {execution} is gone; its checkpoint expired or was deleted")
    return rows
