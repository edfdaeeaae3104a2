"""A limit's bucket: the pace of its tokens, the rate that it finds, and the queue of admitted batches."""

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.calls.rates import (
    BURST_US,
    HORIZON_US,
    QUEUED_SECONDS,
    SECOND_US,
    Bucket,
    Limit,
    Overloaded,
    TokenBucket,
    TooManyCalls,
    now_us,
    read_rate,
)
from core.catalog import CallOptions
from core.settings import SettingError
from core.stored import read_stored
from core.table import get_item
from tests.unit.fake_aws import FakeAws

TEN = Limit("api", 10.0, None)
FOREVER = 10**9 * SECOND_US


def state(limit: Limit = TEN) -> Bucket:
    """What the table has."""
    return read_stored(Bucket, get_item(limit.key) or {})


def lease(bucket: TokenBucket, count: int, within_us: int = FOREVER) -> list[int]:
    return bucket.lease(count, within_us)


# Declarations


@pytest.mark.parametrize(
    ("option", "rate"),
    [("10/second", 10.0), ("0.5/second", 0.5), ("600/minute", 10.0), ("36/hour", 0.01), ("none", None)],
)
def test_a_rate_is_read_as_it_is_written(option: str, rate: float | None) -> None:
    assert read_rate(option) == rate


def test_a_rate_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_RATE", "7/second")
    assert read_rate("${API_RATE}") == 7.0
    monkeypatch.setenv("API_RATE", "fast")
    with pytest.raises(SettingError, match="'fast', which is no rate"):
        read_rate("${API_RATE}")
    monkeypatch.delenv("API_RATE")
    with pytest.raises(SettingError, match="API_RATE is not set"):
        read_rate("${API_RATE}")


def test_a_limit_has_its_own_name_or_that_of_what_is_called() -> None:
    assert Limit.of(CallOptions(), "f") is None
    assert Limit.of(CallOptions(rate_limit="10/second"), "f") == Limit("f", 10.0, None)
    options = CallOptions(rate_limit="10/second", max_concurrency=3, calls="api")
    assert Limit.of(options, "f") == Limit.of(options, "g") == Limit("api", 10.0, 3)
    assert Limit.of(CallOptions(max_concurrency=3), "f") == Limit("f", None, 3)


# Tokens


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 4),  # the worker
            st.integers(1, 12),  # the tokens that it wants
            st.floats(0, 3),  # seconds until the next step
            st.sampled_from([None, None, None, "lost", "throttled"]),  # what happens to its write
        ),
        min_size=2,
        max_size=40,
    )
)
def test_tokens_never_fall_due_faster_than_the_rate(aws: FakeAws, steps: list[tuple[Any, ...]]) -> None:
    aws.clear()
    workers = [TokenBucket(TEN) for _ in range(5)]
    due: list[int] = []
    for number, count, seconds, fault in steps:
        if fault == "lost":
            aws.faults.lose_answer("update_item")
        elif fault == "throttled":
            aws.faults.meanwhile("update_item", lambda: lease(TokenBucket(TEN), 1))
        now = now_us()
        leased = lease(workers[number], count)
        assert len(leased) <= count
        # Neither longer ago than what is kept, nor further ahead than the horizon and the lease itself.
        assert all(now - BURST_US <= each <= now + HORIZON_US + SECOND_US for each in leased)
        due += leased
        aws.clock.sleep(seconds)
    due.sort()
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert min(gaps, default=TEN.interval_us) >= TEN.interval_us


def test_a_lease_has_half_a_second_of_tokens(aws: FakeAws) -> None:
    assert len(lease(TokenBucket(TEN), 100)) == 5
    assert len(lease(TokenBucket(Limit("slow", 0.1, None)), 100)) == 1
    assert len(lease(TokenBucket(Limit("quick", 1000.0, None)), 1000)) == 500


