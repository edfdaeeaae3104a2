"""Queues and events: what fails repeatedly is kept in a dead-letter queue."""

from collections.abc import Iterator, Mapping
from typing import Any

from stepflake.lint.finding import Finding
from stepflake.lint.template.document import FUNCTION, Document, Template, alternatives, target
from stepflake.lint.values import mapping

# Sources whose events wait or fail on their own, by SAM's names for them.
_WITH_DEAD_LETTER_CONFIG = ("Schedule", "ScheduleV2", "EventBridgeRule", "CloudWatchEvent")
_STREAMS = ("Kinesis", "DynamoDB", "MSK", "SelfManagedKafka", "DocumentDB")
_QUEUE = "AWS::SQS::Queue"
_FOURTEEN_DAYS = 1_209_600
_LOST_RECORDS = "records that fail are lost"
_LOST_EVENTS = "events that can't be delivered are lost"
_ON_FAILURE = "give it a DestinationConfig with OnFailure"


def queues_have_dead_letter_queues(template: Template) -> Iterator[Finding]:
    queues = dict(template.of_type(_QUEUE))
    dead = set(_dead_letter_targets(template.resources))
    for name, queue in queues.items():
        redrive = mapping(queue.get("RedrivePolicy"))
        if name in dead:
            if queue.get("MessageRetentionPeriod") != _FOURTEEN_DAYS:
                remedy = f"keep it for 14 days (MessageRetentionPeriod: {_FOURTEEN_DAYS})"
                yield Finding(name, "forgets what failed", remedy)
        elif target(redrive.get("deadLetterTargetArn")) not in queues or "maxReceiveCount" not in redrive:
            yield Finding(name, "has no dead-letter queue", "give it a RedrivePolicy")


def dead_letter_queues_are_watched(template: Template) -> Iterator[Finding]:
    dead = set(_dead_letter_targets(template.resources))
    watched = {
        target(dimension.get("Value"))
        for _, alarm in template.of_type("AWS::CloudWatch::Alarm")
        if alarm.get("MetricName") == "ApproximateNumberOfMessagesVisible"
        for dimension in alarm.get("Dimensions", [])
    }
    for name, _ in template.of_type(_QUEUE):
        if name in dead and name not in watched:
            remedy = "give it an alarm on ApproximateNumberOfMessagesVisible"
            yield Finding(name, "nobody learns that it has a message", remedy)


def failed_events_of_functions_are_kept(template: Template) -> Iterator[Finding]:
    queues = dict(template.of_type(_QUEUE))
    for name, owner in template.of_type(FUNCTION):
        for event, source in mapping(owner.get("Events")).items():
            here, kind, properties = f"{name}.{event}", source["Type"], mapping(source.get("Properties"))
            if kind in _WITH_DEAD_LETTER_CONFIG and "Arn" not in mapping(properties.get("DeadLetterConfig")):
                yield Finding(here, _LOST_EVENTS, "give it a DeadLetterConfig")
            elif kind in _STREAMS and not _has_destination(properties):
                yield Finding(here, _LOST_RECORDS, _ON_FAILURE)
            elif kind in ("SNS", "S3") and not _has_destination(owner.get("EventInvokeConfig")):
                yield Finding(
                    here, "events that fail are lost", "give it an EventInvokeConfig with OnFailure"
                )
            elif kind == "SQS":
                yield from _queue_source(here, properties, queues)


def failed_events_of_other_sources_are_kept(template: Template) -> Iterator[Finding]:
    queues = dict(template.of_type(_QUEUE))
    for name, source in template.of_type("AWS::Lambda::EventSourceMapping"):
        if target(source.get("EventSourceArn")) not in queues and not _has_destination(source):
            yield Finding(name, _LOST_RECORDS, _ON_FAILURE)
    for name, rule in template.of_type("AWS::Events::Rule"):
        for found in alternatives(rule.get("Targets", [])):
            if "Arn" not in mapping(found.get("DeadLetterConfig")):
                yield Finding(name, _LOST_EVENTS, "give its targets a DeadLetterConfig")
    for name, schedule in template.of_type("AWS::Scheduler::Schedule"):
        if "Arn" not in mapping(mapping(schedule.get("Target")).get("DeadLetterConfig")):
            yield Finding(name, _LOST_EVENTS, "give its Target a DeadLetterConfig")
    for name, subscription in template.of_type("AWS::SNS::Subscription"):
        if "deadLetterTargetArn" not in mapping(subscription.get("RedrivePolicy")):
            yield Finding(name, "messages that can't be delivered are lost", "give it a RedrivePolicy")
    for name, topic in template.of_type("AWS::SNS::Topic"):
        if "Subscription" in topic:
            yield Finding(
                name, "a subscription in a topic has no RedrivePolicy", "use AWS::SNS::Subscription"
            )


def _queue_source(where: str, properties: Document, queues: Mapping[str, Document]) -> Iterator[Finding]:
    if target(properties.get("Queue")) not in queues:
        yield Finding(where, "its queue isn't here, nor is its dead-letter queue", "define both")
    if "ReportBatchItemFailures" not in properties.get("FunctionResponseTypes", []):
        yield Finding(where, "one failure repeats the whole batch", "add ReportBatchItemFailures")


def _has_destination(config: Any) -> bool:
    """Whether a DestinationConfig or an EventInvokeConfig names where failures go."""
    config = mapping(mapping(config).get("DestinationConfig", config))
    return bool(mapping(config.get("OnFailure")).get("Destination"))


def _dead_letter_targets(value: Any) -> Iterator[str]:
    """Queues to which something else sends what it cannot deliver or process."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("deadLetterTargetArn", "TargetArn") or (
                key == "Destination" and isinstance(item, Mapping)
            ):
                yield str(target(item))
            elif key == "DeadLetterConfig":
                yield str(target(item.get("Arn")))
            yield from _dead_letter_targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _dead_letter_targets(item)
