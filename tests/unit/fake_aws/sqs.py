"""Amazon SQS in memory: what is sent, and for how long messages become invisible."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.fake_aws.faults import AwsError

QUEUES = "https://sqs.us-east-1.amazonaws.com/123456789012/"
TASK_QUEUE = QUEUES + "stack-tasks"
TASK_DEAD_LETTERS = QUEUES + "stack-tasks-dead"
CONNECTOR_DEAD_LETTERS = QUEUES + "stack-pipeline_sentiment-dead"

MAX_VISIBILITY_SECONDS = 43_200
MAX_DELAY_SECONDS = 900

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
_TEXT = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


@dataclass(frozen=True)
class SentMessage:
    """A message that was sent; its attributes are all strings here. `delay`: in seconds."""

    body: str
    attributes: dict[str, str]
    delay: int = 0


class FakeSQS:
    """`sent`: messages by queue URL. `hidden`: the last visibility timeout in seconds, by receipt handle."""

    def __init__(self) -> None:
        queues = (TASK_QUEUE, TASK_DEAD_LETTERS, CONNECTOR_DEAD_LETTERS)
        self.sent: dict[str, list[SentMessage]] = {url: [] for url in queues}
        self.hidden: dict[str, int] = {}

    def send_message(
        self,
        *,
        QueueUrl: str,
        MessageBody: str,
        MessageAttributes: Mapping[str, Any] | None = None,
        DelaySeconds: int = 0,
    ) -> dict[str, Any]:
        self._check_queue(QueueUrl)
        if not 0 <= DelaySeconds <= MAX_DELAY_SECONDS:
            raise AwsError("InvalidParameterValue", "DelaySeconds must be between 0 and 900")
        attributes = {name: value["StringValue"] for name, value in (MessageAttributes or {}).items()}
        if not all(_TEXT.fullmatch(text) for text in (MessageBody, *attributes.values())):
            raise AwsError("InvalidMessageContents", "The message is empty or contains invalid characters")
        self.sent[QueueUrl].append(SentMessage(MessageBody, attributes, DelaySeconds))
        return {"MessageId": f"sent-{len(self.sent[QueueUrl])}"}

    def get_queue_url(self, *, QueueName: str) -> dict[str, Any]:
        self._check_queue(QUEUES + QueueName)
        return {"QueueUrl": QUEUES + QueueName}

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:
        self._check_queue(QueueUrl)
        if not 0 <= VisibilityTimeout <= MAX_VISIBILITY_SECONDS:
            raise AwsError("InvalidParameterValue", "VisibilityTimeout must be between 0 and 43200")
        self.hidden[ReceiptHandle] = VisibilityTimeout

    def _check_queue(self, url: str) -> None:
        if url not in self.sent:
            raise AwsError("QueueDoesNotExist", "The specified queue does not exist.")
