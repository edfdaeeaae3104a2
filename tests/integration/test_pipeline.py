"""The pipeline on the local stack: started at any service, crashed at each, started by messages.

Its services are language, sentiment, unstable (tests/services) and keywords.
"""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from core.runs import Run
from stepflake.runs import runs_of
from stepflake.stack import Stack
from tests import turns
from tests.runs import wait_for

SERVICES = ["language", "sentiment", "unstable", "keywords"]
TEXT = "The battery life is excellent, and I love the camera."
REVIEW = {"text": TEXT, "stars": 5}


def trouble(how: str, times: int = 1) -> dict[str, Any]:
    """A review at which the service `unstable` fails so many times."""
    return {**REVIEW, "trouble": {"key": uuid.uuid4().hex, "how": how, "times": times}}


def statuses(run: Run) -> list[str]:
    assert [step["service"] for step in run.output["steps"]] == SERVICES
    return [step["status"] for step in run.output["steps"]]


class Pipeline:
    """The machine, its topics and its queues."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.machine = stack.outputs["PipelineStateMachineArn"]
        self.steps = stack.client("stepfunctions")
        self.runs = runs_of(stack)
        self.sqs = stack.client("sqs")
        self.requests: dict[str, str] = {}

    def start(self, document: dict[str, Any]) -> str:
        answer = self.steps.start_execution(stateMachineArn=self.machine, input=json.dumps(document))
        return str(answer["executionArn"])

    def end(self, handle: str) -> Run:
        run: Run = wait_for(
            lambda: run if (run := self.runs.find(handle)).status != "RUNNING" else None,
            f"the end of {handle}",
        )
        return run

    def run(self, **document: Any) -> Run:
        """A run with this input, ended."""
        return self.end(self.start(document))

    def runs_of(self, request_id: str) -> list[str]:
        """The handles of the runs of a request, the first one first."""
        pages = self.steps.get_paginator("list_executions").paginate(stateMachineArn=self.machine)
        runs = sorted((run for page in pages for run in page["executions"]), key=lambda run: run["startDate"])
        handles = [run["executionArn"] for run in runs]
        for handle in handles:
            if handle not in self.requests:
                self.requests[handle] = self.runs.find(handle).run_id
        return [handle for handle in handles if self.requests[handle] == request_id]

    def calls(self, run: Run) -> tuple[int, int]:
        """How many calls the run's limited services made, and how many results they reused, by the log."""
        events = self.stack.client("logs").filter_log_events(
            logGroupName=f"/stepflake/{self.stack.stack_name}/lambdas", filterPattern=f'"{run.name}"'
        )["events"]
        lines = [json.loads(event["message"]) for event in events if '"message":"calls"' in event["message"]]
        return sum(line["calls"] for line in lines), sum(line["reuse_hits"] for line in lines)

    def queue(self, service: str, suffix: str = "") -> str:
        name = f"{self.stack.stack_name}-pipeline_{service}{suffix}"
        return str(self.sqs.get_queue_url(QueueName=name)["QueueUrl"])

    def publish(self, service: str, message: str) -> None:
        topic = self.stack.outputs[f"{service}TopicArn"]
        self.stack.client("sns").publish(TopicArn=topic, Message=message)

    @contextmanager
    def broken_service(self) -> Iterator[None]:
        """Meanwhile the Lambda of the services can't even start."""
        resource = self.stack.client("cloudformation").describe_stack_resource(
            StackName=self.stack.stack_name, LogicalResourceId="ServiceFunction"
        )
        name = resource["StackResourceDetail"]["PhysicalResourceId"]
        lambdas = self.stack.client("lambda")
        lambdas.update_function_configuration(FunctionName=name, Handler="nowhere.handler")
        try:
            yield
        finally:
            lambdas.update_function_configuration(FunctionName=name, Handler="pipeline.service.handler")


@pytest.fixture(scope="module")
def pipeline(stack: Stack) -> Pipeline:
    return Pipeline(stack)


