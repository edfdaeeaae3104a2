"""When the current invocation has to end, for code that waits and is not handed Lambda's context.

An execution environment runs one invocation at a time, so there is one deadline for all of its threads.
"""

import time

from aws_lambda_powertools.utilities.typing import LambdaContext

# Where no handler has said how long there is.
_UNKNOWN_SECONDS = 60.0

_ends_at: float | None = None


def begin(context: LambdaContext) -> None:
    """Notes how much time this invocation has; a handler calls it before what may wait."""
    global _ends_at  # noqa: PLW0603 - see above
    _ends_at = time.monotonic() + context.get_remaining_time_in_millis() / 1000


def seconds_left() -> float:
    """Until Lambda ends the invocation."""
    return _UNKNOWN_SECONDS if _ends_at is None else _ends_at - time.monotonic()
