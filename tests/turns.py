"""A test that breaks something which all share, and tests that need it whole, take turns.

The integration tests run in two processes on one stack.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = Path(__file__).parent.parent / ".stepflake" / "tests-turns.lock"


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile no test runs that has its turn `together` with others."""
    yield from _locked(fcntl.LOCK_EX)


@contextmanager
def together() -> Iterator[None]:
    """Meanwhile no test runs `alone`."""
    yield from _locked(fcntl.LOCK_SH)


def _locked(kind: int) -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, kind)
        yield
