"""Tasks over the local stack's queue: each has one result, whatever dies, is delivered twice or is lost."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from stepflake.runs import runs_of
from stepflake.stack import Stack
from tests.caller import Caller
from tests.runs import Run, end_of, wait_for

Json = Any


@dataclass(frozen=True)
class FanOut:
    """The stack's machine, its queues and its workers."""

    stack: Stack

    def start(self, run_input: Json) -> str:
        answer = self.stack.client("stepfunctions").start_execution(
            stateMachineArn=self.stack.outputs["FanOutStateMachineArn"], input=json.dumps(run_input)
        )
        handle: str = answer["executionArn"]
        return handle

    def finish(self, handle: str) -> Run:
        return end_of(self.stack, handle)

    def run(self, run_input: Json) -> Run:
        return self.finish(self.start(run_input))

    def lines(self, key: str) -> list[Json]:
        body = self.stack.client("s3").get_object(Bucket=self.stack.outputs["Bucket"], Key=key)["Body"]
        return [json.loads(line) for line in body.read().decode().splitlines()]

    def calls(self, key: str) -> int:
        """How often the service `unstable` ran for a key, including the call that asks."""
        [count] = self.run({"names": [trouble(key, "", 0)], "service": "unstable"}).output["results"]
        return int(count) - 1

    def resource(self, logical_id: str) -> str:
        described = self.stack.client("cloudformation").describe_stack_resource(
            StackName=self.stack.stack_name, LogicalResourceId=logical_id
        )
        physical_id: str = described["StackResourceDetail"]["PhysicalResourceId"]
        return physical_id

    def logged(self, run_id: str) -> str:
        """The lines that the Lambdas logged about a run."""
        events = self.stack.client("logs").filter_log_events(
            logGroupName=f"/stepflake/{self.stack.stack_name}/lambdas", filterPattern=f'"{run_id}"'
        )["events"]
        return "\n".join(event["message"] for event in events)

    def dead_letters(self, run_id: str) -> dict[int, Json]:
        """The tasks of a run that are in the dead-letter queue, each with the message's attributes."""
        client, queue = self.stack.client("sqs"), self.resource("TaskDeadLetterQueue")
        letters = {}
        while messages := client.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=1, MessageAttributeNames=["All"]
        ).get("Messages"):
            for message in messages:
                body = json.loads(message["Body"])
                if body["run_id"] == run_id:
                    attributes = message.get("MessageAttributes", {})
                    letters[body["number"]] = {
                        name: value["StringValue"] for name, value in attributes.items()
                    }
                    client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return letters

    @contextmanager
    def workers_stopped(self) -> Iterator[None]:
        """Messages stay in the queue meanwhile."""
        client = self.stack.client("lambda")
        [mapping] = client.list_event_source_mappings(FunctionName=self.resource("WorkFunction"))[
            "EventSourceMappings"
        ]
        client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        try:
            yield
        finally:
            client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)

    @contextmanager
    def workers_with(self, seconds: int) -> Iterator[None]:
        """A worker has so many seconds, after which the messages of one that died are delivered again."""
        functions, queues = self.stack.client("lambda"), self.stack.client("sqs")
        function, queue = self.resource("WorkFunction"), self.resource("TaskQueue")

        def limit(value: int) -> None:
            functions.update_function_configuration(FunctionName=function, Timeout=value)
            queues.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": str(value)})

        before = functions.get_function_configuration(FunctionName=function)["Timeout"]
        limit(seconds)
        try:
            yield
        finally:
            limit(before)

    @contextmanager
    def answers_refused(self) -> Iterator[None]:
        """IAM denies the workers' callbacks meanwhile."""
        client, role = self.stack.client("iam"), self.resource("WorkFunctionRole")
        refusal = {"Effect": "Deny", "Action": "states:SendTaskSuccess", "Resource": "*"}
        client.put_role_policy(
            RoleName=role,
            PolicyName="refusal",
            PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [refusal]}),
        )
        try:
            yield
        finally:
            client.delete_role_policy(RoleName=role, PolicyName="refusal")


@pytest.fixture(scope="module")
def fan_out(stack: Stack) -> FanOut:
    return FanOut(stack)


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def trouble(key: str, how: str, times: int) -> Json:
    return {"name": key, "trouble": {"key": key, "how": how, "times": times}}


def checked(name: str) -> Json:
    """What the service `hostname` answers."""
    return {
        "name": name,
        "labels": name.count(".") + 1,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
    }


