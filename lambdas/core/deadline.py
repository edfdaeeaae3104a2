"""When the current invocation has to end, for code that waits and is not handed Lambda's context.

An execution environment runs one invocation at a time, so there is one deadline for all of its threads.
"""

import time

from aws_lambda_powertools.utilities.typing import LambdaContext

# Where no handler has said how long there is.
_UNKNOWN_SECONDS = 60.0

# What is kept of the time to store what was done, and the most of an invocation that is kept for it.
STORE_SECONDS = 10.0
_STORE_SHARE = 0.3

_ends_at: float | None = None
_store_seconds = STORE_SECONDS


def begin(context: LambdaContext, until: float | None = None) -> None:
    """Notes how much time this invocation has; a handler calls it before what may wait.

    `until`: when the work has no use any more, in epoch seconds, if that is earlier than Lambda's end.
    """
    global _ends_at, _store_seconds  # noqa: PLW0603 - see above
    seconds = context.get_remaining_time_in_millis() / 1000
    _store_seconds = min(STORE_SECONDS, _STORE_SHARE * seconds)
    if until is not None:
        seconds = min(seconds, until - time.time())
    _ends_at = time.monotonic() + seconds


def seconds_left() -> float:
    """Until Lambda ends the invocation, or its work has no use any more."""
    return _UNKNOWN_SECONDS if _ends_at is None else _ends_at - time.monotonic()


def seconds_to_wait() -> float:
    """How long code may wait and still have the time to store what was done; negative where it is over."""
    return seconds_left() - _store_seconds
