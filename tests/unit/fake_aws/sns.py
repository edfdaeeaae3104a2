"""Amazon SNS in memory: what is published."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.fake_aws.faults import AwsError

PIPELINE_TOPIC = "arn:aws:sns:us-east-1:123456789012:stack-pipeline"


@dataclass(frozen=True)
class PublishedMessage:
    """A message with its attributes as they were given."""

    text: str
    attributes: Mapping[str, Any]


class FakeSNS:
    """`published`: on the stack's only topic, in order."""

    def __init__(self) -> None:
        self.published: list[PublishedMessage] = []

    def publish(self, *, TopicArn: str, Message: str, MessageAttributes: Mapping[str, Any]) -> dict[str, Any]:
        if TopicArn != PIPELINE_TOPIC:
            raise AwsError("NotFound", "Topic does not exist")
        self.published.append(PublishedMessage(Message, MessageAttributes))
        return {"MessageId": f"published-{len(self.published)}"}
