"""What machines call has rates, and faults on demand: each Task fails as it would on AWS, and can retry."""

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepflake.local.engine import Engine
from tests.integration.engine.account import Account, allow, task

PASS = {"Type": "Pass", "End": True}
EVERYTHING = allow("*")


@pytest.fixture(scope="module")
def account(engine: Engine, client: Callable[..., Any]) -> Account:
    return Account(engine, client)


def counted(account: Account, name: str) -> tuple[int, int]:
    """How many requests a limit allowed and refused."""
    (limit,) = [limit for limit in account.set()["limits"] if limit["name"] == name]
    return limit["allowed"], limit["refused"]


def start_of(child: str, pattern: str = "states:startExecution", **more: Any) -> Any:
    return task(pattern, {"StateMachineArn": child, "Input": {}}, **more)


RETRY = {"IntervalSeconds": 1, "MaxAttempts": 20, "BackoffRate": 1}


# --- rates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["states:startExecution", "states:startExecution.sync:2"])
def test_starting_an_execution_takes_from_the_rate(account: Account, pattern: str) -> None:
    child = account.machine(PASS, account.role())
    role = account.role(EVERYTHING)
    plain = account.machine(start_of(child, pattern), role)
    retried = [{"ErrorEquals": ["StepFunctions.AWSStepFunctionsException"], **RETRY}]
    patient = account.machine(start_of(child, pattern, Retry=retried), role)

    # The start of the machine itself takes the only token, and another one takes two seconds.
    account.set(limits={"states.StartExecution": {"size": 1, "refill": 0.5}})
    end = account.end(account.start(plain))
    assert (end["status"], end["error"]) == ("FAILED", "StepFunctions.AWSStepFunctionsException")
    assert end["cause"].startswith(
        "Rate exceeded (Service: AWSStepFunctions; Status Code: 400; Error Code: Th"
    )
    assert account.executions(child) == []

    account.set(limits={"states.StartExecution": {"size": 1, "refill": 0.5}})
    assert account.end(account.start(patient))["status"] == "SUCCEEDED"
    assert len(account.executions(child)) == 1


def test_the_children_of_a_distributed_map_wait_for_the_rate(account: Account) -> None:
    definition = {
        "StartAt": "Do",
        "States": {
            "Do": {
                "Type": "Map",
                "ItemsPath": "$.items",
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                    "StartAt": "Each",
                    "States": {
                        "Each": {
                            "Type": "Map",
                            "ItemsPath": "$.parts",
                            "ItemProcessor": {"StartAt": "Do", "States": {"Do": PASS}},
                            "End": True,
                        }
                    },
                },
                "End": True,
            }
        },
    }
    machine = account.states.create_state_machine(
        name=f"machine-{uuid.uuid4().hex}",
        definition=json.dumps(definition),
        roleArn=account.role(EVERYTHING),
    )["stateMachineArn"]
    account.set(limits={"states.StartExecution": {"size": 1, "refill": 5}})
    before = counted(account, "states.StartExecution")
    end = account.end(account.start(machine, {"items": [{"parts": [number, 0]} for number in range(6)]}))
    assert (end["status"], json.loads(end["output"])) == ("SUCCEEDED", [[number, 0] for number in range(6)])
    allowed, refused = (
        after - once for after, once in zip(counted(account, "states.StartExecution"), before, strict=True)
    )
    # The machine itself and six children; those that waited are counted as refused too, once.
    assert allowed == 7
    assert 0 < refused <= 6


def test_a_throttled_lambda_has_its_name(account: Account) -> None:
    function = account.function()
    account.lambdas.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    end = account.run(task("lambda:invoke", {"FunctionName": function, "Payload": {}}), EVERYTHING)
    assert (end["status"], end["error"]) == ("FAILED", "Lambda.TooManyRequestsException")
    assert "(Service: Lambda, Status Code: 429, Request ID: " in end["cause"]


def test_the_error_of_a_function_stays_its_own(account: Account) -> None:
    function = account.function()
    end = account.run(
        task("lambda:invoke", {"FunctionName": function, "Payload": {"raise": "no"}}), EVERYTHING
    )
    assert not end["error"].startswith("Lambda."), end["error"]
    assert "no" in json.loads(end["cause"])["errorMessage"]


def test_refusals_of_a_called_service_have_its_prefix(account: Account) -> None:
    nowhere = "arn:aws:states:us-east-1:000000000000:stateMachine:nowhere"
    errors = {
        "StepFunctions.StateMachineDoesNotExistException": start_of(nowhere),
        "SQS.QueueDoesNotExistException": task(
            "sqs:sendMessage",
            {"QueueUrl": f"{account.engine.url}/000000000000/nowhere", "MessageBody": "hello"},
        ),
        "SNS.NotFoundException": task(
            "sns:publish", {"TopicArn": "arn:aws:sns:us-east-1:000000000000:nowhere", "Message": "hello"}
        ),
        "Lambda.ResourceNotFoundException": task("lambda:invoke", {"FunctionName": "nowhere"}),
    }
    assert {error: account.run(state, EVERYTHING)["error"] for error, state in errors.items()} == {
        error: error for error in errors
    }


# --- faults ----------------------------------------------------------------------------------------------


class Called:
    """A Task, and how often it was carried out. `prefix`: of its errors; `throttle` and `failure`: those
    of a throttle and of an error of the service's own."""

    prefix = ""
    throttle = ""
    failure = ""

    def __init__(self, account: Account, directory: Path) -> None:
        self.account = account
        self.state = self.make(directory)

    def make(self, directory: Path) -> Any:
        raise NotImplementedError

    def count(self) -> int:
        raise NotImplementedError


