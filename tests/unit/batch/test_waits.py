"""Requests wait for their rows as long as waiting pays: less where it does not, and again where it does."""

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch import initiate, poll, waits
from batch.waits import MAX_TARGETS, SHORTEST_SECONDS, TRIAL_SECONDS, Waits
from tests.unit.batch.machine import finish, only_execution, run_batch
from tests.unit.fake_aws import CONTEXT, FakeAws
from tests.unit.fake_aws.clock import FakeClock
from tests.unit.fake_aws.invocations import api_event, post_event

ECHO = ("functions", "echo")

Wait = Callable[..., float]


@pytest.fixture
def wait(aws: FakeAws) -> Wait:
    """`wait(after)`: how long a request waited; its rows come after so many seconds, or never."""
    known = Waits()

    def one(after: float | None = None, *, target: tuple[str, str] = ECHO, limit: float = 5) -> float:
        granted: list[float] = []

        def rows(seconds: float) -> str | None:
            granted.append(seconds)
            aws.clock.sleep(seconds if after is None else min(after, seconds))
            return "rows" if after is not None and after <= seconds else None

        known.wait(target, limit, rows)
        return granted[0]

    return one


def test_waits_in_vain_become_shorter_down_to_the_shortest(wait: Wait) -> None:
    assert [wait() for _ in range(5)] == [5, 1.25, 0.3125, SHORTEST_SECONDS, SHORTEST_SECONDS]


def test_waits_that_pay_become_longer_up_to_the_limit(wait: Wait) -> None:
    for _ in range(6):
        wait()
    assert [wait(0.1) for _ in range(7)] == [0.25, 0.5, 1, 2, 4, 5, 5]


def test_rows_that_come_keep_the_longest_wait(wait: Wait) -> None:
    assert [wait(4.9) for _ in range(3)] == [5, 5, 5]


def test_each_target_has_waits_of_its_own(wait: Wait) -> None:
    wait()
    assert wait(target=("functions", "other")) == 5
    assert wait(target=("workflows", "echo")) == 5
    assert wait() == 1.25


def test_after_a_while_one_wait_has_its_full_length_again(aws: FakeAws, wait: Wait) -> None:
    lengths = [wait() for _ in range(8)]
    aws.clock.sleep(TRIAL_SECONDS - sum(lengths[1:]))
    assert [wait() for _ in range(3)] == [5, SHORTEST_SECONDS, SHORTEST_SECONDS]


def test_a_trial_that_pays_ends_the_short_waits(aws: FakeAws, wait: Wait) -> None:
    for _ in range(8):
        wait()
    aws.clock.sleep(TRIAL_SECONDS)
    assert [wait(3) for _ in range(2)] == [5, 5]


def test_steady_requests_have_a_trial_as_often_as_rare_ones(aws: FakeAws, wait: Wait) -> None:
    began, trials = aws.clock.now, 0
    while aws.clock.now < began + 10 * TRIAL_SECONDS:
        trials += wait() == 5
    assert 9 <= trials <= 11


@pytest.mark.parametrize("limit", [0, 0.1, SHORTEST_SECONDS])
def test_a_short_limit_is_kept(wait: Wait, limit: float) -> None:
    assert [wait(limit=limit) for _ in range(3)] == [limit] * 3


def test_an_error_teaches_nothing(wait: Wait, aws: FakeAws) -> None:
    known = Waits()

    def fail(seconds: float) -> None:
        assert seconds == 5
        raise RuntimeError("the batch failed")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            known.wait(ECHO, 5, fail)


def test_what_is_known_has_a_bound(wait: Wait) -> None:
    for number in range(MAX_TARGETS + 1):
        wait(target=("functions", str(number)))
    assert wait(target=("functions", "0")) == 5
    assert wait(target=("functions", str(MAX_TARGETS))) == 1.25


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 8) | st.none(), st.floats(0, 90))))
def test_a_wait_is_never_longer_than_the_limit_and_never_shorter_than_the_shortest(
    requests: list[tuple[str, float | None, float]],
) -> None:
    known, clock = Waits(), FakeClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waits, "time", clock)
        for name, after, pause in requests:
            granted: list[float] = []

            def rows(
                seconds: float, after: float | None = after, granted: list[float] = granted
            ) -> bool | None:
                granted.append(seconds)
                clock.sleep(seconds)
                return True if after is not None and after <= seconds else None

            known.wait(("functions", name), 5, rows)
            assert SHORTEST_SECONDS <= granted[0] <= 5
            clock.sleep(pause)


# The handlers


def seconds_of(aws: FakeAws, request: Callable[[], object]) -> float:
    began = aws.clock.now
    request()
    return aws.clock.now - began


def test_posts_of_a_batch_that_waits_for_concurrency_are_answered_sooner(aws: FakeAws) -> None:
    def post(number: int) -> int:
        status: int = initiate.handler(post_event("echo", [["a"]], batch_id=str(number)), CONTEXT)[
            "statusCode"
        ]
        assert status == 202
        return status

    times = [seconds_of(aws, partial(post, number)) for number in range(7)]
    assert times == pytest.approx([5, 1.25, 0.3125, 0.25, 0.25, 0.25, 0.25])
    assert len(aws.step_functions.executions) == 7

    aws.step_functions.work = run_batch
    answer = initiate.handler(post_event("echo", [["a"]], batch_id="quick"), CONTEXT)
    assert answer["statusCode"] == 200


def test_gets_are_answered_sooner_too(aws: FakeAws) -> None:
    initiate.handler(post_event("echo", [["a"]]), CONTEXT)

    def get() -> None:
        assert poll.handler(api_event("echo"), CONTEXT)["statusCode"] == 202

    times = [seconds_of(aws, get) - poll.QUIET_SECONDS for _ in range(6)]
    assert times == pytest.approx([5, 1.25, 0.3125, 0.25, 0.25, 0.25])
    aws.clock.at(0.5, partial(finish, aws))
    assert poll.handler(api_event("echo"), CONTEXT)["statusCode"] == 200
    assert only_execution(aws).runs == 1


def test_a_failure_is_still_answered_by_the_first_get(aws: FakeAws) -> None:
    aws.step_functions.work = run_batch
    initiate.handler(post_event("fail", [["a"]]), CONTEXT)
    for _ in range(3):
        began = aws.clock.now
        assert poll.handler(api_event("fail"), CONTEXT)["statusCode"] == 422
        assert aws.clock.now - began == pytest.approx(poll.QUIET_SECONDS)
