"""Retry and Catch: which errors they match, and how long a retry waits.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# No wildcard stands for these. States.Runtime cannot be caught at all.
TERMINAL = frozenset({"States.DataLimitExceeded", "States.Runtime"})
TIMEOUTS = frozenset({"States.Timeout", "States.HeartbeatTimeout"})

# The defaults of a retrier: https://states-language.net/spec.html#retrying-after-error
INTERVAL_SECONDS, MAX_ATTEMPTS, BACKOFF_RATE = 1, 3, 2.0


def matches(error_equals: Sequence[str], error: str) -> bool:
    """Whether a retrier or catcher with this ErrorEquals is for an error of this name."""
    if error == "States.Runtime":
        return False
    if error in error_equals:
        return True
    if error == "States.HeartbeatTimeout" and "States.Timeout" in error_equals:
        return True
    if error in TERMINAL:
        return False
    return "States.ALL" in error_equals or ("States.TaskFailed" in error_equals and error not in TIMEOUTS)


def next_delay(retriers: Sequence[Mapping[str, Any]], error: str, retried: Counter[int]) -> float | None:
    """The seconds until the next try, or None where there is none. `retried`: how often each retrier did.

    The first retrier that matches decides, also when its attempts are used up. Counts the retry.
    """
    for number, retrier in enumerate(retriers):
        if matches(retrier.get("ErrorEquals", []), error):
            if retried[number] >= retrier.get("MaxAttempts", MAX_ATTEMPTS):
                return None
            retried[number] += 1
            return _delay(retrier, retried[number])
    return None


def _delay(retrier: Mapping[str, Any], number: int) -> float:
    backoff = float(retrier.get("BackoffRate", BACKOFF_RATE))
    try:
        seconds = retrier.get("IntervalSeconds", INTERVAL_SECONDS) * backoff ** (number - 1)
    except OverflowError:
        seconds = float("inf")
    seconds = min(seconds, retrier.get("MaxDelaySeconds", seconds))
    if retrier.get("JitterStrategy") == "FULL":
        return random.uniform(0, seconds)  # noqa: S311 - not for cryptography
    return float(seconds)
