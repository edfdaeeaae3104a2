"""Messages that no retry can help, put into their dead-letter queue at once and with the reason.

SQS's own redrive does it after several deliveries, and gives no reason.
"""

import re

from core.clients import sqs

MAX_CAUSE_CHARS = 1000

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
_NOT_IN_MESSAGES = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def readable_cause(text: str) -> str:
    """An error's text as an attribute of a message can hold it."""
    return _NOT_IN_MESSAGES.sub("?", text)[:MAX_CAUSE_CHARS]


def send_to_dead_letters(queue_url: str, body: str, error: str, cause: str) -> None:
    """Puts a message into a dead-letter queue, with why in its attributes `error` and `cause`."""
    attributes = {"error": error, "cause": readable_cause(cause) or "none was given"}
    sqs().send_message(
        QueueUrl=queue_url,
        MessageBody=body,
        MessageAttributes={
            name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()
        },
    )
