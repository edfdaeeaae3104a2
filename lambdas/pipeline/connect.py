"""A message on a service's queue starts the pipeline at that service."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from core import inputs
from core.catalog import read_workflows
from core.clients import sqs
from core.dead_letters import send_to_dead_letters
from core.exact_json import parse_json
from core.executions import start_execution

logger = Logger()

# Only messages whose run could not be started are delivered again, and after three deliveries end in the
# dead-letter queue.
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)


class MessageError(Exception):
    """A message that is not an input of the pipeline; the error says at which path."""


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
    """Starts a run for each message."""
    return process_partial_response(event, connect, processor, context)


def connect(record: SQSRecord) -> None:
    """Starts the run that a message asks for, unless an earlier delivery of the message started it.

    What is no input of the pipeline is put into the dead-letter queue. Raises the error for which SQS is to
    deliver the message again.
    """
    queue = record.event_source_arn.rpartition(":")[2]
    service = queue.rpartition("_")[2]
    try:
        message_id, text = unwrap(record.message_id, record.body)
        document = run_input(service, text)
    except MessageError as error:
        # Without what follows the colon, which may quote the document.
        reason = str(error).partition(": ")[0]
        logger.warning("message refused", extra={"sqs_message_id": record.message_id, "reason": reason})
        dead_letters = sqs().get_queue_url(QueueName=f"{queue}-dead")["QueueUrl"]
        send_to_dead_letters(dead_letters, record.body, type(error).__name__, str(error))
        return
    # A name is taken for 90 days; a message is delivered for at most 14.
    execution = f"{service}-{message_id}"
    started = start_execution("pipeline", execution, document)
    logger.info("run started" if started else "run was started before", extra={"execution": execution})


def run_input(service: str, text: str) -> dict[str, Any]:
    """The pipeline's input in a message. Raises MessageError."""
    document = {"start_at": service} | parse_message(text)
    if document["start_at"] != service:
        raise MessageError(f"at $.start_at: this queue starts runs at {service}; leave it out")
    try:
        inputs.validate(read_workflows()["pipeline"], document)
    except inputs.InputError as error:
        raise MessageError(str(error)) from None
    return document


def unwrap(message_id: str, body: str) -> tuple[str, str]:
    """The id and the text of what was published: SNS may deliver twice, under two of the queue's ids."""
    envelope = parse_message(body)
    if envelope.get("Type") == "Notification" and "MessageId" in envelope and "Message" in envelope:
        return envelope["MessageId"], envelope["Message"]
    return message_id, body


def parse_message(text: str) -> dict[str, Any]:
    """The JSON object in a message. Raises MessageError."""
    try:
        document = parse_json(text)
    except ValueError as error:
        raise MessageError(f"the message is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MessageError('the message must be a JSON object: {"request_id": "..."}')
    return document