def test_what_was_not_taken_for_long_is_lost(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    lease(bucket, 1)
    aws.clock.sleep(3600)
    first, *_ = lease(bucket, 5)
    assert first == now_us() - BURST_US


def test_tokens_out_of_reach_are_not_taken(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    while leased := lease(bucket, 5):
        last = leased[-1]
    assert last > now_us() + HORIZON_US - SECOND_US
    before = state()
    assert lease(bucket, 1) == []
    assert state() == before
    aws.clock.sleep(1)
    assert lease(bucket, 1, within_us=SECOND_US // 10) == []
    assert lease(bucket, 1) == [last + TEN.interval_us]


def test_a_busy_limit_costs_one_write_for_a_lease(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    lease(bucket, 5)
    aws.clock.sleep(0.4)
    before = len(aws.faults.calls)
    lease(bucket, 5)
    assert aws.faults.operations()[before:] == ["update_item"]


def test_another_declaration_takes_effect_and_keeps_the_totals(aws: FakeAws) -> None:
    lease(TokenBucket(TEN), 5)
    faster = TokenBucket(Limit("api", 100.0, None))
    first, second, *_ = lease(faster, 10)
    assert second - first == 10_000
    assert state().calls == 15
    # Workers of the earlier version are still there, until the deployment is complete.
    assert lease(TokenBucket(TEN), 1)
    assert lease(faster, 1)


# The rate that is found


@dataclass
class Service:
    """What is called: it refuses more than its quota, a second, after a burst of one second's."""

    quota: float
    random_share: float = 0.0
    answered: int = 0
    refused: int = 0
    tokens: float = 0.0
    at: float = 0.0
    draw: random.Random = field(default_factory=lambda: random.Random(7))

    def call(self, now: float) -> bool:
        self.tokens = min(self.quota, self.tokens + (now - self.at) * self.quota)
        self.at = now
        is_answered = self.tokens >= 1 and self.draw.random() >= self.random_share
        self.tokens -= is_answered
        self.answered += is_answered
        self.refused += not is_answered
        return is_answered


def use(aws: FakeAws, limit: Limit, service: Service, seconds: float, workers: int = 6) -> None:
    """Workers that have calls without end, one after the other in the order of time."""
    events = list(_first(workers, aws.clock.now))
    buckets = [TokenBucket(limit) for _ in range(workers)]
    ends = aws.clock.now + seconds
    numbers = iter(range(workers, 10**9))
    while events[0][0] < ends:
        at, _, worker, leased_us = heapq.heappop(events)
        aws.clock.now = max(aws.clock.now, at)
        if leased_us is not None:
            if not service.call(aws.clock.now):
                buckets[worker].cut(leased_us)
            continue
        due = lease(buckets[worker], 8)
        now = now_us()
        for each in due:
            heapq.heappush(events, (max(each, now) / SECOND_US + 0.02, next(numbers), worker, now))
        again = max([now, *due]) / SECOND_US + (0.01 if due else 0.7)
        heapq.heappush(events, (again, next(numbers), worker, None))
    aws.clock.now = ends


def _first(workers: int, now: float) -> Iterator[tuple[float, int, int, int | None]]:
    for worker in range(workers):
        yield now + worker / 100, worker, worker, None


@pytest.mark.parametrize(("declared", "quota"), [(10.0, 2.0), (10.0, 8.0), (100.0, 5.0)])
def test_a_smaller_quota_is_found_and_used(aws: FakeAws, declared: float, quota: float) -> None:
    limit = Limit("api", declared, None)
    use(aws, limit, Service(quota, at=aws.clock.now), 60)
    service = Service(quota, at=aws.clock.now)
    use(aws, limit, service, 120)
    assert 0.7 * quota < state(limit).per_second < 1.6 * quota
    assert service.answered > 0.9 * 120 * quota
    assert service.refused < 0.3 * service.answered


def test_a_right_rate_stays_as_it_is(aws: FakeAws) -> None:
    service = Service(10.0, tokens=10.0, at=aws.clock.now)
    use(aws, TEN, service, 120)
    assert state().per_second == 10
    assert service.answered > 0.97 * 120 * 10
    assert service.refused < 0.02 * service.answered


def test_throttles_that_have_other_causes_leave_most_of_the_rate(aws: FakeAws) -> None:
    service = Service(1000.0, random_share=0.05, tokens=1000.0, at=aws.clock.now)
    use(aws, TEN, service, 120)
    assert service.answered > 0.7 * 120 * 10


def test_the_rate_comes_back_when_the_quota_does(aws: FakeAws) -> None:
    use(aws, TEN, Service(2.0, at=aws.clock.now), 60)
    assert state().per_second < 4
    aws.clock.sleep(10 * 3600)  # nothing is called: what was found is kept
    assert state().per_second < 4
    use(aws, TEN, Service(1000.0, tokens=1000.0, at=aws.clock.now), 180)
    assert state().per_second == 10


def test_many_throttles_at_once_cut_the_rate_once(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    lease(bucket, 5)
    leased_us = now_us()
    aws.clock.sleep(1)
    for _ in range(5):
        bucket.cut(leased_us)
    assert state().per_second == pytest.approx(8)


def test_no_throttle_cuts_below_a_hundredth(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    for _ in range(300):
        lease(bucket, 5)
        aws.clock.sleep(0.1)
        bucket.cut(now_us())
    assert state().per_second >= 0.1


# The queue of batches


def test_batches_are_admitted_as_long_as_they_fit(aws: FakeAws) -> None:
    fitting = int(QUEUED_SECONDS * 10 / 164)
    for number in range(fitting):
        TokenBucket(TEN).admit(164, f"batch-{number}")
    with pytest.raises(Overloaded) as raised:
        TokenBucket(TEN).admit(164, "one-more")
    message = str(raised.value)
    assert message.startswith("api allows 10 calls a second, for all queries together")
    assert "the 164 of this batch would not be made in its 600 s" in message
    assert "MAX_BATCH_ROWS" in message
    assert state().refused == 1
    aws.clock.sleep(20)
    TokenBucket(TEN).admit(164, "one-more")


def test_a_repeated_post_is_counted_once(aws: FakeAws) -> None:
    for _ in range(50):
        TokenBucket(TEN).admit(164, "the same")
    assert state().clear_us - now_us() == pytest.approx(16.4 * SECOND_US, rel=0.01)


def test_a_batch_that_never_fits_is_told_so(aws: FakeAws) -> None:
    with pytest.raises(TooManyCalls, match=r"6,000 calls are needed, and api allows 5,400 in 540 s, at 10 a"):
        TokenBucket(TEN).admit(6000, "batch")
    assert not aws.dynamodb.items


def test_a_batch_with_nothing_before_it_is_admitted_at_any_rate(aws: FakeAws) -> None:
    use(aws, TEN, Service(0.2, at=aws.clock.now), 120)
    assert state().per_second < 1
    aws.clock.sleep(3600)
    TokenBucket(TEN).admit(1000, "batch")
    with pytest.raises(Overloaded, match=r"\(declared: 10\)"):
        TokenBucket(TEN).admit(1, "next")


def test_the_queue_grows_when_the_rate_is_cut(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    bucket.admit(100, "batch")
    lease(bucket, 5)
    for _ in range(4):
        bucket.cut(now_us() + 1)
    assert state().clear_us - now_us() > 12 * SECOND_US


def test_spared_calls_leave_the_queue(aws: FakeAws) -> None:
    bucket = TokenBucket(TEN)
    bucket.admit(100, "batch")
    bucket.give_back(90)
    assert state().clear_us - now_us() == pytest.approx(SECOND_US, rel=0.01)
    aws.clock.sleep(5)
    bucket.give_back(90)  # it was empty already
    assert state().clear_us < now_us()


def test_a_post_that_dies_is_counted_at_most_once(aws: FakeAws) -> None:
    for death in aws.faults.each_death():
        aws.clear()
        with death:
            TokenBucket(TEN).admit(100, "batch")
        TokenBucket(TEN).admit(100, "batch")
        queued = max(0, state().clear_us - now_us()) if get_item(TEN.key) else 0
        assert queued <= 10 * SECOND_US, (death.call, death.moment)


def test_posts_at_the_same_time_do_not_overshoot(aws: FakeAws) -> None:
    other = TokenBucket(TEN)
    TokenBucket(TEN).admit(2800, "first")
    aws.faults.meanwhile("update_item", lambda: other.admit(1300, "meanwhile"))
    with pytest.raises(Overloaded):
        TokenBucket(TEN).admit(1300, "second")
    assert state().clear_us - now_us() <= QUEUED_SECONDS * SECOND_US


def test_calls_at_once_are_a_rate_when_their_length_is_known(aws: FakeAws) -> None:
    limit = Limit("slow", None, 2)
    TokenBucket(limit).admit(10_000, "unknown")
    bucket = TokenBucket(limit)
    bucket.admit(1, "b")
    bucket.settle(10.0)
    bucket.admit(60, "300 s")
    with pytest.raises(Overloaded, match="slow allows 2 calls at once"):
        bucket.admit(60, "300 s more")
