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

# So often a target has one wait of full length: what was slow may be quick by now.
TRIAL_SECONDS = 60.0

# The least recently added one is forgotten; a GET may name anything.
MAX_TARGETS = 100

Target = tuple[str, str]
T = TypeVar("T")


@dataclass
class _Learnt:
    """The length of a target's next wait, and when one of full length is due."""

    seconds: float
    trial_at: float


class Waits:
    """What an execution environment has learnt of the targets that its requests waited for.

    A target is a kind and a name, as in the URL.
    """

    def __init__(self) -> None:
        self._learnt: dict[Target, _Learnt] = {}

    def wait(self, target: Target, limit: float, wait: Callable[[float], T | None]) -> T | None:
        """The result of `wait(seconds)`; no result halves the target's next wait, and one doubles it.

        `limit`: the longest wait, in seconds. Nothing is learnt where `wait` raises.
        """
        seconds = self._seconds(target, limit)
        result = wait(seconds)
        if limit > SHORTEST_SECONDS:
            self._learn(target, seconds, limit, has_paid=result is not None)
        return result

    def _seconds(self, target: Target, limit: float) -> float:
        learnt = self._learnt.get(target)
        if learnt is None:
            return limit
        if time.monotonic() >= learnt.trial_at:
            learnt.trial_at = time.monotonic() + TRIAL_SECONDS
            return limit
        return min(learnt.seconds, limit)

    def _learn(self, target: Target, waited: float, limit: float, *, has_paid: bool) -> None:
        learnt = self._learnt.get(target)
        if has_paid and waited * 2 >= limit:
            self._learnt.pop(target, None)
        elif has_paid and learnt:
            learnt.seconds = waited * 2
        elif learnt:
            # After a trial in vain, the waits stay as short as they were.
            learnt.seconds = max(SHORTEST_SECONDS, min(learnt.seconds, waited / 2))
        elif not has_paid:
            if len(self._learnt) >= MAX_TARGETS:
                del self._learnt[next(iter(self._learnt))]
            trial_at = time.monotonic() + TRIAL_SECONDS
            self._learnt[target] = _Learnt(max(SHORTEST_SECONDS, waited / 2), trial_at)
