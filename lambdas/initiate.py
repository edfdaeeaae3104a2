"""POST /functions/{name}: a batch of rows becomes one execution of the batch machine."""

import math
from functools import partial
from typing import Any

from aws_lambda_powertools import Logger

from runtime import api, batches, wire
from runtime.batches import Batch
from runtime.catalog import Signature
from runtime.errors import BadRequest, BatchConflict, BatchFailed, ResultExpired
from runtime.executions import (
    MAX_PAYLOAD_BYTES,
    canonical,
    describe_execution,
    execution_arn,
    start_execution,
)
from runtime.settings import settings

logger = Logger()

# The machine wraps its input for `process`, and the wrapping must fit as well.
MAX_INLINE_BYTES = MAX_PAYLOAD_BYTES - 4096

CONFLICT = "this batch id was sent before with other rows; a batch id names one batch"


def handler(event: wire.Event, context: Any) -> wire.Answer:
    """Answers 200 with the rows if they are there in time, else 202; a repeated request starts nothing."""
    return api.answer(event, logger, partial(initiate, event))


def initiate(event: wire.Event, request: wire.Request, execution: str) -> wire.Answer:
    """Checks the rows, starts the execution or finds it, and waits a little for its result."""
    signature = api.find_signature(request.name)
    rows = wire.parse_rows(event)
    check_arguments(signature, rows)
    if not rows.arguments:
        return wire.answer_result(wire.render_result([]), request)
    batch = plan(signature, request, rows)
    if batch.rows is None:
        batches.store_rows(execution, rows)
    if not start_execution("batch", execution, batch.to_input()):
        result = find_earlier(execution, rows.digest)
        if result:
            return wire.answer_result(result.body, request)
    logger.info("batch", extra={"rows": batch.row_count, "chunks": batch.chunks})
    result = api.wait_for_result(execution, settings().post_wait_seconds)
    return wire.answer_result(result.body, request) if result else wire.answer_running(execution)


def check_arguments(signature: Signature, rows: wire.Rows) -> None:
    """Raises BadRequest with the signature for the first row that has too few or too many arguments."""
    for number, row in enumerate(rows.arguments):
        if not signature.accepts(len(row)):
            raise BadRequest(f"row {number} has {len(row)} arguments; the function is {signature}")


def plan(signature: Signature, request: wire.Request, rows: wire.Rows) -> Batch:
    """The batch as the machine gets it: rows inline where one chunk fits the payload, else in S3."""
    chunks = math.ceil(len(rows.arguments) / signature.chunk_rows)

    def batch(text: str | None) -> Batch:
        return Batch(
            function=request.name,
            batch_id=request.batch_id,
            query_id=request.query_id,
            digest=rows.digest,
            row_count=len(rows.arguments),
            chunk_rows=signature.chunk_rows,
            chunks=chunks,
            rows=text,
        )

    if chunks > 1 or len(rows.text) > MAX_INLINE_BYTES:
        return batch(None)
    inline = batch(rows.text)
    fits = len(canonical(inline.to_input()).encode("utf-8")) <= MAX_INLINE_BYTES
    return inline if fits else batch(None)


def find_earlier(execution: str, digest: str) -> batches.Result | None:
    """What became of an execution of this name: its result, None if it runs, or an ApiError.

    Raises BatchConflict where it had other rows, BatchFailed, ResultExpired, Throttled.
    """
    result = batches.load_result(execution)
    if result is None:
        earlier = describe_execution(execution_arn("batch", execution))
        if earlier is None:
            return None
        if earlier.input["digest"] != digest:
            raise BatchConflict(CONFLICT)
        if earlier.is_running:
            return None
        if earlier.status != "SUCCEEDED":
            raise BatchFailed(earlier.error, earlier.cause, execution)
        result = batches.load_result(execution)
        if result is None:
            raise ResultExpired(api.EXPIRED)
    if result.digest != digest:
        raise BatchConflict(CONFLICT)
    return result
