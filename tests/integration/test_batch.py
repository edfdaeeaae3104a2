"""Batches on the deployed stack: misbehaving functions, chunks, one execution for each, least privilege."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from stepflake.stack import Stack
from tests.caller import Caller, Response, new_batch_id

ACCOUNT = "000000000000"


def executions(caller: Caller, function: str, batch_id: str) -> list[dict[str, Any]]:
    """The function's executions whose input has this batch id."""
    client = caller.stack.client("stepfunctions")
    machine = caller.stack.outputs["BatchStateMachineArn"]
    executions = []
    for page in client.get_paginator("list_executions").paginate(stateMachineArn=machine):
        for each in page["executions"]:
            if not each["name"].startswith(f"{function}-"):
                continue
            described = client.describe_execution(executionArn=each["executionArn"])
            if json.loads(described["input"])["batch_id"] == batch_id:
                executions.append(described)
    return executions


def execution(caller: Caller, function: str, batch_id: str) -> dict[str, Any]:
    """The only execution of a batch."""
    (only,) = executions(caller, function, batch_id)
    return only


def history(caller: Caller, function: str, batch_id: str) -> list[dict[str, Any]]:
    """The events of a batch's execution."""
    client = caller.stack.client("stepfunctions")
    pages = client.get_paginator("get_execution_history").paginate(
        executionArn=execution(caller, function, batch_id)["executionArn"]
    )
    return [event for page in pages for event in page["events"]]


def assert_failed(response: Response, error: str, *said: str) -> None:
    """A 4xx that a SQL user understands: an error, a short cause, an execution, and no stack trace."""
    assert response.status == 422, response.body
    document = response.document
    assert set(document) == {"error", "cause", "execution"}
    assert document["error"] == error
    for part in said:
        assert part in document["cause"]
    assert len(document["cause"]) <= 500
    assert "Traceback" not in response.body
    assert "stackTrace" not in response.body
    assert 'File "' not in response.body


# Functions that misbehave. All of these are sent at once, since some take as long as a chunk may.


def key() -> str:
    """A new name to count attempts under."""
    return str(uuid.uuid4())


CALLS: dict[str, tuple[str, list[list[Any]]]] = {
    "too few": ("too_few", [[1], [2], [3]]),
    "too many": ("too_many", [[1], [2], [3]]),
    "wrong type": ("wrong_type", [[1], [2], ["three"]]),
    "not json": ("not_json", [["a"]]),
    "raises": ("fail", [["thirteen is\nunlucky"]]),
    "raises at length": ("fail", [["x" * 100_000]]),
    "unimportable": ("unimportable", [["a"]]),
    "wrong argument": ("even_or_null", [[1], ["x"], [2]]),
    "null": ("even_or_null", [[n] for n in range(6)]),
    "object": ("even_or_object", [[n] for n in range(4)]),
    "transient twice": ("attempts", [[key(), "transient", 2]]),
    "transient for ever": ("attempts", [[key(), "transient", 99]]),
    "raises once": ("attempts", [[key(), "raise", 1]]),
    "killed once": ("attempts", [[key(), "kill", 1]]),
    "killed for ever": ("attempts", [[key(), "kill", 99]]),
    "exits for ever": ("attempts", [[key(), "exit", 99]]),
    "hangs once": ("attempts", [[key(), "hang", 1]]),
    "hangs for ever": ("attempts", [[key(), "hang", 99]]),
}


@pytest.fixture(scope="module")
def answers(caller: Caller) -> Iterator[dict[str, Future[Response]]]:
    """The answers to CALLS, as they arrive."""
    pool = ThreadPoolExecutor(6)
    yield {name: pool.submit(caller.call, *call) for name, call in CALLS.items()}
    pool.shutdown(cancel_futures=True)


Answers = dict[str, Future[Response]]


def test_too_few_rows_fail_the_batch(answers: Answers) -> None:
    assert_failed(answers["too few"].result(), "ResultError", "too_few got 3 rows and returned 2")


def test_too_many_rows_fail_the_batch(answers: Answers) -> None:
    assert_failed(answers["too many"].result(), "ResultError", "too_many got 3 rows and returned 4")


def test_a_value_of_another_type_fails_the_batch(answers: Answers) -> None:
    assert_failed(
        answers["wrong type"].result(), "ResultError", "wrong_type, row 2", "it is str, and the hint says int"
    )


def test_a_value_that_is_not_json_fails_the_batch(answers: Answers) -> None:
    assert_failed(answers["not json"].result(), "ResultError", "not_json, row 0", "a set has no JSON form")


