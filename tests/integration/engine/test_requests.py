"""Rates of the services' APIs, and faults of what the stack's roles call."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import urllib3
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from stepflake.local.engine import SETTINGS_PATH, Engine, Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import Value

ARN = "arn:aws:states:us-east-1:000000000000:execution:none:none"
FEW = 3

Clients = Callable[[str], Any]


def limit(engine: Engine, name: str, size: float, refill: float = 0) -> None:
    engine.configure(Settings(limits={name: Value(size, refill)}))


def counted(engine: Engine, name: str) -> tuple[int, int]:
    found = next(item for item in engine.settings()["limits"] if item["name"] == name)
    return found["allowed"], found["refused"]


def code(call: Callable[[], Any]) -> str:
    """The error that a call ends with, or "" where it succeeds."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


CALLS: dict[str, Callable[[Any], Any]] = {
    "states.StartExecution": lambda c: c.start_execution(stateMachineArn=ARN),
    "states.DescribeExecution": lambda c: c.describe_execution(executionArn=ARN),
    "states.GetExecutionHistory": lambda c: c.get_execution_history(executionArn=ARN),
    "states.ListExecutions": lambda c: c.list_executions(stateMachineArn=ARN),
    "states.StopExecution": lambda c: c.stop_execution(executionArn=ARN),
    "states.RedriveExecution": lambda c: c.redrive_execution(executionArn=ARN),
    "states.StartSyncExecution": lambda c: c.start_sync_execution(stateMachineArn=ARN),
    "states.SendTaskSuccess": lambda c: c.send_task_success(taskToken="none", output="{}"),
    "states.SendTaskFailure": lambda c: c.send_task_failure(taskToken="none"),
    "states.SendTaskHeartbeat": lambda c: c.send_task_heartbeat(taskToken="none"),
}


@pytest.mark.parametrize("name", CALLS)
def test_rates_of_step_functions(engine: Engine, client: Clients, name: str) -> None:
    allowed, refused = counted(engine, name)
    limit(engine, name, FEW)
    states = client("stepfunctions")
    codes = [code(lambda: CALLS[name](states)) for _ in range(FEW + 2)]
    assert [c == "ThrottlingException" for c in codes] == [False] * FEW + [True] * 2
    assert counted(engine, name) == (allowed + FEW, refused + 2)


def test_a_bucket_is_refilled(engine: Engine, client: Clients) -> None:
    limit(engine, "states.DescribeExecution", 1, refill=1000)
    states = client("stepfunctions")
    describe = CALLS["states.DescribeExecution"]
    # A call takes longer than a token needs to come back.
    assert {code(lambda: describe(states)) for _ in range(5)} == {"ExecutionDoesNotExist"}


def test_without_limits_nothing_is_refused_or_counted(engine: Engine, client: Clients) -> None:
    limit(engine, "states.DescribeExecution", 0)
    before = counted(engine, "states.DescribeExecution")
    engine.configure(Settings(has_limits=False))
    assert code(lambda: CALLS["states.DescribeExecution"](client("stepfunctions"))) == "ExecutionDoesNotExist"
    assert counted(engine, "states.DescribeExecution") == before


def test_rate_of_a_prefix_in_s3(engine: Engine, client: Clients) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket="prefixes")
    limit(engine, "s3.Writes", 2)
    limit(engine, "s3.Reads", 2)

    def put(key: str) -> str:
        return code(lambda: s3.put_object(Bucket="prefixes", Key=key, Body=b"x"))

    def get(key: str) -> str:
        return code(lambda: s3.get_object(Bucket="prefixes", Key=key))

    assert [put(f"a/{n}") for n in range(3)] == ["", "", "SlowDown"]
    assert put("b/0") == "", "another prefix has a rate of its own"
    assert [get("a/0") for _ in range(3)] == ["", "", "SlowDown"]
    # HEAD has no body, so the status is all that there is.
    assert code(lambda: s3.head_object(Bucket="prefixes", Key="a/0")) == "503"


def test_a_page_in_a_browser_does_not_change_limits(engine: Engine) -> None:
    answer = urllib3.request(
        "PUT", engine.url + SETTINGS_PATH, json={"enabled": False}, headers={"Origin": "https://example.com"}
    )
    assert answer.status == 403
    assert engine.settings()["enabled"]


