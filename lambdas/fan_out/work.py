"""Runs the service of each task in the queue, and sends the callback for which the machine waits.

The task's state is stored first and the callback sent second: a callback that fails is sent again by the next
delivery from the stored state, without running the service again.
"""

import random
import time
from functools import partial
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import ClientError

from core import deadline
from core.clients import sqs, task_callbacks
from core.dead_letters import send_to_dead_letters
from core.errors import RateLimited, TaskError, is_transient
from core.exact_json import parse_json
from core.patience import persist
from core.services import run_service
from core.settings import setting
from core.stored import read_stored
from fan_out import tasks
from fan_out.tasks import Task, TaskBusy, TaskState

logger = Logger()
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)

# The pause before the next attempt at a task: doubled with each delivery, up to the longest.
FIRST_DELAY_SECONDS = 1
LONGEST_DELAY_SECONDS = 60

# A task that waits for a limit is sent again after at most so long: others go first, and not all come back
# together. More would leave the limit unused where few are left.
POSTPONED_SECONDS = 5

# The machine no longer waits for a callback: it was sent before, its timeout passed, or the run was stopped.
# https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
NOT_WAITED_FOR = ("TaskDoesNotExist", "TaskTimedOut", "InvalidToken")


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Reports the messages that SQS has to deliver again; all others are done.

    Tasks on which a worker died come last: another death must not lose the results of the other messages.
    """
    deadline.begin(context)
    messages = {"Records": sorted(event["Records"], key=last_death)}
    return process_partial_response(messages, partial(work, limited=set()), processor, context)


def last_death(message: dict[str, Any]) -> int:
    """When a worker last died on the task, in epoch seconds; 0 for never."""
    if int(message["attributes"]["ApproximateReceiveCount"]) == 1:
        return 0
    try:
        task, _ = read(message["body"])
    except (ValueError, TypeError, KeyError):
        return 0  # not a task; the message ends in the dead-letter queue
    state = tasks.load_state(task)
    return state.lease_until if state and state.has_died else 0


def read(body: str) -> tuple[Task, str]:
    """The task that a message names, and the token of its callback."""
    message = parse_json(body)
    token: str = message.pop("token")
    return read_stored(Task, message), token


def work(record: SQSRecord, lambda_context: LambdaContext, *, limited: set[str]) -> None:
    """Handles one message. Raises the error for which SQS is to deliver it again.

    `limited`: services for whose limit this invocation has no more time to wait.
    """
    task, token = read(record.body)
    receive_count = int(record.attributes.approximate_receive_count)
    logger.append_keys(run_id=task.run_id, task=task.number)
    try:
        is_limited = task.service in limited or not run(
            task,
            token,
            record.body,
            lease_until=int(time.time()) + lambda_context.get_remaining_time_in_millis() // 1000 + 1,
            last=receive_count >= int(setting("TASK_MAX_RECEIVES")),
        )
        if is_limited:
            limited.add(task.service)
            postpone(record.body)
    except Exception as error:
        delay = delay_seconds(error, receive_count)
        logger.warning("retry", extra={"error": error_name(error), "delay": delay})
        sqs().change_message_visibility(
            QueueUrl=setting("TASK_QUEUE_URL"), ReceiptHandle=record.receipt_handle, VisibilityTimeout=delay
        )
        raise


def run(task: Task, token: str, body: str, *, lease_until: int, last: bool) -> bool:
    """Runs a message's task and sends its callback; False where its service's limit leaves no time for it."""
    try:
        outcome = settle(task, lease_until=lease_until, last=last)
    except RateLimited:
        return False
    answer(token, task, outcome)
    if outcome.status == "failed":
        send_to_dead_letters(setting("TASK_DEAD_LETTER_QUEUE_URL"), body, outcome.error, outcome.cause)
    return True


def settle(task: Task, *, lease_until: int, last: bool) -> TaskState:
    """Runs the task, unless it is done or failed already; returns its state, which is one of the two.

    `lease_until`: when this invocation cannot be running any more. Raises TaskBusy and RateLimited; and every
    error that is not final (core.errors), so that SQS delivers the message again, but at the `last` delivery
    each of those is final.
    """
    claimed = tasks.claim(task, lease_until, last=last)
    if claimed.is_settled(task.round):
        return claimed
    try:
        result = run_service(task.service, tasks.load_document(task))
        return persist(lambda: tasks.finish(task, claimed, result))
    except TaskBusy:
        raise
    except RateLimited:
        tasks.release(task, claimed)
        raise
    except Exception as error:
        is_final = isinstance(error, TaskError) and not is_transient(error)
        if not is_final and not last:
            tasks.release(task, claimed)
            raise
        return tasks.fail(task, claimed, type(error).__name__, str(error))


def postpone(body: str) -> None:
    """Sends a task's message again, for later: waiting for a limit is no failure, and costs no delivery.

    Where this worker dies before SQS deletes the old message, there are two, and the task's state allows one.
    """
    delay = random.randint(1, POSTPONED_SECONDS)  # noqa: S311
    logger.info("postponed", extra={"delay": delay})
    persist(
        lambda: sqs().send_message(QueueUrl=setting("TASK_QUEUE_URL"), MessageBody=body, DelaySeconds=delay)
    )


def answer(token: str, task: Task, outcome: TaskState) -> None:
    """Sends the callback to the machine, without the result: thousands would not fit the payload."""
    try:
        if outcome.status == "done":
            task_callbacks().send_task_success(taskToken=token, output="{}")
        else:
            task_callbacks().send_task_failure(taskToken=token, error=outcome.error, cause=outcome.cause)
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_WAITED_FOR:
            raise
        logger.info("the machine no longer waits for the callback")


def error_name(error: Exception) -> str:
    """What the log shows of an error: no message, which may quote a document."""
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__


def delay_seconds(error: Exception, receive_count: int) -> int:
    """How long a message that failed stays invisible: until the owner's lease ends, or a growing pause."""
    if isinstance(error, TaskBusy):
        return error.seconds + 1
    return int(min(FIRST_DELAY_SECONDS * 2 ** (receive_count - 1), LONGEST_DELAY_SECONDS))