def test_an_error_is_answered_with_its_row(answers: Answers) -> None:
    assert_failed(
        answers["raises"].result(), "FunctionError", "fail, row 0: RuntimeError: thirteen is\nunlucky"
    )
    assert_failed(answers["raises at length"].result(), "FunctionError", "fail, row 0: RuntimeError: xxx")


def test_a_function_that_cannot_be_imported_is_answered_with_the_reason(answers: Answers) -> None:
    assert_failed(
        answers["unimportable"].result(), "FunctionError", "No module named 'a_module_that_does_not_exist'"
    )


@pytest.mark.faults
def test_a_policy_makes_one_bad_row_null_or_an_object(answers: Answers) -> None:
    assert answers["null"].result().values == [0, None, 2, None, 4, None]
    assert answers["wrong argument"].result().values == [None, None, 2]
    odd = {"error": "ValueError", "cause": "1 is odd"}
    assert answers["object"].result().values == [0, odd, 2, odd | {"cause": "3 is odd"}]


def test_a_transient_error_is_retried(answers: Answers) -> None:
    assert answers["transient twice"].result().values == [3]


def test_a_transient_error_that_persists_is_answered(answers: Answers, caller: Caller) -> None:
    response = answers["transient for ever"].result()
    assert_failed(response, "TransientError", "attempts, row 0", "busy")
    client, machine = caller.stack.client("stepfunctions"), caller.stack.outputs["BatchStateMachineArn"]
    arn = f"{machine.replace(':stateMachine:', ':execution:')}:{response.document['execution']}"
    events = client.get_execution_history(executionArn=arn)["events"]
    assert sum(event["type"] == "TaskScheduled" for event in events) == 6
    # Each worker calls again too, as often as its time allows.
    assert 6 < attempts(caller, "transient for ever") <= 24


def test_a_final_error_is_not_retried(answers: Answers, caller: Caller) -> None:
    assert_failed(answers["raises once"].result(), "FunctionError", "ValueError", "thirteenth")
    assert attempts(caller, "raises once") == 1


def test_a_killed_worker_is_retried_once(answers: Answers, caller: Caller) -> None:
    assert answers["killed once"].result().values == [2]
    assert answers["killed for ever"].result().status == 422
    assert attempts(caller, "killed for ever") == 2
    assert answers["exits for ever"].result().status == 422
    assert attempts(caller, "exits for ever") == 2


def test_a_worker_that_runs_past_its_time_is_retried_once(answers: Answers, caller: Caller) -> None:
    assert answers["hangs once"].result().values == [2]
    assert answers["hangs for ever"].result().status == 422
    assert attempts(caller, "hangs for ever") == 2


@pytest.mark.parametrize("name", ["killed for ever", "exits for ever", "hangs for ever"])
def test_the_end_of_a_worker_is_answered_with_its_cause(answers: Answers, name: str) -> None:
    response = answers[name].result()
    assert_failed(response, response.document["error"])
    assert len(response.document["cause"]) > 10
    assert response.document["execution"].startswith("attempts-")


def attempts(caller: Caller, name: str) -> int:
    """How often a call of CALLS to `attempts` was made, including the call that asks."""
    ((counted, _, _),) = CALLS[name][1]
    (count,) = caller.call("attempts", [[counted, "count", 0]]).values
    return int(count) - 1


# One batch, one execution


@pytest.mark.faults
def test_many_posts_at_once_are_one_execution(caller: Caller) -> None:
    batch_id, rows = new_batch_id(), [[key(), "count", 0]]
    with ThreadPoolExecutor(8) as pool:
        posted = list(pool.map(lambda _: caller.post("attempts", rows, batch_id), range(16)))
    assert {response.status for response in posted} <= {200, 202}
    assert caller.poll("attempts", batch_id).values == [1]
    assert execution(caller, "attempts", batch_id)["status"] == "SUCCEEDED"


@pytest.mark.faults
def test_posts_while_it_runs_and_after_it_succeeded_start_nothing(caller: Caller) -> None:
    batch_id, rows = new_batch_id(), [[1.5]]
    promised, again = (caller.post("sleep", rows, batch_id) for _ in range(2))
    assert promised.status == 202
    assert again.status in (200, 202)
    first = caller.poll("sleep", batch_id)
    assert caller.post("sleep", rows, batch_id).raw == first.raw
    assert execution(caller, "sleep", batch_id)["status"] == "SUCCEEDED"


