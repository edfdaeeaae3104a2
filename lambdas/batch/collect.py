"""The finished chunks of a batch, in order, as its result."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NotRequired, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from batch import store, wire
from batch.store import Batch
from core.errors import ResultError, reraise_transient
from core.exact_json import dump_json

logger = Logger()

# Parallel reads from S3.
READERS = 16

# The value of a row of a workflow batch for which there was no time.
NOT_STARTED = {
    "error": "RunNotStarted",
    "cause": "the rows before it took the time that SQL waits, so no run was started for it; lower "
    "MAX_BATCH_ROWS on the external function, or start such runs detached",
}


class Event(TypedDict):
    """What the batch machine sends.

    `not_started`: the rows of a workflow batch, each a chunk, that have no run. Version 0.1 does not send it.
    """

    execution: str
    batch: dict[str, Any]
    not_started: NotRequired[list[int]]


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
    not_started = frozenset(event.get("not_started", []))
    with ThreadPoolExecutor(READERS) as pool:
        chunks = list(pool.map(lambda chunk: load(execution, chunk, not_started), range(batch.chunks)))
    store.store_result(execution, batch, chunks)
    return Done(chunks=batch.chunks, rows=batch.row_count)


def load(execution: str, chunk: int, not_started: Collection[int]) -> str:
    """The rows of a chunk, which must have been stored unless it was not started. Raises ResultError."""
    if chunk in not_started:
        return wire.render_rows([dump_json(NOT_STARTED)], chunk)
    rows = store.load_chunk(execution, chunk)
    if rows is None:
        raise ResultError(f"chunk {chunk} of {execution} is gone; its checkpoint expired or was deleted")
    return rows
