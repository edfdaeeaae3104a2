"""The permission for an invocation's calls: they wait for the limit while there is time, and do not fail."""

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from core import deadline
from core.calls.permits import Permits
from core.calls.rates import HORIZON_US, Limit, TokenBucket, now_us
from core.errors import RateLimited
from core.table import get_item
from tests.unit.fake_aws import FakeAws, FakeContext

TEN = Limit("api", 10.0, None)


def begin(seconds: float) -> None:
    deadline.begin(FakeContext(seconds))


def item(limit: Limit = TEN) -> dict[str, Any]:
    return get_item(limit.key) or {}


def test_calls_are_made_at_the_rate(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(TEN)
    began = aws.clock.now
    for left in range(100, 0, -1):
        permits.wait(left, 8)
    # Half a second's tokens are there at once.
    assert aws.clock.now - began == pytest.approx(9.4, abs=0.2)
    assert permits.waited == pytest.approx(9.4, abs=0.2)


def test_few_writes_lease_many_tokens(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(Limit("quick", 1000.0, None))
    for left in range(5000, 0, -1):
        permits.wait(left, 100)
    assert len(aws.faults.calls) < 5000 / 50


def test_without_a_rate_nothing_waits_and_the_table_is_not_called(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(Limit("api", None, 3))
    began = aws.clock.now
    for _ in range(100):
        permits.wait(1, 1)
    assert aws.clock.now == began
    assert not aws.faults.calls


def test_a_call_that_would_end_too_late_is_not_made(aws: FakeAws) -> None:
    begin(30)
    permits = Permits(Limit("slow", 0.5, None))
    began = aws.clock.now

    def call_all() -> None:
        while True:
            call()

    def call() -> None:
        permits.wait(100, 1)
        aws.clock.sleep(1.5)
        permits.called(1.5)

    with pytest.raises(RateLimited, match=r"slow allows 0\.5 calls a second, for all queries together"):
        call_all()
    assert permits.calls >= 10
    # Some seconds are kept to store what was answered.
    assert aws.clock.now - began <= 25


def test_a_short_invocation_makes_calls_too(aws: FakeAws) -> None:
    begin(6)
    permits = Permits(Limit("slow", 1.0, None))

    def call_all() -> None:
        while True:
            call()

    def call() -> None:
        permits.wait(100, 1)
        permits.called(0.1)

    with pytest.raises(RateLimited):
        call_all()
    assert permits.calls >= 4


def test_an_invocation_waits_while_others_have_the_tokens(aws: FakeAws) -> None:
    begin(280)
    other = TokenBucket(TEN)
    while other.lease(5, HORIZON_US):
        pass
    began = aws.clock.now
    Permits(TEN).wait(1, 1)
    assert aws.clock.now > began


def test_tokens_that_no_call_needs_are_used_by_the_next(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(TEN)
    permits.wait(1, 1)
    permits.give_back()
    before = len(aws.faults.calls)
    permits.wait(1, 1)
    assert len(aws.faults.calls) == before


def test_a_throttle_is_counted_and_lowers_the_rate_of_all(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(TEN)
    for _ in range(4):
        permits.wait(10, 4)
        permits.throttled()
    permits.settle()
    assert item()["throttles"] == permits.throttles == 4
    assert item()["interval_us"] > TEN.interval_us


@pytest.mark.parametrize(
    "error",
    [
        "ProvisionedThroughputExceededException",
        "InternalServerError",
        EndpointConnectionError(endpoint_url="https://dynamodb"),
    ],
)
def test_where_the_table_does_not_answer_calls_wait_and_do_not_fail(
    aws: FakeAws, error: str | Exception
) -> None:
    begin(280)
    permits = Permits(TEN)
    aws.faults.fail("update_item", error, times=9)
    began = aws.clock.now
    permits.wait(1, 1)
    assert aws.clock.now > began
    aws.faults.fail("update_item", error, times=9)
    permits.throttled()
    permits.spare(5)
    permits.settle()


def test_a_table_that_denies_is_an_error(aws: FakeAws) -> None:
    begin(280)
    aws.faults.fail("update_item", "AccessDeniedException")
    with pytest.raises(Exception, match="AccessDeniedException"):
        Permits(TEN).wait(1, 1)


def test_a_table_that_never_answers_ends_with_the_time(aws: FakeAws) -> None:
    begin(60)
    aws.faults.fail("update_item", "ThrottlingException", times=10_000)
    with pytest.raises(RateLimited):
        Permits(TEN).wait(1, 1)


def test_what_calls_take_is_known_where_their_number_is_limited(aws: FakeAws) -> None:
    begin(280)
    limit = Limit("slow", None, 2)
    TokenBucket(limit).admit(1, "batch")
    permits = Permits(limit)
    permits.called(3.0)
    permits.called(5.0)
    permits.settle()
    assert item(limit)["call_ms"] == 4000


def test_waiting_for_slots_ends_with_the_time(aws: FakeAws) -> None:
    begin(30)
    permits = Permits(Limit("slow", None, 2))
    free = iter([0, 0, 2])
    assert permits.wait_for(lambda: next(free)) == 2
    with pytest.raises(RateLimited, match="slow allows 2 calls at once"):
        permits.wait_for(lambda: 0)


def test_where_the_slots_do_not_answer_calls_wait(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(Limit("slow", None, 2))
    slots = permits.slots()
    assert slots
    aws.faults.fail("update_item", "ThrottlingException", times=3)
    assert permits.wait_for(lambda: slots.acquire(2)) == 2
    slots.release()


def test_tokens_fall_due_in_the_near_future_only(aws: FakeAws) -> None:
    begin(280)
    permits = Permits(TEN)
    for left in range(30, 0, -1):
        permits.wait(left, 30)
        assert item()["next_us"] <= now_us() + HORIZON_US
