"""A message on a service's queue starts the pipeline at that service."""

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from runtime import wire
from runtime.catalog import read_workflows
from runtime.documents import check_document
from runtime.executions import start_execution

logger = Logger()

# One message that fails comes again alone, and after a few times goes to the dead-letter queue.
processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)


class MessageError(Exception):
    """A message that is no input of the pipeline; the message says where."""


def handler(event: dict[str, Any], context: Any) -> PartialItemFailureResponse:
    """Starts a run for each message."""
    return process_partial_response(event, connect, processor, context)


def connect(record: SQSRecord) -> None:
    """Starts the run that a message asks for; if it is there already, the message was delivered before.

    Raises MessageError, or Throttled.
    """
    service = record.event_source_arn.rpartition("-")[2]
    message_id, text = unwrap(record.message_id, record.body)
    document = {**parse_message(text), "start_at": service}
    try:
        check_document(read_workflows()["pipeline"], document)
    except ValueError as error:
        raise MessageError(str(error)) from None
    # Step Functions keeps names apart for 90 days; messages live for 14.
    execution = f"{service}-{message_id}"
    started = start_execution("pipeline", execution, document)
    logger.info("run started" if started else "run was started before", extra={"execution": execution})


def unwrap(message_id: str, body: str) -> tuple[str, str]:
    """The id and the text of what was published: SNS may deliver twice, under two of the queue's ids."""
    envelope = parse_message(body)
    if envelope.get("Type") == "Notification" and "MessageId" in envelope and "Message" in envelope:
        return envelope["MessageId"], envelope["Message"]
    return message_id, body


def parse_message(text: str) -> dict[str, Any]:
    """The JSON object in a message. Raises MessageError."""
    try:
        document = wire.parse_json(text)
    except ValueError as error:
        raise MessageError(f"the message is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MessageError('the message must be a JSON object, such as {"request_id": "..."}')
    return document