def test_the_results_of_a_thousand_tasks_are_in_order_and_each_is_computed_once(fan_out: FanOut) -> None:
    names = [f"host{number * 7919 % 1000:03}.example.com" for number in range(1000)]

    run = fan_out.run({"names": [{"name": name.upper()} for name in names]})

    assert run.status == "SUCCEEDED", run
    assert {name: run.output[name] for name in ("tasks", "succeeded", "failed")} == {
        "tasks": 1000,
        "succeeded": 1000,
        "failed": 0,
    }
    assert fan_out.lines(run.output["results_key"]) == [checked(name) for name in names]
    # 124 bytes each, so they are in the output as well.
    assert run.output["results"] == [checked(name) for name in names]


def test_results_too_large_for_the_output_are_only_in_s3(fan_out: FanOut) -> None:
    s3, bucket = fan_out.stack.client("s3"), fan_out.stack.outputs["Bucket"]
    labels = ".".join(["a" * 63] * 3)
    names = [f"{number}.{labels}.example" for number in range(450)]
    lines = "\n".join(json.dumps({"name": name}) for name in names)
    s3.put_object(Bucket=bucket, Key="fan_out/input/long.jsonl", Body=lines.encode() + b"\n")

    run = fan_out.run({"names": "fan_out/input/long.jsonl"})

    assert (run.status, run.output["tasks"], run.output["results"]) == ("SUCCEEDED", 450, None)
    assert fan_out.lines(run.output["results_key"]) == [checked(name) for name in names]


def test_a_service_that_calls_comprehend_may_do_so(fan_out: FanOut) -> None:
    run = fan_out.run({"names": [{"text": "I am happy"}, {"text": "so sad"}], "service": "sentiment"})

    assert run.status == "SUCCEEDED", run
    assert [result["label"] for result in run.output["results"]] == ["Positive", "Negative"]


@pytest.mark.faults
def test_no_tasks_give_no_results(fan_out: FanOut) -> None:
    run = fan_out.run({"names": []})

    assert (run.status, run.output["tasks"], run.output["results"]) == ("SUCCEEDED", 0, [])


@pytest.mark.faults
def test_a_task_whose_message_is_delivered_twice_runs_once(fan_out: FanOut, key: str) -> None:
    keys = [f"{key}-{number}" for number in range(6)]
    client, queue = fan_out.stack.client("sqs"), fan_out.resource("TaskQueue")
    bodies: list[str] = []
    with fan_out.workers_stopped():
        handle = fan_out.start({"names": [trouble(k, "", 0) for k in keys], "service": "unstable"})

        def all_there() -> bool:
            for message in client.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
                bodies.append(message["Body"])
                client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            return len(bodies) == len(keys)

        wait_for(all_there, "the tasks' messages")
        for body in [*bodies, *reversed(bodies)]:
            client.send_message(QueueUrl=queue, MessageBody=body)

    run = fan_out.finish(handle)

    assert (run.status, run.output["results"]) == ("SUCCEEDED", [1] * 6)
    assert [fan_out.calls(k) for k in keys] == [1] * 6


def test_a_callback_that_is_refused_is_sent_again_without_running_the_service(
    fan_out: FanOut, key: str
) -> None:
    with fan_out.answers_refused():
        handle = fan_out.start({"names": [trouble(key, "", 0)], "service": "unstable"})

        def is_refused() -> bool:
            lines = fan_out.logged(handle.rsplit(":", 1)[-1]).splitlines()
            return any('"message":"retry"' in line and "AccessDenied" in line for line in lines)

        wait_for(is_refused, "a refused callback")
    run = fan_out.finish(handle)

    assert (run.status, run.output["results"]) == ("SUCCEEDED", [1])
    assert fan_out.calls(key) == 1


@pytest.mark.faults
def test_tasks_whose_worker_died_run_again_and_only_those_that_kill_it_fail(
    fan_out: FanOut, key: str
) -> None:
    with fan_out.workers_with(2):
        run = fan_out.run(
            {
                "names": [
                    trouble(f"{key}-fatal", "kill", 99),
                    trouble(f"{key}-once", "kill", 1),
                    trouble(f"{key}-well", "", 0),
                    trouble(f"{key}-busy", "transient", 2),
                    trouble(f"{key}-slow", "hang", 1),
                    trouble(f"{key}-poison", "raise", 99),
                ],
                "service": "unstable",
                "on_task_error": "entry",
                "run_id": key,
            }
        )

    assert run.status == "SUCCEEDED", run
    fatal, once, well, busy, slow, poison = run.output["results"]
    assert (once, well, busy, slow) == (2, 1, 3, 2)
    assert (fatal["error"], poison["error"]) == ("WorkerDied", "ServiceError")
    assert "the thirteenth row of thirteen" in poison["cause"]
    assert (run.output["succeeded"], run.output["failed"]) == (4, 2)
    dead: dict[int, Json] = {}
    wait_for(lambda: dead.update(fan_out.dead_letters(key)) or len(dead) == 2, "the dead letters")
    assert dead == {0: fatal, 5: poison}


