"""Runs one chunk of a batch through its remote function."""

import time
from functools import partial
from typing import Any, NotRequired, TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from batch import store, wire
from batch.store import FunctionBatch
from core import deadline
from core.calls.answers import StoredAnswers
from core.calls.rows import run_rows
from core.catalog import read_catalog
from core.errors import FunctionError, RateLimited, RateLimitExceeded, ResultError, reraise_transient
from core.patience import persist
from core.remote import load_function

logger = Logger()

# The machine's longest delay before a retry, and what the next attempt takes at least: with less time left,
# there is none.
NEXT_ATTEMPT_SECONDS = 30


class Event(TypedDict):
    """What the batch machine sends. `again`: this is not the first attempt (a retry or a redrive).

    `until`: when the batch's time ends, in epoch milliseconds; executions that an earlier version started
    lack it.
    """

    execution: str
    batch: dict[str, Any]
    chunk: int
    again: bool
    until: NotRequired[int]


class Done(TypedDict):
    """What the execution's history shows of a finished chunk."""

    chunk: int
    rows: int


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> Done:
    """Stores the chunk's rows, or the whole result where the batch is one chunk. Raises a TaskError."""
    until = event["until"] / 1000 if "until" in event else None
    deadline.begin(context, until)
    execution, chunk = event["execution"], event["chunk"]
    batch = FunctionBatch.from_input(event["batch"])
    logger.append_keys(execution=execution, chunk=chunk, function=batch.function)
    numbers = batch.chunk_range(chunk)
    done = Done(chunk=chunk, rows=len(numbers))
    if event["again"] and is_done(execution, batch, chunk):
        logger.info("chunk was finished before")
        return done
    try:
        process(execution, batch, chunk, numbers, again=event["again"])
    except RateLimited as error:
        # Imported here, as what functions without a limit do not need.
        from core.calls.rates import REMEDY

        is_last = until is not None and time.time() > until - NEXT_ATTEMPT_SECONDS
        # The remedy is in both errors: the machine may have no more attempts left before the time is over.
        raise (RateLimitExceeded if is_last else RateLimited)(
            f"{error}, and rows of this batch were still waiting when the time ended; {REMEDY}"
        ) from error
    logger.info("chunk", extra=done)
    return done


def is_done(execution: str, batch: FunctionBatch, chunk: int) -> bool:
    """Whether an earlier attempt finished this chunk."""
    return store.has_result(execution) if batch.chunks == 1 else store.has_chunk(execution, chunk)


def process(execution: str, batch: FunctionBatch, chunk: int, numbers: range, *, again: bool) -> None:
    """Runs the chunk's rows and stores what they returned."""
    rows = store.load_rows(execution, batch)
    if len(rows) != batch.row_count:
        raise ResultError(f"the batch has {batch.row_count} rows, and {len(rows)} were stored")
    signature = read_catalog().get(batch.function)
    if signature is None:
        raise FunctionError(f"the function {batch.function!r} is not deployed any more")
    function = load_function(batch.function)
    answers = StoredAnswers(store.answers_prefix(execution, chunk), is_first=not again)
    texts = run_rows(signature, function, rows[numbers.start : numbers.stop], numbers.start, answers)
    rendered = wire.render_rows(texts, numbers.start)
    if batch.chunks == 1:
        persist(partial(store.store_result, execution, batch, [rendered]))
    else:
        persist(partial(store.store_chunk, execution, batch, chunk, rendered))
