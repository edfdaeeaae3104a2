"""Lambda on the engine: what it refuses, and what it reports of processes that fail, die or take too long."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError, WaiterError

from stepflake.local.faults import Faults
from stepflake.local.limits import Value

Limits = dict[str, dict[str, Any]]
SYNC, ASYNC = 6 * 2**20, 2**20


class Answer(NamedTuple):
    """What an invocation answered. `error`: its type, "" for none."""

    value: Any
    error: str = ""
    message: str = ""


@pytest.fixture(scope="module")
def functions(client: Callable[..., Any]) -> Any:
    return client("lambda")


@pytest.fixture(scope="module")
def invoke(functions: Any) -> Callable[..., Answer]:
    """`invoke(name, event)` waits for the answer."""

    def call(name: str, event: Any = None) -> Answer:
        answer = functions.invoke(FunctionName=name, Payload=json.dumps(event))
        value = json.load(answer["Payload"])
        if "FunctionError" not in answer:
            return Answer(value)
        assert answer["FunctionError"] == "Unhandled"
        return Answer(None, value["errorType"], value["errorMessage"])

    return call


def refused(call: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    """How a request is refused: the error, with its HTTP status."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response: dict[str, Any] = {**caught.value.response}
    return {**response, **response["Error"], "status": response["ResponseMetadata"]["HTTPStatusCode"]}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"nobody made {path}"
        time.sleep(0.01)


# What is reported


def test_an_answer_and_an_error_are_the_handlers_own(
    deploy: Callable[..., str], invoke: Callable[..., Answer]
) -> None:
    assert invoke(deploy("app.echo"), {"a": ["é", None]}) == Answer({"a": ["é", None]})
    assert invoke(deploy("app.fail")) == Answer(None, "Unlucky", "it rains")


@pytest.mark.parametrize(
    ("handler", "error", "message"),
    [
        ("needs_what_is_missing.handler", "Runtime.ImportModuleError", "No module named 'not_in_the_bundle'"),
        ("no_such_module.handler", "Runtime.ImportModuleError", "No module named 'no_such_module'"),
        ("app.no_such_handler", "Runtime.HandlerNotFound", "no_such_handler"),
        ("raises.handler", "Broken", "at import"),
        ("ends.handler", "Runtime.ExitError", "Runtime exited with error: exit status 3"),
    ],
)
def test_an_init_that_fails_has_its_own_error(
    deploy: Callable[..., str], invoke: Callable[..., Answer], handler: str, error: str, message: str
) -> None:
    answer = invoke(deploy(handler))
    assert answer.error == error
    assert message in answer.message


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"signal": "SIGKILL"}, "Runtime exited with error: signal: killed"),
        ({"signal": "SIGSEGV"}, "Runtime exited with error: signal: segmentation fault"),
        ({"status": 1}, "Runtime exited with error: exit status 1"),
        ({"status": 0}, "Runtime exited without providing a reason"),
    ],
)
def test_a_process_that_ends_during_an_invocation_is_reported(
    deploy: Callable[..., str], invoke: Callable[..., Answer], event: dict[str, Any], reason: str
) -> None:
    answer = invoke(deploy("app.end"), event)
    assert answer.error == "Runtime.ExitError"
    assert answer.message.startswith("RequestId: ")
    assert answer.message.endswith(f" Error: {reason}")


def test_an_invocation_that_takes_too_long_is_ended(
    deploy: Callable[..., str], invoke: Callable[..., Answer]
) -> None:
    name = deploy("app.sleep", Timeout=1)
    first = invoke(name, {"seconds": 0}).value
    answer = invoke(name, {"seconds": 60})
    assert answer.error == "Sandbox.Timedout"
    assert answer.message.endswith("Error: Task timed out after 1.00 seconds")
    assert invoke(name, {"seconds": 0}).value != first


def test_a_process_that_dies_takes_no_other_with_it(
    deploy: Callable[..., str], invoke: Callable[..., Answer], functions: Any, tmp_path: Path
) -> None:
    name = deploy("app.wait")
    begun, until = tmp_path / "begun", tmp_path / "until"
    with ThreadPoolExecutor() as pool:
        other = pool.submit(invoke, name, {"mark": str(begun), "until": str(until)})
        wait_for(begun)
        # An event that the handler cannot read, an environment that cannot start, and new code.
        assert invoke(name, {}).error == "KeyError"
        functions.update_function_configuration(FunctionName=name, Handler="ends.handler")
        assert invoke(name).error == "Runtime.ExitError"
        until.touch()
        assert isinstance(other.result().value, int)
    # Its environment ended with the old configuration.
    assert invoke(name).error == "Runtime.ExitError"


