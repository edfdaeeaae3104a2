"""How long a request waits for its rows: as long as waiting pays for its function or workflow.

A Lambda that waits occupies concurrency. Where the account has none left and `process` is throttled, waits
end without rows, and the Lambdas that wait occupy what it needs. Where a function takes longer than a request
may wait, each wait is in vain too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

SHORTEST_SECONDS = 0.25

# What a wait in vain is divided by, and one that pays multiplied by: what is held for nothing goes first.
SHRINK, GROW = 4, 2

# So often a target has one wait of full length: what was slow may be quick by now.
TRIAL_SECONDS = 60.0

# The least recently added one is forgotten; a GET may name anything.
MAX_TARGETS = 100

Target = tuple[str, str]
T = TypeVar("T")


@dataclass
class _Learned:
    """The length of a target's next wait, and when one of full length is due."""

    seconds: float
    trial_at: float


class Waits:
    """What an execution environment has learned of the targets that its requests waited for.

    A target is a kind and a name, as in the URL.
    """

    def __init__(self) -> None:
        self._learned: dict[Target, _Learned] = {}

    def wait(self, target: Target, limit: float, wait: Callable[[float], T | None]) -> T | None:
        """The result of `wait(seconds)`; no result makes the target's next wait shorter, one longer.

        `limit`: the longest wait, in seconds. Nothing is learned where `wait` raises.
        """
        seconds = self._seconds(target, limit)
        result = wait(seconds)
        if limit > SHORTEST_SECONDS:
            self._learn(target, seconds, limit, has_paid=result is not None)
        return result

    def _seconds(self, target: Target, limit: float) -> float:
        learned = self._learned.get(target)
        if learned is None:
            return limit
        if time.monotonic() >= learned.trial_at:
            learned.trial_at = time.monotonic() + TRIAL_SECONDS
            return limit
        return min(learned.seconds, limit)

    def _learn(self, target: Target, waited: float, limit: float, *, has_paid: bool) -> None:
        learned = self._learned.get(target)
        if has_paid and waited * GROW >= limit:
            self._learned.pop(target, None)
        elif has_paid and learned:
            learned.seconds = waited * GROW
        elif learned:
            # After a trial in vain, the waits stay as short as they were.
            learned.seconds = max(SHORTEST_SECONDS, min(learned.seconds, waited / SHRINK))
        elif not has_paid:
            if len(self._learned) >= MAX_TARGETS:
                del self._learned[next(iter(self._learned))]
            trial_at = time.monotonic() + TRIAL_SECONDS
            self._learned[target] = _Learned(max(SHORTEST_SECONDS, waited / SHRINK), trial_at)
