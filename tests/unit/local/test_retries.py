"""Which errors Retry and Catch match on the local engine, and how long retries wait."""

from collections import Counter
from typing import Any

import pytest

from stepflake.local.engine_process.states.retries import matches, next_delay


@pytest.mark.parametrize(
    ("error_equals", "error", "expected"),
    [
        (["Busy"], "Busy", True),
        (["Busy"], "Broken", False),
        (["States.ALL"], "Busy", True),
        (["States.ALL"], "States.Timeout", True),
        (["States.ALL"], "States.DataLimitExceeded", False),
        (["States.ALL"], "States.Runtime", False),
        (["States.Runtime"], "States.Runtime", False),
        (["States.DataLimitExceeded"], "States.DataLimitExceeded", True),
        (["States.TaskFailed"], "Busy", True),
        (["States.TaskFailed"], "States.Timeout", False),
        (["States.TaskFailed"], "States.HeartbeatTimeout", False),
        (["States.TaskFailed"], "States.DataLimitExceeded", False),
        (["States.Timeout"], "States.HeartbeatTimeout", True),
        (["States.HeartbeatTimeout"], "States.Timeout", False),
        (["A", "B"], "B", True),
    ],
)
def test_an_error_is_matched(error_equals: list[str], error: str, expected: bool) -> None:
    assert matches(error_equals, error) is expected


def delays(*retriers: dict[str, Any], error: str = "Busy", at_most: int = 20) -> list[float]:
    """The waits of one error that keeps coming."""
    retried: Counter[int] = Counter()
    waits: list[float] = []
    while len(waits) < at_most and (delay := next_delay(retriers, error, retried)) is not None:
        waits.append(delay)
    return waits


def test_by_default_there_are_three_retries_after_1_2_and_4_seconds() -> None:
    assert delays({"ErrorEquals": ["Busy"]}) == [1, 2, 4]


def test_an_interval_grows_without_end_unless_a_maximum_is_given() -> None:
    busy = {"ErrorEquals": ["Busy"], "IntervalSeconds": 10, "MaxAttempts": 5, "BackoffRate": 3}

    assert delays(busy) == [10, 30, 90, 270, 810]
    assert delays({**busy, "MaxDelaySeconds": 100}) == [10, 30, 90, 100, 100]


def test_an_interval_may_stay_the_same() -> None:
    assert delays({"ErrorEquals": ["Busy"], "IntervalSeconds": 7, "BackoffRate": 1}) == [7, 7, 7]


def test_many_retries_do_not_overflow() -> None:
    retrier = {"ErrorEquals": ["Busy"], "MaxAttempts": 3000, "BackoffRate": 2, "MaxDelaySeconds": 60}

    assert delays(retrier, at_most=3000)[-1] == 60


def test_jitter_is_between_nothing_and_the_delay() -> None:
    full = {"ErrorEquals": ["Busy"], "IntervalSeconds": 8, "MaxAttempts": 500, "BackoffRate": 1}
    waits = delays({**full, "JitterStrategy": "FULL"}, at_most=500)

    assert all(0 <= wait <= 8 for wait in waits)
    assert min(waits) < 2
    assert max(waits) > 6
    assert set(delays({**full, "JitterStrategy": "NONE"}, at_most=500)) == {8}


def test_the_first_retrier_that_matches_decides_also_when_it_is_used_up() -> None:
    first = {"ErrorEquals": ["Busy"], "MaxAttempts": 1, "IntervalSeconds": 5}
    second = {"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "IntervalSeconds": 3, "BackoffRate": 1}

    assert delays(first, second) == [5]
    assert delays(first, second, error="Other") == [3, 3]
    assert delays({"ErrorEquals": ["Busy"], "MaxAttempts": 0}, second) == []
