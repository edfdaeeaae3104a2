"""The engine's account: token buckets, maxima, and what is counted."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepflake.local.engine_process import account as module
from stepflake.local.engine_process.account import Account
from stepflake.local.limits import Value

NAME = "states.DescribeExecution"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def account(size: float, refill: float, name: str = NAME) -> Account:
    made = Account()
    made.configure(enabled=None, values={name: Value(size, refill)}, faults=None)
    return made


def found(of: Account, name: str = NAME) -> dict[str, Any]:
    return next(item for item in of.report() if item["name"] == name)


def counts(of: Account, name: str = NAME) -> tuple[int, int]:
    item = found(of, name)
    return item["allowed"], item["refused"]


def test_a_bucket_is_empty_and_filled_again_but_not_above_its_size(clock: Clock) -> None:
    of = account(2, 4)
    assert [of.allows(NAME) for _ in range(3)] == [True, True, False]
    clock.now += 0.25
    assert [of.allows(NAME) for _ in range(2)] == [True, False]
    clock.now += 60
    assert [of.allows(NAME) for _ in range(3)] == [True, True, False]
    assert counts(of) == (5, 3)


@given(
    size=st.integers(1, 20),
    refill=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 2), max_size=60),
)
def test_never_more_than_the_bucket_and_what_came_back(size: int, refill: int, gaps: list[float]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        of = account(size, refill)
        allowed = 0
        for gap in gaps:
            clock.now += gap
            allowed += of.allows(NAME)
        assert allowed <= size + refill * sum(gaps) + 1e-6
        assert counts(of) == (allowed, len(gaps) - allowed)


def test_each_key_has_a_bucket(clock: Clock) -> None:
    of = account(1, 0)
    assert [of.allows(NAME, key) for key in ("a", "a", "b", "b")] == [True, False, True, False]


def test_buckets_that_are_full_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_BUCKETS", 10)
    of = account(1, 1)
    for number in range(100):
        clock.now += 0.5
        assert of.allows(NAME, str(number))
    assert len(of._buckets) <= 11
    assert not of.allows(NAME, "99"), "the one just used is not full, and stays"


def test_what_is_larger_than_the_bucket_passes_when_it_is_full(clock: Clock) -> None:
    of = account(4, 4)
    assert of.allows(NAME, amount=10)
    clock.now += 1
    assert not of.allows(NAME), "overdrawn by six"
    clock.now += 1
    assert of.allows(NAME)


def test_what_is_known_only_afterwards_is_charged(clock: Clock) -> None:
    of = account(2, 1)
    assert of.allows(NAME)
    of.charge(NAME, "", 3)
    assert not of.allows(NAME)
    clock.now += 3
    assert of.allows(NAME)


def test_waiting_for_a_token(clock: Clock) -> None:
    of = account(1, 2)
    started = clock.now
    for _ in range(5):
        of.wait(NAME)
    assert clock.now - started == pytest.approx(2, abs=0.5)


def test_a_maximum() -> None:
    of = Account()
    assert of.fits("states.PayloadSize", 262_144)
    assert not of.fits("states.PayloadSize", 262_145)
    assert counts(of, "states.PayloadSize") == (1, 1)


def test_what_a_fault_did_is_neither_allowed_nor_refused(clock: Clock) -> None:
    of = account(1, 0)
    for _ in range(3):
        of.fail(NAME)
    assert of.allows(NAME), "it took no token"
    assert counts(of) == (1, 0)
    assert found(of)["failed"] == 3


def test_the_peak_is_the_most_requests_within_one_second(clock: Clock) -> None:
    of = account(2, 1)
    for gap in (0, 0.4, 0.5, 0.2, 0.2, 3, 0, 0.9):
        clock.now += gap
        of.allows(NAME)
    assert found(of)["peak"] == 4, "those after 0.4, 0.9, 1.1 and 1.3 s, refused ones too"
    of.configure(enabled=None, values={NAME: Value(2, 1)}, faults=None)
    assert found(of)["peak"] == 0
    of.fail(NAME)
    assert found(of)["peak"] == 1


def test_off_nothing_is_refused() -> None:
    of = account(0, 0)
    of.configure(enabled=False, values={}, faults=None)
    assert of.allows(NAME)
    assert of.fits("states.PayloadSize", 10**9)
    assert of.value("states.PayloadSize").size == float("inf")
    of.configure(enabled=True, values={}, faults=None)
    assert not of.allows(NAME)


def test_a_changed_limit_begins_full() -> None:
    of = account(1, 0)
    assert [of.allows(NAME) for _ in range(2)] == [True, False]
    of.configure(enabled=None, values={NAME: Value(1, 0)}, faults=None)
    assert of.allows(NAME)


def test_real_time_refills() -> None:
    of = account(1, 10_000)
    assert of.allows(NAME)
    deadline = time.monotonic() + 5
    while not of.allows(NAME):
        assert time.monotonic() < deadline