# Memory


@pytest.mark.parametrize("child", [False, True])
def test_a_process_with_more_memory_than_its_function_is_killed(
    deploy: Callable[..., str], invoke: Callable[..., Answer], child: bool
) -> None:
    name = deploy("app.fill", MemorySize=128)
    answer = invoke(name, {"megabytes": 300, "seconds": 15, "child": child})
    assert answer.error == "Runtime.OutOfMemory"
    assert answer.message.endswith("Error: Runtime exited with error: signal: killed")


def test_a_process_within_its_memory_is_left_alone(
    deploy: Callable[..., str], invoke: Callable[..., Answer]
) -> None:
    name = deploy("app.fill", MemorySize=1024)
    assert invoke(name, {"megabytes": 300, "seconds": 0.5}) == Answer("survived")


# Sizes


def test_an_event_that_is_too_large_is_refused(deploy: Callable[..., str], functions: Any) -> None:
    name = deploy("app.echo")
    too_large = refused(functions.invoke, FunctionName=name, Payload=json.dumps("x" * SYNC))
    assert (too_large["Code"], too_large["status"]) == ("RequestEntityTooLargeException", 413)
    assert f"(limit {SYNC} bytes)" in too_large["Message"]
    event = {"FunctionName": name, "InvocationType": "Event"}
    too_large = refused(functions.invoke, **event, Payload=json.dumps("x" * ASYNC))
    assert (too_large["Code"], too_large["status"]) == ("RequestEntityTooLargeException", 413)
    assert functions.invoke(**event, Payload=json.dumps("x" * (ASYNC - 2)))["StatusCode"] == 202