@pytest.mark.faults
def test_posts_after_it_failed_start_nothing(caller: Caller) -> None:
    batch_id = new_batch_id()
    first = caller.call("fail", [["no"]], batch_id)
    again = [caller.post("fail", [["no"]], batch_id) for _ in range(2)]
    assert_failed(first, "FunctionError", "fail, row 0: RuntimeError: no")
    assert {response.raw for response in again} == {first.raw}
    assert execution(caller, "fail", batch_id)["status"] == "FAILED"


# The machine


def test_a_batch_of_one_chunk_takes_at_most_three_transitions(caller: Caller) -> None:
    batch_id = new_batch_id()
    caller.call("sleep", [[0]], batch_id)
    entered = [
        event for event in history(caller, "sleep", batch_id) if event["type"].endswith("StateEntered")
    ]
    assert len(entered) <= 3


@pytest.mark.faults
def test_a_large_batch_is_split_into_chunks_and_answered_completely(caller: Caller) -> None:
    batch_id = new_batch_id()
    values = caller.call("even_or_object", [[n] for n in range(2100)], batch_id).values
    assert len(values) == 2100
    assert all(value == n for n, value in enumerate(values) if n % 2 == 0)
    assert all(value["cause"] == f"{n} is odd" for n, value in enumerate(values) if n % 2)
    assert json.loads(execution(caller, "even_or_object", batch_id)["input"])["chunks"] == 3


@pytest.mark.faults
def test_a_large_batch_of_few_texts_is_answered_completely(caller: Caller) -> None:
    values = caller.call("sentiment", [["good" if n % 2 else "bad"] for n in range(2100)]).values
    assert len(values) == 2100
    assert all((value["Positive"] > 0) == bool(n % 2) for n, value in enumerate(values))


@pytest.mark.parametrize(
    ("trouble", "values"),
    [
        # The chunks have two rows each. What a worker had answered when it died runs again: row 2 does with
        # row 3, at which its worker died.
        (["kill", 1], [1, 1, 2, 2, 1, 1]),
        # A worker that gives up stores what it answered: after as many errors as one bears, row 3 runs alone.
        (["transient", 5], [1, 1, 1, 6, 1, 1]),
    ],
)
def test_a_retry_repeats_its_own_chunk_and_no_other(
    caller: Caller, trouble: list[Any], values: list[int]
) -> None:
    keys = [key() for _ in range(6)]
    rows: list[list[Any]] = [[each, "count", 0] for each in keys]
    rows[3][1:] = trouble
    batch_id = new_batch_id()
    assert caller.call("attempts", rows, batch_id).values == values
    assert json.loads(execution(caller, "attempts", batch_id)["input"])["chunks"] == 3


@pytest.mark.faults
def test_one_chunk_that_fails_fails_the_batch(caller: Caller) -> None:
    rows: list[list[Any]] = [[key(), "count", 0] for _ in range(6)]
    rows[5][1:] = ["raise", 1]
    assert_failed(caller.call("attempts", rows), "FunctionError", "attempts, row 5: ValueError")


def test_a_batch_that_timed_out_is_answered_as_such(caller: Caller) -> None:
    batch_id = new_batch_id()
    assert caller.post("sleep", [[4]], batch_id).status == 202
    running = execution(caller, "sleep", batch_id)["executionArn"]
    caller.stack.client("stepfunctions").stop_execution(executionArn=running)
    response = caller.poll("sleep", batch_id)
    assert (response.status, response.document["error"]) == (422, "ABORTED")
    assert response.document["cause"] == "it was stopped by an operator"


def test_no_row_is_in_a_log(caller: Caller) -> None:
    secret = f"secret-{uuid.uuid4()}"
    caller.call("echo", [[secret]])
    caller.call("even_or_null", [[secret]])
    logs = caller.stack.client("logs")
    groups = [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]
    assert groups
    for group in groups:
        assert not logs.filter_log_events(logGroupName=group, filterPattern=f'"{secret}"')["events"]


# What crosses the wire, by type


