"""What POST and GET share: answers to errors, and waiting for a batch's result."""

import time
from collections.abc import Callable, Mapping

from aws_lambda_powertools import Logger

from batch import store, wire
from batch.errors import ApiError, Throttled, UnknownTarget
from core.catalog import Signature, Workflow, read_catalog, read_workflows
from core.deadline import seconds_left
from core.errors import TransientError, is_transient
from core.executions import execution_name

FIRST_DELAY_SECONDS = 0.04
DELAY_GROWTH = 1.15
LONGEST_DELAY_SECONDS = 0.5

# Two attempts of core.clients, and the answer.
READ_SECONDS = 15.0

EXPIRED = "the batch was answered, and its result has been deleted since; run the query again"


def answer(
    event: wire.Event, logger: Logger, action: Callable[[wire.Request, str], wire.Answer]
) -> wire.Answer:
    """The answer of `action(request, execution name)`, with every error mapped to its status."""
    try:
        request = wire.parse_request(event)
        execution = execution_name(request.kind, request.name, request.batch_id)
        logger.append_keys(execution=execution, query_id=request.query_id)
        return action(request, execution)
    except ApiError as error:
        logger.info("refused", extra={"status": error.status, "error": type(error).__name__})
        return wire.answer_error(error)
    except Exception as error:
        if is_transient(error):
            logger.warning("throttled", extra={"error": type(error).__name__})
            throttle = "an AWS service asked to slow down; try again in a moment"
            message = str(error) if isinstance(error, TransientError) else throttle
            return wire.answer_error(Throttled(message))
        # Snowflake retries on 5xx with the same batch id, which is safe.
        logger.exception("unexpected error")
        return wire.answer_error(ApiError("unexpected error; the Lambda's log says more"))


def find_target(request: wire.Request) -> Signature | Workflow:
    """The function or workflow that the URL names. Raises UnknownTarget, which lists what there is."""
    catalog: Mapping[str, Signature | Workflow]
    catalog = read_catalog() if request.kind == "functions" else read_workflows()
    if request.name not in catalog:
        what = request.kind.removesuffix("s")
        raise UnknownTarget(f"there is no {what} {request.name!r}; there are: {', '.join(catalog)}")
    return catalog[request.name]


def wait_for_result(execution: str, seconds: float) -> store.Result | None:
    """Polls for the result; None after `seconds`. Polls only S3, which scales with the number of callers.

    Earlier where the invocation has too little time left for a read that is answered at the second attempt.
    """
    until = time.monotonic() + min(seconds, seconds_left() - READ_SECONDS)
    delay = FIRST_DELAY_SECONDS
    while True:
        result = store.load_result(execution)
        left = until - time.monotonic()
        if result is not None or left <= 0:
            return result
        time.sleep(min(delay, left))
        delay = min(delay * DELAY_GROWTH, LONGEST_DELAY_SECONDS)
