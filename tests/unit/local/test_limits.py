"""Limits and faults as they are written on the command line."""

import json
from dataclasses import asdict

import pytest

from stepflake.local.faults import SERVICES, FaultError, Faults
from stepflake.local.limits import LIMITS, LimitError, Value, parse_limit, parse_limits


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("comprehend.BatchDetectSentiment=2", "comprehend.BatchDetectSentiment", Value(2, 2)),
        ("states.DescribeExecution=30/1.5", "states.DescribeExecution", Value(30, 1.5)),
        ("lambda.ConcurrentExecutions=10", "lambda.ConcurrentExecutions", Value(10, None)),
        ("execute-api.Timeout=2.5", "execute-api.Timeout", Value(2.5, None)),
    ],
)
def test_limit(text: str, name: str, value: Value) -> None:
    assert parse_limit(text) == (name, value)


@pytest.mark.parametrize(
    "text",
    [
        "states.DescribeExecution",
        "states.DescribeExecution=",
        "states.DescribeExecution=many",
        "states.DescribeExecution=1/2/3",
        "states.DescribeExecution=-1",
        "states.DescribeExecution=nan",
        "states.DescribeExecution=inf",
        "lambda.ConcurrentExecutions=10/2",
    ],
)
def test_a_value_that_a_limit_cannot_have(text: str) -> None:
    with pytest.raises(LimitError, match=r"is not valid: .* such as (states|lambda)\.\w+=\d"):
        parse_limit(text)


def test_a_limit_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(LimitError, match=r"no limit 'states\.Describe'; there are: states\.Start"):
        parse_limit("states.Describe=3")


def test_the_last_value_counts() -> None:
    name = "comprehend.DetectSentiment"
    assert parse_limits([f"{name}=1", f"{name}=3"]) == {name: Value(3, 3)}


def test_each_limit_says_where_it_comes_from() -> None:
    for name, limit in LIMITS.items():
        assert limit.name == name
        assert limit.source.startswith("https://docs.aws.amazon.com/")
        assert (limit.refill is None) == (limit.kind != "rate")
        assert limit.size > 0


def test_faults() -> None:
    texts = ["throttle=0.08", "fail=0.05", "lost=0.03", "delay=0.1:2.5", "kill=0.02", "seed=7"]
    faults = Faults.parse(texts)
    assert faults == Faults(
        throttle=0.08, fail=0.05, lost=0.03, kill=0.02, delay=0.1, delay_seconds=2.5, seed=7
    )
    assert faults.texts() == texts
    assert Faults.from_json(json.loads(json.dumps(asdict(faults)))) == faults


@pytest.mark.parametrize("texts", [["service=comprehend,s3"], ["service=comprehend", "service=s3"]])
def test_faults_of_some_services(texts: list[str]) -> None:
    faults = Faults.parse(["fail=0.3", *texts])
    assert [name for name in SERVICES if faults.concern(name)] == ["s3", "comprehend"]
    assert Faults.parse(faults.texts()) == faults
    assert Faults.from_json(json.loads(json.dumps(asdict(faults)))) == faults


def test_faults_concern_all_services_unless_some_are_named() -> None:
    assert all(Faults(fail=0.3).concern(name) for name in SERVICES)


@pytest.mark.parametrize("text", ["throttle=0.1", "fail=0.1", "lost=0.1", "kill=0.1", "delay=0.1"])
def test_faults_are_on_where_a_share_is_above_zero(text: str) -> None:
    assert Faults.parse([text]).any
    assert not Faults.parse([text.replace("0.1", "0"), "seed=7", "service=s3"]).any


@pytest.mark.parametrize(
    "text",
    [
        "throttle",
        "throttle=2",
        "throttle=-0.1",
        "throttle=often",
        "lost=0.1:3",
        "delay=0.1:0",
        "delay=0.1:100",
        "delay=0.1:",
        "slow=0.1",
        "seed=x",
        "fail=1.1",
        "service",
        "service=s4",
        "service=s3,",
    ],
)
def test_a_fault_that_does_not_exist(text: str) -> None:
    with pytest.raises(FaultError, match="is not valid: throttle, fail, lost, delay and kill are shares"):
        Faults.parse([text])


def test_the_same_seed_gives_the_same_chances() -> None:
    first, second = Faults(seed=1), Faults(seed=2)
    chances = [first.chance("s3.PutObject", number) for number in range(100)]
    assert chances == [first.chance("s3.PutObject", number) for number in range(100)]
    assert chances != [second.chance("s3.PutObject", number) for number in range(100)]
    assert all(0 <= chance < 1 for chance in chances)
    assert 30 < sum(chance < 0.5 for chance in chances) < 70
