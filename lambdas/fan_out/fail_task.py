"""A task that the machine gave up: its time ran out, or its message could not be sent."""

from typing import Any, TypedDict

from aws_lambda_powertools import Logger

from core.errors import named_for_retry
from core.executions import short_cause
from fan_out import tasks
from fan_out.tasks import Task

logger = Logger()


class Event(TypedDict):
    """What the machine caught, and of which task. A task that a worker failed comes here too."""

    run_id: str
    number: int
    round: str
    service: str
    error: str
    cause: str


def handler(event: Event, context: Any) -> None:
    """Records the failure, unless a worker has recorded how the task ended."""
    task = Task(event["run_id"], event["number"], event["round"], event["service"])
    cause = (
        short_cause(event["cause"])
        or "no worker answered in time; see the workers' log and dead-letter queue"
    )
    with named_for_retry():
        record = tasks.fail_unanswered(task, event["error"], cause)
    logger.info(
        "task ended",
        extra={"run_id": task.run_id, "task": task.number, "status": record.status, "error": record.error},
    )