def put_fate(s3: Any, key: str) -> str:
    try:
        s3.put_object(Bucket="faults", Key=key, Body=b"x")
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    except ConnectionClosedError:
        return "lost"
    return ""


def test_faults(engine: Engine, client: Clients, role_client: Clients) -> None:
    root, s3 = client("s3"), role_client("s3")
    root.create_bucket(Bucket="faults")
    faults = Faults(throttle=0.3, lost=0.3, seed=7)
    engine.configure(Settings(faults=faults))
    fates = {f"first/{number}": put_fate(s3, f"first/{number}") for number in range(40)}
    assert set(fates.values()) == {"", "SlowDown", "lost"}
    stored = {item["Key"] for item in root.list_objects_v2(Bucket="faults")["Contents"]}
    assert stored == {key for key, fate in fates.items() if fate != "SlowDown"}, (
        "a lost answer's work is done"
    )
    assert {put_fate(root, f"root/{number}") for number in range(20)} == {""}, "only roles have faults"

    engine.configure(Settings(faults=faults))
    again = [put_fate(s3, f"second/{number}") for number in range(40)]
    assert again == list(fates.values()), "one seed, one sequence"
    engine.configure(Settings(faults=replace(faults, seed=8)))
    assert [put_fate(s3, f"third/{number}") for number in range(40)] != again


# How each service answers an error of its own, and a call of it.
FAILURES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "s3": ("InternalError", lambda c: c.list_buckets()),
    "dynamodb": ("InternalServerError", lambda c: c.list_tables()),
    "stepfunctions": ("InternalFailure", lambda c: c.list_state_machines()),
    "sqs": ("InternalFailure", lambda c: c.list_queues()),
    "sns": ("InternalError", lambda c: c.list_topics()),
    "comprehend": (
        "InternalServerException",
        lambda c: c.batch_detect_sentiment(LanguageCode="en", TextList=["a"]),
    ),
    "lambda": ("ServiceException", lambda c: c.list_functions()),
}


@pytest.mark.parametrize("service", FAILURES)
def test_a_service_may_fail(engine: Engine, client: Clients, role_client: Clients, service: str) -> None:
    expected, call = FAILURES[service]
    engine.configure(Settings(faults=Faults(fail=1)))
    with pytest.raises(ClientError) as failed:
        call(role_client(service))
    response = failed.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (expected, 500)
    assert code(lambda: call(client(service))) == "", "only roles have faults"


def test_where_a_service_failed_nothing_was_done(
    engine: Engine, client: Clients, role_client: Clients
) -> None:
    root, s3 = client("s3"), role_client("s3")
    root.create_bucket(Bucket="faults")
    engine.configure(Settings(faults=Faults(throttle=0.2, fail=0.4, lost=0.2, seed=7)))
    fates = {f"failing/{number}": put_fate(s3, f"failing/{number}") for number in range(40)}
    assert set(fates.values()) == {"", "SlowDown", "InternalError", "lost"}
    listed = root.list_objects_v2(Bucket="faults", Prefix="failing/")["Contents"]
    assert {item["Key"] for item in listed} == {key for key, fate in fates.items() if fate in {"", "lost"}}


def test_faults_of_one_service(engine: Engine, client: Clients, role_client: Clients) -> None:
    services = list(FAILURES)
    for faulty in services:
        own = "states" if faulty == "stepfunctions" else faulty
        engine.configure(Settings(faults=Faults(fail=1, services=(own,))))
        codes = {name: code(partial(FAILURES[name][1], role_client(name))) for name in services}
        assert codes == {**dict.fromkeys(services, ""), faulty: FAILURES[faulty][0]}


def test_late_answers(engine: Engine, client: Clients, role_client: Clients) -> None:
    client("s3").create_bucket(Bucket="late")
    engine.configure(Settings(faults=Faults(delay=1, delay_seconds=60, seed=1)))
    with pytest.raises(ReadTimeoutError):
        role_client("s3").put_object(Bucket="late", Key="a", Body=b"x")
