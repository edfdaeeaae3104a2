"""POST /functions/{name} and /workflows/{name}: a batch of rows becomes one execution of `batch`."""

import math
from dataclasses import replace
from functools import partial

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from batch import api, store, wire
from batch.errors import (
    BadRequest,
    BatchConflict,
    BatchFailed,
    RequestTooLarge,
    ResultExpired,
    Throttled,
)
from batch.store import Batch, FunctionBatch, WorkflowBatch
from batch.waits import Waits
from core import deadline
from core.catalog import Signature, Workflow
from core.errors import TransientError
from core.exact_json import Json, dump_json
from core.executions import MAX_PAYLOAD_BYTES, describe_execution, execution_arn, start_execution
from core.settings import settings

logger = Logger()

# The machine wraps its input for `process`, and the wrapping must fit as well.
MAX_INLINE_BYTES = MAX_PAYLOAD_BYTES - 4096

# A history has at most 25,000 events. A run adds about 16 to the batch's, a chunk 7, each further attempt 3;
# MapConcurrency of them at once, throttled until the batch's time is over, have about 16 attempts each.
# https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
MAX_RUNS = 300
MAX_CHUNKS = 400

# DescribeExecution is called once for a batch that has no result after this time; most have one by then.
EARLY_SECONDS = 1.0

waits = Waits()

CONFLICT = "this batch id was sent before with other rows; a batch id names one batch"


@logger.inject_lambda_context(clear_state=True)
def handler(event: wire.Event, context: LambdaContext) -> wire.Answer:
    """Answers 200 with the rows if they are ready in time, else 202. A repeated request starts nothing."""
    deadline.begin(context)
    return api.answer(event, logger, partial(initiate, event))


def initiate(event: wire.Event, request: wire.Request, execution: str) -> wire.Answer:
    """Checks the rows, starts the execution unless it exists, and waits for its result for a short time."""
    target = api.find_target(request)
    rows = wire.parse_rows(event)
    if isinstance(target, Workflow):
        batch: Batch = workflow_batch(target, request, rows)
    else:
        check_arguments(target, rows)
        if rows.arguments:
            admit(target, rows, execution)
        batch = function_batch(target, request, rows)
        # EventBridge gets an execution's input with every change of its status.
        if not settings().rows_in_inputs:
            batch = replace(batch, rows=None)
    if not rows.arguments:
        return wire.answer_result(wire.render_result([]), request)
    if isinstance(batch, FunctionBatch) and batch.rows is None:
        store.store_rows(execution, rows)
    if not start_execution("batch", execution, batch.to_input()):
        result = find_earlier(execution, rows.digest)
        if result:
            return wire.answer_result(result.body, request)
    logger.info("batch", extra={"rows": batch.row_count, "chunks": batch.chunks})
    seconds = settings().post_wait_seconds
    result = waits.wait((request.kind, request.name), seconds, partial(await_result, execution, rows.digest))
    return wire.answer_result(result.body, request) if result else wire.answer_running(execution)


def check_arguments(signature: Signature, rows: wire.Rows) -> None:
    """Raises BadRequest with the signature for the first row that has too few or too many arguments."""
    for number, row in enumerate(rows.arguments):
        if not signature.accepts(len(row)):
            raise BadRequest(f"row {number} has {len(row)} arguments; the function is {signature}")


def admit(signature: Signature, rows: wire.Rows, execution: str) -> None:
    """Queues the batch's calls behind those of the function's limit.

    Raises Throttled where they would not be made in the batch's time, RequestTooLarge where they never could
    be.
    """
    if not signature.may_be_limited:
        return
    # Imported here, since most functions have no limit.
    from core.calls.rates import Limit, Overloaded, TokenBucket, TooManyCalls

    limit = Limit.of(signature, signature.name)
    if limit is None:
        return
    count = len(rows.arguments)
    if signature.deduplicate or signature.may_be_reused:
        count = len({dump_json(row) for row in rows.arguments})
    try:
        TokenBucket(limit).admit(signature.calls_for(count), execution)
    except Overloaded as error:
        raise Throttled(str(error)) from None
    except TooManyCalls as error:
        raise RequestTooLarge(str(error)) from None