class Invoked(Called):
    prefix, throttle = "Lambda", "Lambda.TooManyRequestsException"
    failure = "Lambda.ServiceException"

    def make(self, directory: Path) -> Any:
        self.trace = directory / "invoked"
        payload = {"touch": str(self.trace)}
        return task("lambda:invoke", {"FunctionName": self.account.function(), "Payload": payload})

    def count(self) -> int:
        return int(self.trace.exists())


class Sent(Called):
    prefix, throttle = "SQS", "SQS.AmazonSQSException"
    failure = "SQS.AmazonSQSException"
    pattern = "sqs:sendMessage"

    def make(self, directory: Path) -> Any:
        self.url, _ = self.account.queue()
        return task(self.pattern, {"QueueUrl": self.url, "MessageBody": "hello"})

    def count(self) -> int:
        return len(self.account.messages(self.url))


class SentWithToken(Sent):
    pattern = "sqs:sendMessage.waitForTaskToken"


class Published(Called):
    prefix, throttle = "SNS", "SNS.ThrottledException"
    failure = "SNS.InternalErrorException"

    def make(self, directory: Path) -> Any:
        topic = self.account.sns.create_topic(Name=f"topic-{uuid.uuid4().hex}")["TopicArn"]
        statement = allow("sqs:SendMessage", Principal={"Service": "sns.amazonaws.com"})
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.url, queue = self.account.queue(Policy=policy)
        self.account.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
        return task("sns:publish", {"TopicArn": topic, "Message": "hello"})

    def count(self) -> int:
        return len(self.account.messages(self.url))


class Started(Called):
    prefix, throttle = "StepFunctions", "StepFunctions.AWSStepFunctionsException"
    failure = "StepFunctions.AWSStepFunctionsException"
    pattern = "states:startExecution"

    def make(self, directory: Path) -> Any:
        self.child = self.account.machine(PASS, self.account.role())
        return start_of(self.child, self.pattern)

    def count(self) -> int:
        return len(self.account.executions(self.child))


class Run(Started):
    pattern = "states:startExecution.sync:2"


CALLED = [Invoked, Sent, SentWithToken, Published, Started, Run]


@pytest.mark.parametrize("kind", CALLED)
def test_a_call_may_be_throttled(account: Account, tmp_path: Path, kind: type[Called]) -> None:
    called = kind(account, tmp_path)
    account.set(faults={"throttle": 1})
    end = account.run(called.state, EVERYTHING)
    assert (end["status"], end["error"]) == ("FAILED", called.throttle)
    assert called.count() == 0


@pytest.mark.parametrize("kind", CALLED)
def test_a_called_service_may_fail(account: Account, tmp_path: Path, kind: type[Called]) -> None:
    called = kind(account, tmp_path)
    account.set(faults={"fail": 1})
    end = account.run(called.state, EVERYTHING)
    assert (end["status"], end["error"]) == ("FAILED", called.failure)
    assert "500" in end["cause"]
    assert called.count() == 0


def test_a_machines_calls_of_other_services_have_no_faults(account: Account, tmp_path: Path) -> None:
    called = Sent(account, tmp_path)
    account.set(faults={"fail": 1, "services": ["sns", "states"]})
    assert account.run(called.state, EVERYTHING)["status"] == "SUCCEEDED"
    account.set(faults={"fail": 1, "services": ["sqs"]})
    assert account.run(called.state, EVERYTHING)["error"] == called.failure


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        ("sqs:listQueues", "Sqs.SqsException"),
        ("dynamodb:listTables", "DynamoDb.InternalServerErrorException"),
    ],
)
def test_a_service_may_fail_a_call_of_the_sdk(account: Account, call: str, failure: str) -> None:
    account.set(faults={"fail": 1})
    assert account.run(task(f"aws-sdk:{call}", {}), EVERYTHING)["error"] == failure


@pytest.mark.parametrize("kind", CALLED)
def test_the_answer_to_a_call_may_be_lost(account: Account, tmp_path: Path, kind: type[Called]) -> None:
    called = kind(account, tmp_path)
    account.set(faults={"lost": 1})
    end = account.run(called.state, EVERYTHING)
    assert (end["status"], end["error"]) == ("FAILED", f"{called.prefix}.SdkClientException")
    assert called.count() == 1


def test_a_call_may_be_late(account: Account) -> None:
    url, _ = account.queue()
    state = task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"}, TimeoutSeconds=1)
    # With this seed the first call is late by 47 s.
    account.set(faults={"delay": 1, "delay_seconds": 60, "seed": 0})
    assert account.run(state, EVERYTHING)["error"] == "States.Timeout"


def test_faults_repeat_with_their_seed(account: Account) -> None:
    url, _ = account.queue()
    machine = account.machine(
        task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "hello"}), account.role(EVERYTHING)
    )

    def outcomes(seed: int) -> Sequence[str]:
        account.set(faults={"throttle": 0.3, "lost": 0.3, "seed": seed})
        return [account.end(account.start(machine)).get("error", "") for _ in range(12)]

    first = outcomes(5)
    assert set(first) == {"", "SQS.AmazonSQSException", "SQS.SdkClientException"}
    assert outcomes(5) == first
    assert outcomes(6) != first
