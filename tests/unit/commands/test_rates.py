"""`stepflake rates`: limits as functions and services declare them, with their state in the table."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.calls.rates import SECOND_US, Limit, Overloaded, TokenBucket, now_us
from core.calls.slots import HOLD_SECONDS, Slots
from stepflake import rates
from stepflake.cli import main
from stepflake.commands import rates as command
from tests.unit.commands.stack import STACK, Write, connect
from tests.unit.fake_aws import FakeAws

PACED = """
    @remote_function(rate_limit="10/second", calls="api")
    def paced(text: str) -> str: ...
"""
SERVICE = """
    @service(rate_limit="${API_RATE}", calls="api")
    def shared(document): ...
"""
PARALLEL = """
    @remote_function(max_concurrency=3)
    def parallel(text: str) -> str: ...
"""
LIMIT = Limit("api", 10.0, None)


@pytest.fixture
def write(aws: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Write:
    monkeypatch.setattr(rates, "time", aws.clock)
    monkeypatch.setattr(command, "find_stack", lambda **_: STACK)
    return connect(aws, monkeypatch, tmp_path, API_RATE="10/second")


def call(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner(mix_stderr=False).invoke(main, ["rates", *arguments], catch_exceptions=False)
    assert result.exit_code == exit_code, result.stdout + result.stderr
    return result


def listed() -> list[dict[str, Any]]:
    limits: list[dict[str, Any]] = json.loads(call("--json").stdout)
    return limits


def row(name: str) -> list[str]:
    """The cells of a limit's line."""
    lines = (line.split() for line in call().stdout.splitlines())
    return next(cells for cells in lines if cells[:1] == [name])


def throttled() -> TokenBucket:
    """The limit after throttles that cut its rate twice."""
    bucket = TokenBucket(LIMIT)
    bucket.lease(4, SECOND_US)
    for _ in range(4):
        bucket.cut(now_us() + 1)
        bucket.cut(now_us() - 1_000_000)  # of a call that was made before
    bucket.waited(6.0)
    bucket.settle(None)
    return bucket


def test_a_limit_that_nobody_has_used_yet(write: Write) -> None:
    write(paced=PACED, shared=SERVICE)
    assert listed() == [
        {
            "limit": "api",
            "shared_by": ["function paced", "service shared"],
            "declared_rate": 10.0,
            "found_rate": None,
            "max_concurrency": None,
            "slots": 0,
            "queued_calls": 0,
            "queued_seconds": 0.0,
            "calls": 0,
            "throttles": 0,
            "refused": 0,
            "mean_wait_seconds": None,
            "is_used": False,
        }
    ]
    expected = ["api", "10/s", "unused", "-", "0", "0", "0", "0", "-"]
    assert row("api") == [*expected, "function", "paced,", "service", "shared"]


def test_the_rate_that_was_found_and_what_was_counted(aws: FakeAws, write: Write) -> None:
    write(paced=PACED)
    throttled()
    (limit,) = listed()
    assert limit["found_rate"] == pytest.approx(6.4)
    assert (limit["calls"], limit["throttles"], limit["mean_wait_seconds"]) == (4, 8, 1.5)
    assert row("api")[:3] == ["api", "10/s", "6.4/s"]


def test_a_rate_that_is_found_again_is_the_declared_one(write: Write) -> None:
    write(paced=PACED.replace("10/second", "7/second"))
    TokenBucket(Limit("api", 7.0, None)).lease(1, SECOND_US)
    assert [(limit["declared_rate"], limit["found_rate"]) for limit in listed()] == [(7.0, 7.0)]


def test_a_limit_that_has_changed_since_its_last_call(write: Write) -> None:
    write(paced=PACED.replace("10/second", "50/second"))
    throttled()
    assert [(limit["declared_rate"], limit["found_rate"]) for limit in listed()] == [(50.0, 50.0)]


def test_what_is_queued_and_what_was_refused(aws: FakeAws, write: Write) -> None:
    write(paced=PACED)
    bucket = TokenBucket(LIMIT)
    bucket.admit(5000, "first")
    with pytest.raises(Overloaded):
        bucket.admit(5000, "second")
    (limit,) = listed()
    assert (limit["queued_calls"], limit["queued_seconds"], limit["refused"]) == (5000, 500.0, 1)
    assert row("api")[4:8] == ["5,000", "in", "500", "s"]
    aws.clock.now += 501
    (limit,) = listed()
    assert (limit["queued_calls"], limit["queued_seconds"]) == (0, 0.0)


def test_slots_of_workers_that_died_are_free(aws: FakeAws, write: Write) -> None:
    write(parallel=PARALLEL)
    first, second = (Slots("rate#parallel", 3) for _ in range(2))
    assert first.acquire(2) == 2
    first._released.set()  # it says no more that it lives
    aws.clock.now += HOLD_SECONDS + 1
    assert second.acquire(1) == 1
    (limit,) = listed()
    assert (limit["slots"], limit["max_concurrency"], limit["declared_rate"]) == (1, 3, None)
    assert row("parallel")[1:6] == ["-", "unused", "1", "of", "3"]
    second.release()
    assert row("parallel")[3:6] == ["0", "of", "3"]


def test_no_limits_and_those_that_a_stack_turns_off(
    aws: FakeAws, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(plain="@remote_function()\ndef plain(text: str) -> str: ...\n")
    assert "To declare one: @remote_function(rate_limit=" in call().stdout
    assert listed() == []
    connect(aws, monkeypatch, tmp_path, API_RATE="none")
    write(shared=SERVICE)
    assert listed() == []


def test_a_variable_that_the_stack_does_not_have(
    aws: FakeAws, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(shared=SERVICE)
    connect(aws, monkeypatch, tmp_path)
    error = " ".join(call(exit_code=1).stderr.split())
    assert "lambdas/services/shared.py: rate_limit is ${API_RATE}, which the stack's Lambdas don't" in error
    connect(aws, monkeypatch, tmp_path, API_RATE="fast")
    assert "lambdas/services/shared.py: fast is 'fast', which is no rate" in call(exit_code=1).stderr


def test_reset_sets_the_rate_back_and_shortens_the_queue(aws: FakeAws, write: Write) -> None:
    write(paced=PACED)
    bucket = throttled()
    bucket.admit(64, "batch")
    assert listed()[0]["queued_seconds"] == pytest.approx(12.5, rel=0.01)
    assert "api is back at its declared rate" in call("--reset", "api").stderr
    (limit,) = listed()
    assert limit["found_rate"] == 10.0
    assert limit["queued_seconds"] == pytest.approx(6.4, rel=0.01)
    # A worker that knew the old rate goes on at the new one.
    first, second = bucket.lease(2, SECOND_US)
    assert second - first == 100_000
    assert "api was at its declared rate" in call("--reset", "api").stderr


def test_reset_of_a_limit_that_is_written_meanwhile(aws: FakeAws, write: Write) -> None:
    write(paced=PACED)
    bucket = throttled()
    aws.faults.meanwhile("update_item", lambda: bucket.admit(10, "batch"))
    call("--reset", "api")
    assert listed()[0]["found_rate"] == 10.0


def test_reset_of_an_unused_and_of_an_unknown_limit(write: Write) -> None:
    write(paced=PACED)
    assert "api was at its declared rate" in call("--reset", "api").stderr
    assert "There is no limit 'ipa'; there are: api" in call("--reset", "ipa", exit_code=1).stderr


def test_a_table_that_may_not_be_read(aws: FakeAws, write: Write) -> None:
    write(paced=PACED)
    aws.faults.fail("get_item", "AccessDeniedException")
    assert "The table table: " in call(exit_code=1).stderr