@pytest.mark.faults
def test_each_type_arrives_as_its_hint_says(caller: Caller) -> None:
    row = [
        "é",
        12345678901234567890123456789012345678,
        0.5,
        1.25,
        True,
        "2026-11-22",
        "03:04:05.5",
        "2026-11-22 03:04:05.123456789",
        "00FF",
        {"a": [None]},
        [1, "x"],
        None,
    ]
    (value,) = caller.call("typed", [row]).values
    assert value == [
        ["str", "é"],
        ["int", 12345678901234567890123456789012345678],
        ["float", Decimal("0.5")],
        ["Decimal", Decimal("1.25")],
        ["bool", True],
        ["date", "2026-11-22"],
        ["time", "03:04:05.500000"],
        ["datetime", "2026-11-22T03:04:05.123456"],
        ["bytes", "00ff"],
        ["dict", {"a": [None]}],
        ["list", [1, "x"]],
        ["NoneType", None],
    ]


@pytest.mark.faults
def test_a_text_has_its_sentiment(caller: Caller) -> None:
    happy, none, sad = caller.call("sentiment", [["I am happy"], [None], ["this is terrible"]]).values
    assert happy["Positive"] > 0.5
    assert none is None
    assert sad["Negative"] > 0.4
    assert set(happy) == {"Positive", "Negative", "Neutral", "Mixed"}


# Least privilege


def role_of(stack: Stack, logical_id: str) -> str:
    """The ARN of a role of the template."""
    resources = stack.client("cloudformation").describe_stack_resources(StackName=stack.stack_name)
    (name,) = (
        each["PhysicalResourceId"]
        for each in resources["StackResources"]
        if each["LogicalResourceId"] == logical_id
    )
    role: str = stack.client("iam").get_role(RoleName=name)["Role"]["Arn"]
    return role


RESULT, ELSEWHERE = "arn:aws:s3:::{bucket}/batches/x/result.json.gz", "arn:aws:s3:::{bucket}/other"
MACHINE = "arn:aws:states:{region}:{account}:stateMachine:{stack}-batch"
OTHER_MACHINE = "arn:aws:states:{region}:{account}:stateMachine:other-batch"
EXECUTION = "arn:aws:states:{region}:{account}:execution:{stack}-batch:x"
RUN = "arn:aws:states:{region}:{account}:execution:{stack}-etl:x"
# Another stack's name may begin with this one's.
OTHER_RUN = "arn:aws:states:{region}:{account}:execution:{stack}-prod-etl:x"
OTHER_WORKFLOW = "arn:aws:states:{region}:{account}:stateMachine:{stack}-prod-etl"
CHILD = "arn:aws:states:{region}:{account}:execution:{stack}-fan_out/groups:x"
CONNECTOR = "arn:aws:sqs:{region}:{account}:{stack}-pipeline_language"
OTHER_CONNECTOR = "arn:aws:sqs:{region}:{account}:{stack}-pipeline-b-pipeline_language"
ANY_FUNCTION = "arn:aws:lambda:{region}:{account}:function:anything"

