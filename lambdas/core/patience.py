"""Attempts again at what failed for a reason that passes, while the invocation has time."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from core import deadline
from core.errors import RateLimited, ThrottleError, TransientError, is_transient

T = TypeVar("T")

# Attempts at one call in an invocation; the machine's Retry has further ones, later. Where 30 % of the calls
# fail, one call of 1,400 needs more.
ATTEMPTS = 6

# A pause is drawn from 0 to a bound, which doubles from the first to the longest: those who were refused do
# not come back together, and what is free again is used soon.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 4.0


class Patience:
    """The attempts at one call. A throttle is no attempt: it lasts as long as others call too."""

    def __init__(self) -> None:
        self._attempts = self._pauses = 0

    def bear(self, error: TransientError, *, is_paced: bool = False) -> None:
        """Pauses before the next attempt. Raises the error after the last one, and where no time is left.

        `is_paced`: the next attempt waits for a limit, so that a throttle needs no pause. A throttle without
        time is RateLimited.
        """
        is_throttle = isinstance(error, ThrottleError)
        self._attempts += not is_throttle
        if self._attempts == ATTEMPTS:
            raise error
        if is_throttle and is_paced:
            return
        # The exponent is bounded too: there can be thousands of pauses.
        bound = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._pauses, 10))
        seconds = random.uniform(0, bound)  # noqa: S311
        self._pauses += 1
        if seconds > deadline.seconds_to_wait():
            if is_throttle:
                raise RateLimited(str(error)) from error
            raise error
        time.sleep(seconds)


def persist(action: Callable[[], T]) -> T:
    """The result of storing what was computed, with more attempts than a client makes: it was paid for.

    Raises what the last attempt raises, and at once what a further one does not avoid.
    """
    patience = Patience()
    while True:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
            try:
                patience.bear(TransientError(str(error)))
            except TransientError:
                raise error from None
