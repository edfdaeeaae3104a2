"""GET /functions/{name} and /workflows/{name}: the result of a batch, or the state of its execution."""

from functools import partial

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from batch import api, wire
from batch.errors import BatchFailed, ResultExpired, UnknownBatch
from batch.waits import Waits
from core import deadline
from core.errors import TransientError
from core.executions import describe_execution, execution_arn
from core.settings import settings

logger = Logger()

# DescribeExecution is called only after this time without a result; a failure is then answered at once.
QUIET_SECONDS = 0.4

# DescribeExecution is eventually consistent: an execution that was just started may not be visible yet.
VISIBLE_SECONDS = 3.0

waits = Waits()


@logger.inject_lambda_context(clear_state=True)
def handler(event: wire.Event, context: LambdaContext) -> wire.Answer:
    """Answers 200 with the rows, 202 while the batch runs, or a 4xx that says how it ended. Repeatable."""
    deadline.begin(context)
    return api.answer(event, logger, poll)


def poll(request: wire.Request, execution: str) -> wire.Answer:
    """Looks for the result in S3 first; calls DescribeExecution only where there is none."""
    result = api.wait_for_result(execution, QUIET_SECONDS)
    if result is None:
        try:
            running = is_running(request, execution)
        except TransientError:
            return wire.answer_running(execution)
        wait = partial(api.wait_for_result, execution)
        if running:
            result = waits.wait((request.kind, request.name), settings().get_wait_seconds, wait)
        else:
            result = wait(0)
            if result is None:
                raise ResultExpired(api.EXPIRED)
    return wire.answer_result(result.body, request) if result else wire.answer_running(execution)


def is_running(request: wire.Request, name: str) -> bool:
    """True while the execution runs, False once it succeeded.

    Raises BatchFailed, UnknownBatch, UnknownTarget, TransientError.
    """
    arn = execution_arn("batch", name)
    execution = describe_execution(arn)
    if execution is None:
        api.find_target(request)
        if api.wait_for_result(name, VISIBLE_SECONDS):
            return False
        execution = describe_execution(arn)
        if execution is None:
            raise UnknownBatch(
                f"no batch {request.batch_id!r} of {request.name} was started in 90 days; POST it first"
            )
    if execution.is_running:
        return True
    if execution.status != "SUCCEEDED":
        raise BatchFailed(execution.error, execution.cause, name)
    return False
