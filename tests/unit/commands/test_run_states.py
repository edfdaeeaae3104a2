"""What `stepflake runs show` says about the states of a run, from its history."""

from datetime import UTC, datetime
from typing import Any

from stepflake.runs import states_of

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class History:
    """Events in the order in which they are added; each names the one before it, or another one."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, kind: str, name: str = "", after: int | None = None, **details: Any) -> int:
        number = len(self.events) + 1
        key = f"{kind[0].lower()}{kind[1:]}EventDetails"
        for move in ("StateEntered", "StateExited"):
            if kind.endswith(move):
                key, details = f"s{move[1:]}EventDetails", {"name": name}
        previous = number - 1 if after is None else after
        event = {"id": number, "previousEventId": previous, "type": kind, "timestamp": NOON, key: details}
        self.events.append(event)
        return number

    def outcomes(self) -> list[tuple[str, str]]:
        return [(state["state"], state["outcome"]) for state in states_of(self.events)]


def test_states_are_listed_with_what_became_of_them() -> None:
    history = History()
    history.add("ExecutionStarted")
    history.add("PassStateEntered", "First")
    history.add("PassStateExited", "First")
    history.add("TaskStateEntered", "Work")
    history.add("TaskScheduled")
    history.add("TaskTimedOut", error="States.Timeout")
    history.add("TaskScheduled")
    history.add("TaskFailed", error="Broken")
    history.add("ExecutionFailed")

    assert history.outcomes() == [("First", "done"), ("Work", "Broken")]
    assert states_of(history.events)[0]["entered"] == "2026-11-24T12:00:00.000+00:00"


def test_a_redriven_state_is_done_after_its_error() -> None:
    history = History()
    history.add("TaskStateEntered", "Work")
    history.add("TaskFailed", error="Broken")
    history.add("ExecutionFailed")
    history.add("ExecutionRedriven")
    history.add("TaskSucceeded")
    history.add("TaskStateExited", "Work")

    assert history.outcomes() == [("Work", "done after Broken")]


def test_each_iteration_of_a_map_has_its_own_outcome() -> None:
    history = History()
    history.add("MapStateEntered", "Map")
    began = history.add("MapStateStarted")
    entered = []
    for _ in range(3):
        history.add("MapIterationStarted", after=began)
        entered.append(history.add("TaskStateEntered", "Each"))
    history.add("TaskFailed", error="Broken", after=entered[1])
    failed = history.add("MapIterationFailed")
    history.add("TaskStateExited", "Each", after=entered[0])
    history.add("TaskStateAborted", after=entered[2])
    history.add("MapStateFailed", after=failed)

    each = [("Each", "done"), ("Each", "Broken"), ("Each", "stopped")]
    assert history.outcomes() == [("Map", ""), *each]


def test_a_map_is_done_when_it_is_left() -> None:
    history = History()
    history.add("MapStateEntered", "Map")
    history.add("MapStateStarted")
    history.add("MapIterationStarted")
    history.add("PassStateEntered", "Each")
    history.add("PassStateExited", "Each")
    history.add("MapIterationSucceeded")
    history.add("MapStateSucceeded")
    history.add("MapStateExited", "Map")

    assert history.outcomes() == [("Map", "done"), ("Each", "done")]