def test_an_answer_that_is_too_large_is_an_error(
    deploy: Callable[..., str], invoke: Callable[..., Answer]
) -> None:
    name = deploy("app.large")
    assert invoke(name, {"characters": SYNC - 2}).error == ""
    assert invoke(name, {"characters": SYNC + 200}) == Answer(
        None,
        "Function.ResponseSizeTooLarge",
        "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    )


# Concurrency


def test_more_than_the_accounts_executions_are_refused(
    deploy: Callable[..., str],
    invoke: Callable[..., Answer],
    functions: Any,
    settings: Callable[..., Limits],
    tmp_path: Path,
) -> None:
    name = deploy("app.wait")
    before = settings(limits={"lambda.ConcurrentExecutions": Value(2, None)})
    until = tmp_path / "until"
    with ThreadPoolExecutor() as pool:
        running = []
        for number in range(2):
            running.append(
                pool.submit(invoke, name, {"mark": str(tmp_path / str(number)), "until": str(until)})
            )
            wait_for(tmp_path / str(number))
        refusal = refused(functions.invoke, FunctionName=deploy("app.echo"), Payload="1")
        until.touch()
        assert len({each.result().value for each in running}) == 2
    assert (refusal["Code"], refusal["status"]) == ("TooManyRequestsException", 429)
    assert refusal["Reason"] == "ConcurrentInvocationLimitExceeded"
    after = settings()
    name = "lambda.ConcurrentExecutions"
    assert after[name]["allowed"] - before[name]["allowed"] == 2
    assert after[name]["refused"] - before[name]["refused"] == 1


def test_reserved_executions_are_a_functions_own(
    deploy: Callable[..., str],
    invoke: Callable[..., Answer],
    functions: Any,
    settings: Callable[..., Limits],
    tmp_path: Path,
) -> None:
    reserving, other = deploy("app.wait"), deploy("app.echo")
    settings(limits={"lambda.ConcurrentExecutions": Value(101, None)})
    functions.put_function_concurrency(FunctionName=reserving, ReservedConcurrentExecutions=1)
    # 100 must be left for all others.
    refusal = refused(functions.put_function_concurrency, FunctionName=other, ReservedConcurrentExecutions=1)
    assert (refusal["Code"], refusal["status"]) == ("InvalidParameterValueException", 400)
    settings(limits={"lambda.ConcurrentExecutions": Value(1, None)})
    # All of the account's is reserved now.
    refusal = refused(functions.invoke, FunctionName=other, Payload="1")
    assert refusal["Reason"] == "ConcurrentInvocationLimitExceeded"
    begun, until = tmp_path / "begun", tmp_path / "until"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(invoke, reserving, {"mark": str(begun), "until": str(until)})
        wait_for(begun)
        refusal = refused(functions.invoke, FunctionName=reserving, Payload="1")
        until.touch()
        assert running.result().error == ""
    assert refusal["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    functions.delete_function_concurrency(FunctionName=reserving)


# Faults


def test_killed_invocations_die_at_the_same_moments_with_the_same_seed(
    deploy: Callable[..., str], invoke: Callable[..., Answer], settings: Callable[..., Limits]
) -> None:
    name = deploy("app.sleep", FunctionName="dies")  # its fate depends on its name
    runs = []
    for _ in range(2):
        settings(faults=Faults(kill=0.5, seed=7))
        runs.append([invoke(name, {"seconds": 1}).error for _ in range(6)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {"", "Runtime.ExitError"}


def test_killed_invocations_do_not_depend_on_the_services_with_faults(
    deploy: Callable[..., str], invoke: Callable[..., Answer], settings: Callable[..., Limits]
) -> None:
    settings(faults=Faults(fail=1, kill=1, services=("comprehend",)))
    assert invoke(deploy("app.sleep"), {"seconds": 30}).error == "Runtime.ExitError"


def test_a_queues_poller_tries_again_what_was_throttled_or_failed(
    deploy: Callable[..., str], client: Callable[..., Any], functions: Any, settings: Callable[..., Limits]
) -> None:
    sqs = client("sqs")
    queue = sqs.create_queue(QueueName="polled", Attributes={"VisibilityTimeout": "600"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    settings(faults=Faults(throttle=0.3, fail=0.3, seed=1))
    for number in range(6):
        sqs.send_message(QueueUrl=queue, MessageBody=str(number))
    mapping = functions.create_event_source_mapping(
        FunctionName=deploy("app.pid"), EventSourceArn=arn, BatchSize=1
    )
    deadline = time.monotonic() + 60
    # Each is handled after its first receive: it stays invisible for longer than this test may take.
    while any(int(count) for count in counts(sqs, queue)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    functions.delete_event_source_mapping(UUID=mapping["UUID"])


def counts(sqs: Any, queue: str) -> list[str]:
    """How many messages a queue has, visible and not."""
    attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=attributes)["Attributes"]
    return [found[name] for name in attributes]


FUNCTION = """\
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: "2012-10-17"
        Statement:
          - { Effect: Allow, Principal: { Service: lambda.amazonaws.com }, Action: "sts:AssumeRole" }
  Function:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: from-a-template
      Runtime: python3.13
      Handler: index.handler
      Role: !GetAtt Role.Arn
      Code: { ZipFile: "def handler(event, context): return event" }
"""


def test_concurrency_that_a_template_reserves(
    client: Callable[..., Any], settings: Callable[..., Limits]
) -> None:
    settings(limits={"lambda.ConcurrentExecutions": Value(1000, None)})
    cloudformation, functions = client("cloudformation"), client("lambda")
    options = {"StackName": "reserved", "Capabilities": ["CAPABILITY_IAM"]}

    def reserved() -> int | None:
        answer = functions.get_function_concurrency(FunctionName="from-a-template")
        found: int | None = answer.get("ReservedConcurrentExecutions")
        return found

    reserving = FUNCTION + "      ReservedConcurrentExecutions: 20\n"
    cloudformation.create_stack(**options, TemplateBody=reserving)
    cloudformation.get_waiter("stack_create_complete").wait(StackName="reserved", WaiterConfig={"Delay": 1})
    assert reserved() == 20
    cloudformation.update_stack(**options, TemplateBody=FUNCTION)
    cloudformation.get_waiter("stack_update_complete").wait(StackName="reserved", WaiterConfig={"Delay": 1})
    assert reserved() is None

    too_much = reserving.replace("20", "950").replace("from-a-template", "from-another-template")
    cloudformation.create_stack(StackName="too-much", Capabilities=["CAPABILITY_IAM"], TemplateBody=too_much)
    with pytest.raises(WaiterError):
        cloudformation.get_waiter("stack_create_complete").wait(
            StackName="too-much", WaiterConfig={"Delay": 1}
        )
    events = cloudformation.describe_stack_events(StackName="too-much")["StackEvents"]
    reasons = [event.get("ResourceStatusReason", "") for event in events]
    assert any("UnreservedConcurrentExecution" in reason for reason in reasons)
