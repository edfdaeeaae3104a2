"""Runs one chunk of a batch through its remote function."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from batch import store, wire
from batch.store import FunctionBatch
from core import deadline
from core.catalog import read_catalog
from core.errors import FunctionError, ResultError, reraise_transient
from core.remote import load_function, run_rows

logger = Logger()


class Event(TypedDict):
    """What the batch machine sends. `again`: this is not the first attempt (a retry or a redrive)."""

    execution: str
    batch: dict[str, Any]
    chunk: int
    again: bool


class Done(TypedDict):
    """What the execution's history shows of a finished chunk."""

    chunk: int
    rows: int


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Done:
    """Stores the chunk's rows, or the whole result where the batch is one chunk. Raises a TaskError."""
    deadline.begin(context)
    execution, chunk = event["execution"], event["chunk"]
    batch = FunctionBatch.from_input(event["batch"])
    logger.append_keys(execution=execution, chunk=chunk, function=batch.function)
    numbers = batch.chunk_range(chunk)
    done = Done(chunk=chunk, rows=len(numbers))
    if event["again"] and is_done(execution, batch, chunk):
        logger.info("chunk was finished before")
        return done
    process(execution, batch, chunk, numbers)
    logger.info("chunk", extra=done)
    return done


def is_done(execution: str, batch: FunctionBatch, chunk: int) -> bool:
    """Whether an earlier attempt finished this chunk."""
    return store.has_result(execution) if batch.chunks == 1 else store.has_chunk(execution, chunk)


def process(execution: str, batch: FunctionBatch, chunk: int, numbers: range) -> None:
    """Runs the chunk's rows and stores what they returned."""
    rows = store.load_rows(execution, batch)
    if len(rows) != batch.row_count:
        raise ResultError(f"the batch has {batch.row_count} rows, and {len(rows)} were stored")
    signature = read_catalog().get(batch.function)
    if signature is None:
        raise FunctionError(f"the function {batch.function!r} is not deployed any more")
    function = load_function(batch.function)
    texts = run_rows(signature, function, rows[numbers.start : numbers.stop], numbers.start)
    rendered = wire.render_rows(texts, numbers.start)
    if batch.chunks == 1:
        store.store_result(execution, batch, [rendered])
    else:
        store.store_chunk(execution, batch, chunk, rendered)
