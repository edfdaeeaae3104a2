"""The permission for the calls of one invocation: while it has time, they wait for the limit."""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from core import deadline
from core.calls.rates import HORIZON_US, LEASE_US, SECOND_US, Bucket, Limit, TokenBucket, now_us
from core.errors import RateLimited, is_transient

if TYPE_CHECKING:
    from core.calls.slots import Slots

# Where no token is in reach, a worker asks again after at most so long.
LONGEST_PAUSE_SECONDS = 15.0


@contextmanager
def _best_effort() -> Iterator[None]:
    """Where DynamoDB is throttled or not reached, calls wait longer, or are counted a little wrong.

    None fails.
    """
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise


class Permits:
    """The permission for the calls of one invocation; for its threads."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.calls = self.throttles = 0
        self.waited = 0.0
        self._bucket = TokenBucket(limit)
        # Tokens: when they fall due, and when they were leased, in microseconds.
        self._tokens: deque[tuple[int, int]] = deque()
        # One thread takes leases at a time, and waits for them; meanwhile the others tell what their calls
        # did.
        self._turn = threading.Lock()
        # Of each thread's call: when its token was leased.
        self._call = threading.local()
        self._lock = threading.Lock()
        self._leased_at = time.monotonic()
        self._leased = 0
        self._call_seconds = 0.0
        self._longest = 0.0

    @property
    def has_rate(self) -> bool:
        """Whether each call needs a token."""
        return self.limit.per_second is not None

    @property
    def state(self) -> Bucket:
        """The bucket as this invocation knows it."""
        return self._bucket.state

    def wait(self, wanted: int, threads: int) -> None:
        """Waits for the next call's token. Raises RateLimited where the invocation's time ends before.

        `wanted`: calls that are still to be made; `threads`: by how many threads.
        """
        if not self.has_rate:
            return
        began = time.monotonic()
        try:
            with self._turn:
                longest = HORIZON_US / SECOND_US
                while not self._tokens:
                    self._tokens.extend(self._lease(wanted, threads))
                    if not self._tokens:
                        # The more workers wait, the less often is one in reach, and the less often each asks.
                        self._pause(longest * random.uniform(0.25, 0.75))  # noqa: S311
                        longest = min(LONGEST_PAUSE_SECONDS, 1.5 * longest)
                due, self._call.leased_us = self._tokens.popleft()
            self._pause((due - now_us()) / SECOND_US)
        finally:
            with self._lock:
                self._count_wait(began)

    def slots(self) -> "Slots | None":
        """What calls that run at the same time are counted by; None where their number is not limited."""
        if self.limit.max_concurrency is None:
            return None
        # Imported here, since few functions have it.
        from core.calls.slots import Slots

        return Slots(self.limit.key["pk"], self.limit.max_concurrency)

    def wait_for(self, take: Callable[[], int]) -> int:
        """What `take` takes, when it is more than 0. Raises RateLimited as `wait` does."""
        began = time.monotonic()
        taken = 0
        while not taken:
            with _best_effort():
                taken = take()
            if not taken:
                self._pause(random.uniform(0.5, 1.5))  # noqa: S311
        with self._lock:
            self._count_wait(began)
        return taken

    def give_back(self) -> None:
        """Returns a token that is not needed, for the next call of this invocation."""
        if self.has_rate:
            self._tokens.appendleft((now_us(), now_us()))

    def called(self, seconds: float) -> None:
        """Counts a call that was answered."""
        with self._lock:
            self.calls += 1
            self._call_seconds += seconds
            self._longest = max(self._longest, seconds)

    def throttled(self) -> None:
        """The called service refused the call that this thread waited for last: the rate is lowered."""
        with self._lock:
            self.throttles += 1
            with _best_effort():
                self._bucket.cut(getattr(self._call, "leased_us", 0))

    def spare(self, calls: int) -> None:
        """Takes calls that are not needed out of the queue of those that were admitted."""
        if calls > 0:
            with _best_effort(), self._lock:
                self._bucket.give_back(calls)

    def settle(self) -> None:
        """Tells the table what it has not been told yet."""
        with _best_effort(), self._lock:
            self._bucket.settle(self._call_seconds / self.calls if self.calls else None)

    def _count_wait(self, began: float) -> None:
        seconds = time.monotonic() - began
        self.waited += seconds
        self._bucket.waited(seconds)

    def _lease(self, wanted: int, threads: int) -> list[tuple[int, int]]:
        """As many tokens as are used soon: calls may take long, and late ones would come in one burst.

        None of those that fall due when there is no more time: another worker can use them.
        """
        within_us = int(self._seconds_to_wait() * SECOND_US)
        if within_us <= 0:
            raise RateLimited(self.reason())
        now = time.monotonic()
        pace = self._leased / max(now - self._leased_at, 0.001)
        count = min(wanted, max(threads, int(LEASE_US / SECOND_US * pace)))
        due: list[int] = []
        with _best_effort(), self._lock:
            due = self._bucket.lease(count, within_us)
        self._leased_at, self._leased = time.monotonic(), len(due)
        leased_us = now_us()
        return [(each, leased_us) for each in due]

    def _seconds_to_wait(self) -> float:
        """How long a call may wait, and still be made in the invocation's time."""
        return deadline.seconds_to_wait() - self._longest

    def _pause(self, seconds: float) -> None:
        if seconds > self._seconds_to_wait():
            raise RateLimited(self.reason())
        if seconds > 0:
            time.sleep(seconds)

    def reason(self) -> str:
        """Why calls wait, for messages."""
        return f"{self.limit.name} allows {self.state}, for all queries together"