def function_batch(signature: Signature, request: wire.Request, rows: wire.Rows) -> FunctionBatch:
    """The batch as the machine gets it: rows inline if they are one chunk and fit the payload, else in S3.

    Where the function's chunk_rows would make too many chunks, they are larger.
    """
    count = len(rows.arguments)
    chunk_rows = max(signature.chunk_rows, math.ceil(count / MAX_CHUNKS))
    chunks = math.ceil(count / chunk_rows)
    batch = FunctionBatch(
        batch_id=request.batch_id,
        query_id=request.query_id,
        digest=rows.digest,
        row_count=count,
        chunk_rows=chunk_rows,
        chunks=chunks,
        function=request.name,
        rows=rows.text,
    )
    return batch if chunks == 1 and fits_payload(batch) else replace(batch, rows=None)


def workflow_batch(workflow: Workflow, request: wire.Request, rows: wire.Rows) -> WorkflowBatch:
    """A run for each row. Raises RequestTooLarge, or BadRequest with the row and the path in its document."""
    mode = request.headers.get("sf-custom-mode", "attached")
    if mode not in ("attached", "detached"):
        raise BadRequest(f"header sf-custom-mode is {mode!r}; it is 'detached', or left out")
    if len(rows.arguments) > MAX_RUNS:
        raise RequestTooLarge(f"the batch has {len(rows.arguments)} runs, and {MAX_RUNS} fit; {wire.REMEDY}")
    batch = WorkflowBatch(
        batch_id=request.batch_id,
        query_id=request.query_id,
        digest=rows.digest,
        row_count=len(rows.arguments),
        chunk_rows=1,
        chunks=len(rows.arguments),
        workflow=workflow.name,
        documents=run_inputs(workflow, rows),
        detached=mode == "detached",
    )
    if not fits_payload(batch):
        raise RequestTooLarge(f"the runs' inputs exceed {MAX_INLINE_BYTES:,} bytes together; {wire.REMEDY}")
    return batch


def run_inputs(workflow: Workflow, rows: wire.Rows) -> list[Json]:
    """The input of each row's run, validated. Raises BadRequest."""
    # Imported here, since importing jsonschema would slow down the cold starts of all requests.
    from core import inputs

    documents = []
    for number, row in enumerate(rows.arguments):
        if len(row) != 1:
            raise BadRequest(f"row {number} has {len(row)} arguments; a workflow takes one, its input")
        try:
            documents.append(inputs.validate(workflow, row[0]))
        except inputs.InputError as error:
            raise BadRequest(f"row {number}, {error}") from None
    return documents


def fits_payload(batch: Batch) -> bool:
    """Whether the batch fits into an execution's input."""
    return len(dump_json(batch.to_input()).encode("utf-8")) <= MAX_INLINE_BYTES


def await_result(execution: str, digest: str, seconds: float) -> store.Result | None:
    """The result if it is ready in time. Raises BatchFailed where the batch fails within that time.

    A throttled DescribeExecution ends the wait: so many batches take long that `process`, too, may lack what
    this Lambda occupies.
    """
    result = api.wait_for_result(execution, min(seconds, EARLY_SECONDS))
    if result is None and seconds > EARLY_SECONDS:
        try:
            result = find_earlier(execution, digest)
        except TransientError:
            return None
        result = result or api.wait_for_result(execution, seconds - EARLY_SECONDS)
    return result


def find_earlier(execution: str, digest: str) -> store.Result | None:
    """The outcome of an execution of this name: its result, None while it runs, or an ApiError.

    Raises BatchConflict where it had other rows, BatchFailed, ResultExpired, TransientError.
    """
    result = store.load_result(execution)
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
        result = store.load_result(execution)
        if result is None:
            raise ResultExpired(api.EXPIRED)
    if result.digest != digest:
        raise BatchConflict(CONFLICT)
    return result
