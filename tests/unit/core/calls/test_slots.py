"""Slots: never more calls at once than max_concurrency, and none lost with a worker that died."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.calls.slots import HOLD_SECONDS, Slots
from core.table import get_item
from tests.unit.fake_aws import FakeAws

MOST = 4


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds are renewed by the tests, not by threads."""

    class NoThread:
        def __init__(self, **_: Any) -> None:
            pass

        def start(self) -> None:
            pass

    monkeypatch.setattr("threading.Thread", NoThread)


def used() -> int:
    item = get_item({"pk": "rate#api", "sk": "slots"})
    return item["used"] if item else 0


def test_a_worker_gets_what_is_free_and_gives_it_back(aws: FakeAws) -> None:
    first, second, third = (Slots("rate#api", MOST) for _ in range(3))
    assert first.acquire(3) == 3
    assert second.acquire(3) == 1
    assert third.acquire(3) == 0
    first.release()
    assert third.acquire(10) == 3
    second.release()
    third.release()
    assert used() == 0
    first.release()
    assert used() == 0


def test_the_slots_of_a_dead_worker_are_free_after_its_hold(aws: FakeAws) -> None:
    dead, other = Slots("rate#api", MOST), Slots("rate#api", MOST)
    assert dead.acquire(MOST) == MOST
    aws.clock.sleep(HOLD_SECONDS)
    assert other.acquire(1) == 0
    aws.clock.sleep(2)
    assert other.acquire(2) == 2
    dead.release()  # it was only late
    assert used() == 2


@pytest.mark.parametrize("lost", ["acquire", "release"])
def test_a_lost_answer_loses_no_slot(aws: FakeAws, lost: str) -> None:
    Slots("rate#api", MOST).acquire(0)
    first = Slots("rate#api", MOST)
    Slots("rate#api", MOST).acquire(1)
    if lost == "acquire":
        aws.faults.lose_answer("update_item")
    assert first.acquire(2) == 2
    if lost == "release":
        aws.faults.lose_answer("update_item")
    first.release()
    assert used() == 1


def test_a_throttled_release_waits_for_the_end_of_the_hold(aws: FakeAws) -> None:
    first, second = Slots("rate#api", MOST), Slots("rate#api", MOST)
    first.acquire(MOST)
    aws.faults.fail("update_item", "ThrottlingException")
    first.release()
    assert second.acquire(1) == 0
    aws.clock.sleep(HOLD_SECONDS + 2)
    assert second.acquire(1) == 1


Step = tuple[str, int, int]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["acquire", "release", "die", "lost acquire", "other acquires", "time"]),
            st.integers(0, 5),
            st.integers(1, 5),
        ),
        max_size=40,
    )
)
def test_live_workers_never_hold_more_than_there_are(aws: FakeAws, steps: list[Step]) -> None:
    aws.clear()
    live = [Slots("rate#api", MOST) for _ in range(6)]

    def acquire(worker: Slots, count: int) -> None:
        if not worker.held:
            worker.acquire(count)

    for what, number, count in steps:
        worker = live[number]
        if "acquire" in what and worker.held:
            continue
        if what == "lost acquire":
            aws.faults.lose_answer("update_item")
        elif what == "other acquires":
            other = live[(number + 1) % 6]
            aws.faults.meanwhile("update_item", lambda other=other: acquire(other, 1))
        if "acquire" in what:
            acquire(worker, count)
        elif what == "release":
            worker.release()
        elif what == "die":
            live[number] = Slots("rate#api", MOST)
        else:
            # Those that live renew their holds all the time.
            for each in live:
                if each.held:
                    each.renew()
            aws.clock.sleep(count * HOLD_SECONDS / 6)
        assert sum(each.held for each in live) <= MOST
    for each in live:
        each.release()
    aws.clock.sleep(2 * HOLD_SECONDS)
    last = Slots("rate#api", MOST)
    assert last.acquire(MOST) == MOST
