"""Fails a task for which the machine caught an error: it timed out, or its message could not be sent."""

from typing import TypedDict

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.typing import LambdaContext

from core.errors import reraise_transient
from core.executions import short_cause
from fan_out import tasks
from fan_out.tasks import Task

logger = Logger()


class Event(TypedDict):
    """The error that the machine caught, and the task. A worker's failure of a task is caught as well."""

    run_id: str
    number: int
    round: str
    service: str
    error: str
    cause: str


@logger.inject_lambda_context(clear_state=True)
@reraise_transient
def handler(event: Event, context: LambdaContext) -> None:
    """Stores the failure, unless a worker has settled the task."""
    task = Task(event["run_id"], event["number"], event["round"], event["service"])
    cause = (
        short_cause(event["cause"])
        or "no worker answered in time; see the workers' log and dead-letter queue"
    )
    state = tasks.fail_unanswered(task, event["error"], cause)
    logger.info(
        "task ended",
        extra={"run_id": task.run_id, "task": task.number, "status": state.status, "error": state.error},
    )
