"""What the engine's account has left of each limit, which faults are on, and how many requests were refused.

Read and changed from the event loop and from many threads.
"""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Any

from stepflake.local.faults import Faults
from stepflake.local.limits import LIMITS, Value

# Buckets that are full again are forgotten above this number: there is one for each prefix and partition.
_MAX_BUCKETS = 10_000


class _Bucket:
    """Tokens: `size` at most, `refill` more each second. What is known only afterwards may overdraw it."""

    def __init__(self, value: Value) -> None:
        self._tokens = value.size
        self._at = time.monotonic()

    def fill(self, value: Value) -> float:
        now = time.monotonic()
        self._tokens = min(value.size, self._tokens + (now - self._at) * (value.refill or 0))
        self._at = now
        return self._tokens

    def take(self, amount: float) -> None:
        self._tokens -= amount


class Account:
    """The limits and faults of one engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = {name: Value(limit.size, limit.refill) for name, limit in LIMITS.items()}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._allowed: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        # When the requests of the last second came, for each rate, and the most that there were.
        self._came: defaultdict[str, deque[float]] = defaultdict(deque)
        self._peaks: Counter[str] = Counter()
        self._calls: dict[str, int] = defaultdict(int)
        self.enabled = True
        self.faults = Faults()

    def configure(self, *, enabled: bool | None, values: Mapping[str, Value], faults: Faults | None) -> None:
        """Changes what is given; a bucket whose limit changes is full again, and its peak is 0."""
        with self._lock:
            if enabled is not None:
                self.enabled = enabled
            self._values.update(values)
            self._buckets = {key: b for key, b in self._buckets.items() if key[0] not in values}
            for name in values:
                self._peaks.pop(name, None)
                self._came.pop(name, None)
            if faults is not None:
                self.faults = faults
                self._calls.clear()

    def value(self, name: str) -> Value:
        """What a limit is set to; infinite where limits are off."""
        return self._values[name] if self.enabled else Value(float("inf"), None)

    def allows(self, name: str, key: str = "", amount: float = 1, *, count: bool = True) -> bool:
        """Takes tokens of a rate's bucket, if there are enough. `key`: of the bucket, such as a prefix's."""
        with self._lock:
            if not self.enabled:
                return True
            return self._take(name, key, amount, self._values[name], count=count)

    def allows_rate(self, name: str, key: str, rate: Value) -> bool:
        """Like `allows`, for a limit whose values are those of a resource, such as an API's stage."""
        with self._lock:
            return not self.enabled or self._take(name, key, 1, rate, count=True)

    def charge(self, name: str, key: str, amount: float) -> None:
        """Takes tokens that were used up already, such as those for an answer's size."""
        with self._lock:
            if self.enabled:
                self._bucket(name, key, self._values[name]).take(amount)

    def fits(self, name: str, amount: float) -> bool:
        """Whether `amount` is within a maximum."""
        with self._lock:
            if not self.enabled:
                return True
            fits = amount <= self._values[name].size
            (self._allowed if fits else self._refused)[name] += 1
            return fits

    def count(self, name: str, *, allowed: bool) -> None:
        """Counts a request that something else decided on."""
        with self._lock:
            (self._allowed if allowed else self._refused)[name] += 1

    def fail(self, name: str) -> None:
        """Counts a request of a rate to which a fault happened, so that the rate had no part in it."""
        with self._lock:
            if self.enabled:
                self._failed[name] += 1
                self._note(name)

    def wait(self, name: str) -> None:
        """Takes a token as soon as there is one, for what AWS delays. What waits counts as refused too."""
        if self.allows(name):
            return
        while not self.allows(name, count=False):
            time.sleep(1 / max(self.value(name).refill or 0, 1))
        self.count(name, allowed=True)

    def call_number(self, operation: str) -> int:
        """How many calls of this operation there were since the faults were set."""
        with self._lock:
            self._calls[operation] += 1
            return self._calls[operation]

    def report(self) -> list[dict[str, Any]]:
        """Each limit with its value, and how many requests it allowed and refused.

        Of a rate also how many were throttled or failed by a fault, and its peak: the most requests that came
        within one second since it was set.
        """
        with self._lock:
            return [
                {
                    "name": name,
                    "kind": limit.kind,
                    "size": self._values[name].size,
                    "refill": self._values[name].refill,
                    "allowed": self._allowed[name],
                    "refused": self._refused[name],
                    "failed": self._failed[name],
                    "peak": self._peaks[name],
                    "title": limit.title,
                    "adjustable": limit.adjustable,
                    "source": limit.source,
                }
                for name, limit in LIMITS.items()
            ]

    def _bucket(self, name: str, key: str, rate: Value) -> _Bucket:
        bucket = self._buckets.get((name, key))
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._buckets = {
                    (other, part): kept
                    for (other, part), kept in self._buckets.items()
                    if kept.fill(self._values.get(other, rate)) < self._values.get(other, rate).size
                }
            bucket = self._buckets[name, key] = _Bucket(rate)
        return bucket

    def _take(self, name: str, key: str, amount: float, rate: Value, *, count: bool) -> bool:
        bucket = self._bucket(name, key, rate)
        # What is larger than the whole bucket passes when it is full, and leaves it overdrawn.
        allowed = bucket.fill(rate) >= min(amount, rate.size) and rate.size > 0
        if allowed:
            bucket.take(amount)
        if count:
            (self._allowed if allowed else self._refused)[name] += 1
            self._note(name)
        return allowed

    def _note(self, name: str) -> None:
        came, now = self._came[name], time.monotonic()
        came.append(now)
        while came[0] <= now - 1:
            came.popleft()
        self._peaks[name] = max(self._peaks[name], len(came))


ACCOUNT = Account()
