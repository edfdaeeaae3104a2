"""GET /functions/{name} and /workflows/{name}: the result of a batch, or how its execution stands."""

from typing import Any

from aws_lambda_powertools import Logger

from batch import api, wire
from core.errors import BatchFailed, ResultExpired, Throttled, UnknownBatch
from core.executions import describe_execution, execution_arn
from core.settings import settings

logger = Logger()

# Within this time a result that is about to come costs no DescribeExecution; a failure is told right after.
QUIET_SECONDS = 0.4

# DescribeExecution is eventually consistent: an execution may stay unseen for a moment after its start.
VISIBLE_SECONDS = 3.0


def handler(event: wire.Event, context: Any) -> wire.Answer:
    """Answers 200 with the rows, 202 while the batch runs, or a 4xx that says how it ended. Repeatable."""
    return api.answer(event, logger, poll)


def poll(request: wire.Request, execution: str) -> wire.Answer:
    """Reads the result from S3 first; asks DescribeExecution only where it is not there."""
    result = api.wait_for_result(execution, QUIET_SECONDS)
    if result is None:
        try:
            running = is_running(request, execution)
        except Throttled:
            return wire.answer_running(execution)
        seconds = settings().get_wait_seconds if running else 0
        result = api.wait_for_result(execution, seconds)
        if result is None and not running:
            raise ResultExpired(api.EXPIRED)
    return wire.answer_result(result.body, request) if result else wire.answer_running(execution)


def is_running(request: wire.Request, execution: str) -> bool:
    """True while the execution runs, False once it succeeded.

    Raises BatchFailed, UnknownBatch, UnknownTarget, Throttled.
    """
    found = describe_execution(execution_arn("batch", execution))
    if found is None:
        api.find_target(request)
        if api.wait_for_result(execution, VISIBLE_SECONDS):
            return False
        found = describe_execution(execution_arn("batch", execution))
        if found is None:
            raise UnknownBatch(
                f"no batch {request.batch_id!r} of {request.name} was started in 90 days; POST it first"
            )
    if found.is_running:
        return True
    if found.status != "SUCCEEDED":
        raise BatchFailed(found.error, found.cause, execution)
    return False