def test_tasks_that_wait_for_a_limit_for_longer_than_a_worker_has_are_no_failures(
    fan_out: FanOut, caller: Caller, key: str
) -> None:
    given = [{"key": key, "text": f"text {number}"} for number in range(40)]
    with fan_out.workers_with(2):
        run = fan_out.run({"names": given, "service": "rationed", "run_id": key})
    again = fan_out.run({"names": given, "service": "rationed"})

    assert (run.status, run.output["succeeded"]) == ("SUCCEEDED", 40)
    assert run.output["results"] == again.output["results"] == [each["text"].upper() for each in given]
    # Each is called once, and never again: results are kept.
    (notes,) = caller.call("noted", [[key]]).values
    called = [note["called"] for note in notes if "called" in note]
    assert sorted(called) == sorted(each["text"] for each in given)
    logged = fan_out.logged(key)
    assert '"message":"postponed"' in logged
    assert '"message":"retry"' not in logged
    assert not fan_out.dead_letters(key)


@pytest.mark.faults
@pytest.mark.parametrize("how", ["started again", "resumed"])
def test_a_poison_task_fails_the_run_with_its_reason_and_only_it_is_run_again(
    fan_out: FanOut, key: str, how: str
) -> None:
    run_input = {
        "names": [trouble(f"{key}-well", "", 0), trouble(f"{key}-poison", "raise", 1)],
        "service": "unstable",
        "run_id": key,
    }

    handle = fan_out.start(run_input)
    failed = fan_out.finish(handle)
    if how == "resumed":
        assert runs_of(fan_out.stack).resume(handle).arn == handle
        resumed = fan_out.finish(handle)
    else:
        resumed = fan_out.run(run_input)

    assert (failed.status, failed.error) == ("FAILED", "TaskFailed")
    assert "1 of 2 tasks failed; the first is task 1: ServiceError: unstable: ValueError" in failed.cause
    assert (resumed.status, resumed.output["results"]) == ("SUCCEEDED", [1, 2])
    assert fan_out.calls(f"{key}-well") == 1


def test_a_group_has_a_history_of_its_own_with_eight_events_for_each_task(fan_out: FanOut) -> None:
    """What tests/unit/fan_out/test_size.py reckons with."""
    client = fan_out.stack.client("stepfunctions")
    handle = fan_out.start({"names": [{"name": name} for name in "abc"]})
    assert fan_out.finish(handle).status == "SUCCEEDED"
    (run,) = client.list_map_runs(executionArn=handle)["mapRuns"]
    (group,) = client.list_executions(mapRunArn=run["mapRunArn"])["executions"]

    events = client.get_execution_history(executionArn=group["executionArn"])["events"]

    kinds = [event["type"] for event in events]
    task = ["MapIterationStarted", "TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSubmitted"]
    task += ["TaskSucceeded", "TaskStateExited", "MapIterationSucceeded"]
    around = ["ExecutionStarted", "MapStateEntered", "MapStateStarted"]
    around += ["MapStateSucceeded", "MapStateExited", "ExecutionSucceeded"]
    assert sorted(kinds) == sorted(around + task * 3)


def test_a_run_id_is_bound_to_its_tasks(fan_out: FanOut, key: str) -> None:
    fan_out.run({"names": [{"name": "a"}], "run_id": key})

    other = fan_out.run({"names": [{"name": "b"}], "run_id": key})

    assert (other.status, other.error) == ("FAILED", "RunConflict")
    assert "give these tasks a run id of their own" in other.cause


@pytest.mark.parametrize(
    ("run_input", "error", "message"),
    [
        ({}, "InputError", "'names' is a required property"),
        ({"names": ["a"]}, "InputError", "$.names[0]"),
        ({"names": [], "on_task_error": "ignore"}, "InputError", "$.on_task_error"),
        ({"names": [], "service": "no_such"}, "UnknownService", "there are: hostname"),
        ({"names": [{"name": "a"}], "service": "../work"}, "UnknownService", "there are: hostname"),
        ({"names": "fan_out/input/none.jsonl"}, "InputError", "no object fan_out/input/none.jsonl"),
        ({"names": "batches/x"}, "InputError", "$.names"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    fan_out: FanOut, run_input: Json, error: str, message: str
) -> None:
    run = fan_out.run(run_input)

    assert (run.status, run.error) == ("FAILED", error)
    assert message in run.cause