PERMISSIONS = [
    ("InitiateFunctionRole", "states:StartExecution", MACHINE, True),
    ("InitiateFunctionRole", "states:StartExecution", OTHER_MACHINE, False),
    ("InitiateFunctionRole", "states:DescribeExecution", EXECUTION, True),
    ("InitiateFunctionRole", "states:StopExecution", EXECUTION, False),
    ("InitiateFunctionRole", "s3:GetObject", RESULT, True),
    ("InitiateFunctionRole", "s3:PutObject", ELSEWHERE, False),
    ("InitiateFunctionRole", "s3:DeleteObject", RESULT, False),
    ("InitiateFunctionRole", "lambda:InvokeFunction", ANY_FUNCTION, False),
    ("PollFunctionRole", "s3:GetObject", RESULT, True),
    ("PollFunctionRole", "states:DescribeExecution", EXECUTION, True),
    ("PollFunctionRole", "states:StartExecution", MACHINE, False),
    ("PollFunctionRole", "s3:PutObject", RESULT, False),
    ("PollFunctionRole", "s3:GetObject", ELSEWHERE, False),
    ("ProcessFunctionRole", "s3:PutObject", RESULT, True),
    ("ProcessFunctionRole", "s3:PutObject", ELSEWHERE, False),
    ("ProcessFunctionRole", "s3:DeleteObject", RESULT, False),
    ("ProcessFunctionRole", "lambda:InvokeFunction", ANY_FUNCTION, False),
    ("ProcessFunctionRole", "iam:PassRole", "arn:aws:iam::{account}:role/any", False),
    ("CollectFunctionRole", "s3:PutObject", RESULT, True),
    ("CollectFunctionRole", "s3:DeleteObject", RESULT, False),
    ("CollectFunctionRole", "states:StartExecution", MACHINE, False),
    ("BatchStateMachineRole", "lambda:InvokeFunction", ANY_FUNCTION, False),
    ("BatchStateMachineRole", "s3:GetObject", RESULT, False),
    ("BatchStateMachineRole", "states:DescribeExecution", RUN, True),
    ("BatchStateMachineRole", "states:StopExecution", RUN, False),
    ("ServiceFunctionRole", "comprehend:BatchDetectSentiment", "*", True),
    ("WorkFunctionRole", "comprehend:BatchDetectSentiment", "*", True),
    ("CollectFunctionRole", "comprehend:BatchDetectSentiment", "*", False),
    *(
        permission
        for role in (
            "ProcessFunctionRole",
            "IngestFunctionRole",
            "BatchStateMachineRole",
            "RecordRunFunctionRole",
        )
        for permission in (
            (role, "states:DescribeExecution", RUN, True),
            (role, "states:DescribeExecution", OTHER_RUN, False),
            (role, "states:DescribeExecution", EXECUTION, False),
            (role, "states:StartExecution", OTHER_WORKFLOW, False),
        )
    ),
    ("ProcessFunctionRole", "states:RedriveExecution", RUN, True),
    ("ProcessFunctionRole", "states:RedriveExecution", OTHER_RUN, False),
    ("ProcessFunctionRole", "states:StopExecution", RUN, False),
    ("FanOutStateMachineRole", "states:DescribeExecution", CHILD, True),
    ("FanOutStateMachineRole", "states:StopExecution", CHILD.replace("/groups", ""), True),
    ("FanOutStateMachineRole", "states:StopExecution", RUN, False),
    ("ConnectFunctionRole", "sqs:ReceiveMessage", CONNECTOR, True),
    ("ConnectFunctionRole", "sqs:ReceiveMessage", OTHER_CONNECTOR, False),
    ("ConnectFunctionRole", "sqs:SendMessage", CONNECTOR, False),
    ("ConnectFunctionRole", "sqs:SendMessage", CONNECTOR + "-dead", True),
    ("ConnectFunctionRole", "sqs:SendMessage", OTHER_CONNECTOR + "-dead", False),
]


@pytest.mark.parametrize(
    ("role", "action", "resource", "is_allowed"),
    PERMISSIONS,
    ids=[f"{role} {action} {resource.rpartition(':')[2]}" for role, action, resource, _ in PERMISSIONS],
)
def test_a_role_allows_only_what_is_needed(
    stack: Stack, role: str, action: str, resource: str, is_allowed: bool
) -> None:
    arn = resource.format(
        bucket=stack.outputs["Bucket"], region=stack.region, account=ACCOUNT, stack=stack.stack_name
    )
    answer = stack.client("iam").simulate_principal_policy(
        PolicySourceArn=role_of(stack, role), ActionNames=[action], ResourceArns=[arn]
    )
    (result,) = answer["EvaluationResults"]
    assert (result["EvalDecision"] == "allowed") is is_allowed


def test_calls_outside_of_a_role_are_denied(caller: Caller) -> None:
    """From inside `process`, whose role runs the code of users."""
    bucket = caller.stack.outputs["Bucket"]
    machine = caller.stack.outputs["BatchStateMachineArn"]
    other_run = machine.replace(":stateMachine:", ":execution:").replace("-batch", "-prod-etl:x")
    tries = [
        ["s3", "get_object", {"Bucket": bucket, "Key": "batches/nobody/result.json.gz"}],
        ["s3", "put_object", {"Bucket": bucket, "Key": "other/x"}],
        ["s3", "delete_object", {"Bucket": bucket, "Key": "batches/x"}],
        ["s3", "list_buckets", {}],
        ["stepfunctions", "start_execution", {"stateMachineArn": machine}],
        ["stepfunctions", "list_executions", {"stateMachineArn": machine}],
        ["stepfunctions", "describe_execution", {"executionArn": other_run}],
        ["iam", "list_roles", {}],
        ["lambda", "list_functions", {}],
    ]
    allowed, *denied = caller.call("attempt_call", tries).values
    assert allowed == "NoSuchKey"
    for error, (service, operation, _) in zip(denied, tries[1:], strict=True):
        assert "AccessDenied" in error, f"{service} {operation}: {error}"


def test_the_api_has_one_stage(stack: Stack) -> None:
    """SAM's own, named Stage, would be neither throttled nor logged."""
    stages = stack.client("apigateway").get_stages(restApiId=stack.outputs["ApiId"])["item"]
    assert [stage["stageName"] for stage in stages] == ["prod"]