class Notifications:
    """What the pipeline's topic published."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.sqs = pipeline.sqs
        self.url = self.sqs.create_queue(QueueName=f"heard-{uuid.uuid4().hex}")["QueueUrl"]
        topic = pipeline.stack.outputs["PipelineTopicArn"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": attributes["QueueArn"],
            "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes={"Policy": policy})
        self.sns = pipeline.stack.client("sns")
        self.subscription = self.sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=attributes["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )["SubscriptionArn"]
        self.heard: list[dict[str, Any]] = []

    def of(self, handle: str, status: str | None = None) -> dict[str, Any]:
        """The first message about the run, or the first with this status."""

        def listen() -> dict[str, Any] | None:
            answer = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
            self.heard += [json.loads(message["Body"]) for message in answer.get("Messages", [])]
            about = (message for message in self.heard if message["execution"] == handle)
            return next((message for message in about if status in (None, message["status"])), None)

        message: dict[str, Any] = wait_for(listen, f"the notification of {handle}")
        return message

    def close(self) -> None:
        self.sns.unsubscribe(SubscriptionArn=self.subscription)
        self.sqs.delete_queue(QueueUrl=self.url)


@pytest.fixture(scope="module")
def notifications(pipeline: Pipeline) -> Iterator[Notifications]:
    heard = Notifications(pipeline)
    yield heard
    heard.close()


@pytest.fixture
def request_id() -> str:
    return f"request-{uuid.uuid4().hex}"


# --- a run, and one that continues ---


@pytest.mark.faults
def test_a_review_runs_through_all_services(pipeline: Pipeline, notifications: Notifications) -> None:
    run = pipeline.run(document=REVIEW)

    assert run.status == "SUCCEEDED", run.cause
    assert statuses(run) == ["run"] * 4
    assert run.output["request_id"] == run.name
    document = run.output["document"]
    assert {key: document[key] for key in REVIEW} == REVIEW
    assert document["language"]["code"] == "en"
    assert document["sentiment"]["label"] in ("Positive", "Neutral")
    assert document["keywords"][0] == {"phrase": "battery life", "score": 4}
    assert notifications.of(run.arn) == {
        "status": "SUCCEEDED",
        "request_id": run.name,
        "execution": run.arn,
        "steps": run.output["steps"],
    }


@pytest.mark.faults
def test_a_second_run_of_a_request_repeats_nothing(pipeline: Pipeline, request_id: str) -> None:
    first = pipeline.run(document=trouble("raise", times=0), request_id=request_id)
    second = pipeline.run(request_id=request_id)

    assert statuses(second) == ["finished before"] * 4
    assert second.output["document"] == first.output["document"]
    assert second.output["document"]["unstable"] == 1


def test_another_request_with_an_equal_document_calls_comprehend_no_more(pipeline: Pipeline) -> None:
    document = {"text": f"{TEXT} {uuid.uuid4()}"}
    first, second = (pipeline.run(document=document) for _ in range(2))

    assert second.output["document"] == first.output["document"]
    assert second.output["document"]["sentiment"]["label"] in ("Positive", "Neutral")
    assert [pipeline.calls(run) for run in (first, second)] == [(1, 0), (0, 1)]


@pytest.mark.faults
def test_two_concurrent_runs_of_a_request_have_the_same_result(pipeline: Pipeline, request_id: str) -> None:
    document = trouble("raise", times=0)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: pipeline.run(document=document, request_id=request_id), range(2)))

    assert [run.status for run in runs] == ["SUCCEEDED"] * 2
    assert runs[0].output["document"] == runs[1].output["document"]


@pytest.mark.faults
@pytest.mark.parametrize("start_at", SERVICES)
def test_a_run_starts_at_any_service_of_an_earlier_request(
    pipeline: Pipeline, request_id: str, start_at: str
) -> None:
    index = SERVICES.index(start_at)
    earlier = pipeline.run(document=REVIEW, request_id=request_id, skip=SERVICES[index:])

    run = pipeline.run(request_id=request_id, start_at=start_at)

    assert statuses(earlier) == ["run"] * index + ["skipped"] * (4 - index)
    assert statuses(run) == ["before start_at"] * index + ["run"] * (4 - index)
    assert set(run.output["document"]) == {*REVIEW, *SERVICES}


def test_a_skipped_service_is_run_by_a_later_run(pipeline: Pipeline, request_id: str) -> None:
    skipping = pipeline.run(document=REVIEW, request_id=request_id, skip=["sentiment"])
    complete = pipeline.run(request_id=request_id)

    assert "sentiment" not in skipping.output["document"]
    assert statuses(complete) == ["finished before", "run", "finished before", "finished before"]
    assert list(complete.output["document"]) == [*REVIEW, *SERVICES]


def test_an_output_too_large_for_the_payload_is_an_object(pipeline: Pipeline) -> None:
    document = {"text": TEXT, "appendix": "x" * 200_000}

    run = pipeline.run(document=document)

    assert list(run.output) == ["request_id", "steps", "key"]
    stored = pipeline.stack.client("s3").get_object(
        Bucket=pipeline.stack.outputs["Bucket"], Key=run.output["key"]
    )
    output = json.loads(stored["Body"].read())
    assert set(output) == {*document, *SERVICES}
    assert output["appendix"] == document["appendix"]


# --- crashes ---


@pytest.mark.parametrize("crash", SERVICES)
def test_after_a_crash_at_any_service_the_run_continues_there(
    pipeline: Pipeline, request_id: str, crash: str
) -> None:
    index = SERVICES.index(crash)
    pipeline.run(document=trouble("raise", times=0), request_id=request_id, skip=SERVICES[index:])

    with turns.alone(), pipeline.broken_service():
        failed = pipeline.run(request_id=request_id)
    resumed = pipeline.end(pipeline.runs.resume(failed.arn).arn)

    assert failed.status == "FAILED"
    assert failed.error.startswith("Runtime.")
    assert statuses(resumed) == ["finished before"] * index + ["run"] * (4 - index)
    assert resumed.output["document"]["unstable"] == 1


@pytest.mark.parametrize("how", ["transient", "kill", "exit", "hang"])
def test_a_worker_that_dies_once_is_replaced(pipeline: Pipeline, how: str) -> None:
    run = pipeline.run(document=trouble(how))

    assert run.status == "SUCCEEDED", run.cause
    assert statuses(run) == ["run"] * 4
    assert run.output["document"]["unstable"] == 2


@pytest.mark.parametrize(
    ("how", "error"),
    [("raise", "ServiceError"), ("kill", "Runtime.ExitError"), ("transient", "TransientError")],
)
def test_a_service_that_keeps_failing_fails_the_run_until_it_is_resumed(
    pipeline: Pipeline, notifications: Notifications, how: str, error: str
) -> None:
    tries = {"raise": 1, "kill": 2, "transient": 6}[how]
    failed = pipeline.run(document=trouble(how, times=tries))

    assert (failed.status, failed.error) == ("FAILED", error)
    told = notifications.of(failed.arn)
    assert (told["status"], told["request_id"], told["error"]) == ("FAILED", failed.name, error)
    if how == "raise":
        assert told["cause"] == "unstable: ValueError: the thirteenth row of thirteen"

    resumed = pipeline.end(pipeline.runs.resume(failed.arn).arn)

    assert (resumed.arn, statuses(resumed)) == (failed.arn, ["run"] * 4)
    assert resumed.output["document"]["unstable"] == tries + 1
    assert notifications.of(failed.arn, "SUCCEEDED")["request_id"] == failed.name


@pytest.mark.faults
def test_a_run_that_is_stopped_is_published_and_can_be_resumed(
    pipeline: Pipeline, notifications: Notifications
) -> None:
    handle = pipeline.start({"document": trouble("hang")})
    history = pipeline.steps.get_paginator("get_execution_history")
    wait_for(
        lambda: (
            sum(
                event["type"] == "TaskStateExited"
                for page in history.paginate(executionArn=handle)
                for event in page["events"]
            )
            == 3
        ),
        "the service that hangs",
    )

    pipeline.steps.stop_execution(executionArn=handle, error="Operator", cause="maintenance")

    stopped = pipeline.end(handle)
    assert stopped.status == "ABORTED"
    told = notifications.of(handle)
    assert (told["status"], told["request_id"]) == ("ABORTED", stopped.name)
    resumed = pipeline.end(pipeline.runs.resume(handle).arn)
    assert resumed.arn == handle
    assert [statuses(resumed)[index] for index in (0, 1, 3)] == ["run"] * 3


# --- bad input ---


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"document": REVIEW, "skip": ["translation"]},
         "at $.skip[0]: the pipeline has no service 'translation'; "
         "it runs language, sentiment, unstable, keywords, in this order"),
        ({"request_id": "never-seen", "start_at": "keywords"},
         "at $.request_id: there is no request 'never-seen'; send its document with it"),
        ({"document": {"stars": 1}}, "at $.document: 'text' is a required property"),
    ],
)  # fmt: skip
def test_bad_input_fails_with_its_path(
    pipeline: Pipeline, notifications: Notifications, document: dict[str, Any], message: str
) -> None:
    run = pipeline.run(**document)

    assert (run.status, run.error, run.cause) == ("FAILED", "RequestError", message)
    assert notifications.of(run.arn)["cause"] == message


def test_starting_after_a_service_without_a_result_fails(pipeline: Pipeline, request_id: str) -> None:
    pipeline.run(document=REVIEW, request_id=request_id, skip=SERVICES[1:])

    run = pipeline.run(request_id=request_id, start_at="keywords")

    assert run.error == "RequestError"
    problem = f"'keywords' comes after sentiment, unstable, which request {request_id!r} has no result of"
    assert run.cause.startswith(f"at $.start_at: {problem}; start at 'sentiment', or list in skip")


# --- connectors ---


@pytest.mark.parametrize("service", SERVICES)
def test_a_message_on_a_services_topic_starts_the_run_there(
    pipeline: Pipeline, request_id: str, service: str
) -> None:
    index = SERVICES.index(service)
    pipeline.run(document=REVIEW, request_id=request_id, skip=SERVICES[index:])

    pipeline.publish(service, json.dumps({"request_id": request_id}))

    runs = wait_for(lambda: len(runs := pipeline.runs_of(request_id)) > 1 and runs, "the connector's run")
    run = pipeline.end(runs[1])
    assert run.input == {"request_id": request_id, "start_at": service}
    assert statuses(run) == ["before start_at"] * index + ["run"] * (4 - index)


@pytest.mark.faults
def test_a_message_that_is_delivered_twice_starts_one_run(pipeline: Pipeline, request_id: str) -> None:
    pipeline.run(document=REVIEW, request_id=request_id)
    message = json.dumps({"request_id": request_id})
    envelope = json.dumps({"Type": "Notification", "MessageId": str(uuid.uuid4()), "Message": message})

    url = pipeline.queue("keywords")
    for _ in range(3):
        pipeline.sqs.send_message(QueueUrl=url, MessageBody=envelope)
    pipeline.sqs.send_message(QueueUrl=url, MessageBody=message)

    wait_for(lambda: len(pipeline.runs_of(request_id)) == 3, "the runs of both messages")
    wait_for(lambda: is_drained(pipeline, url), "the queue to be empty")
    assert len(pipeline.runs_of(request_id)) == 3


def test_malformed_messages_are_in_the_dead_letter_queue_at_once_with_the_reason(
    pipeline: Pipeline, request_id: str
) -> None:
    url, dead = pipeline.queue("language"), pipeline.queue("language", "-dead")
    malformed = {
        "hello": "the message is not JSON: Expecting value",
        "{}": "at $: 'document' is a required property",
        json.dumps(
            {"request_id": request_id, "skip": "language"}
        ): "at $.skip: 'language' is not of type 'array'",
    }
    for message in malformed:
        pipeline.sqs.send_message(QueueUrl=url, MessageBody=message)
    pipeline.sqs.send_message(
        QueueUrl=url, MessageBody=json.dumps({"request_id": request_id, "document": REVIEW})
    )

    buried: dict[str, dict[str, str]] = {}

    def dig() -> bool:
        answer = pipeline.sqs.receive_message(
            QueueUrl=dead, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        for message in answer.get("Messages", []):
            pipeline.sqs.delete_message(QueueUrl=dead, ReceiptHandle=message["ReceiptHandle"])
            attributes = message["MessageAttributes"].items()
            buried[message["Body"]] = {name: value["StringValue"] for name, value in attributes}
        return len(buried) == len(malformed)

    wait_for(dig, "the malformed messages")
    for message, cause in malformed.items():
        assert buried[message]["error"] == "MessageError"
        assert buried[message]["cause"].startswith(cause)
    (handle,) = wait_for(lambda: pipeline.runs_of(request_id), "the run of the neighbour")
    assert pipeline.end(handle).status == "SUCCEEDED"
    wait_for(lambda: is_drained(pipeline, url), "the queue to be empty")


def test_a_message_about_an_unknown_request_is_published_as_a_failure(
    pipeline: Pipeline, notifications: Notifications, request_id: str
) -> None:
    pipeline.publish("keywords", json.dumps({"request_id": request_id}))

    (handle,) = wait_for(lambda: pipeline.runs_of(request_id), "the connector's run")
    told = notifications.of(handle)
    assert told["request_id"] == request_id
    assert told["cause"] == f"at $.request_id: there is no request {request_id!r}; send its document with it"


def is_drained(pipeline: Pipeline, url: str) -> bool:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = pipeline.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return all(attributes[name] == "0" for name in names)
