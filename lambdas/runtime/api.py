"""What POST and GET have in common: answering errors, and waiting a little for a batch's result."""

import time
from collections.abc import Callable

from aws_lambda_powertools import Logger

from runtime import batches, wire
from runtime.catalog import Signature, read_catalog
from runtime.errors import ApiError, Throttled, UnknownFunction, is_transient
from runtime.executions import execution_name

FIRST_DELAY_SECONDS = 0.03
LONGEST_DELAY_SECONDS = 0.5

EXPIRED = "the batch was answered, and its result has been deleted since; run the query again"


def answer(
    event: wire.Event, logger: Logger, action: Callable[[wire.Request, str], wire.Answer]
) -> wire.Answer:
    """The answer of `action(request, execution name)`, with every error mapped to its status."""
    try:
        request = wire.parse_request(event)
        execution = execution_name(request.name, request.batch_id)
        logger.append_keys(execution=execution, query_id=request.query_id)
        return action(request, execution)
    except ApiError as error:
        logger.info("refused", extra={"status": error.status, "error": type(error).__name__})
        return wire.answer_error(error)
    except Exception as error:
        if is_transient(error):
            logger.warning("throttled", extra={"error": type(error).__name__})
            return wire.answer_error(Throttled("an AWS service asked to slow down; try again in a moment"))
        # Snowflake repeats on 5xx with the same batch id, which is safe.
        logger.exception("unexpected error")
        return wire.answer_error(ApiError("unexpected error; the Lambda's log says more"))


def find_signature(name: str) -> Signature:
    """The signature of a deployed function. Raises UnknownFunction, which lists what there is."""
    catalog = read_catalog()
    if name not in catalog:
        raise UnknownFunction(f"there is no function {name!r}; there are: {', '.join(catalog)}")
    return catalog[name]


def wait_for_result(
    execution: str,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> batches.Result | None:
    """The result once it is there, or None after `seconds`. Asks S3 only, which scales as callers do."""
    deadline = clock() + seconds
    delay = FIRST_DELAY_SECONDS
    while True:
        result = batches.load_result(execution)
        left = deadline - clock()
        if result is not None or left <= 0:
            return result
        sleep(min(delay, left))
        delay = min(delay * 1.5, LONGEST_DELAY_SECONDS)
