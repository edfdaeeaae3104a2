"""One local stack, of the checkout's own template, for all tests of a session that ask for `stack`."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from stepflake import stack as stacks

ROOT = Path(__file__).parent.parent

# The name of the session's stack, which pytest-xdist's workers inherit from the session that started them.
_NAME_VARIABLE = "STEPFLAKE_SESSION_STACK"


def _quiet(_title: str) -> AbstractContextManager[None]:
    return nullcontext()


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[_NAME_VARIABLE] = f"test-{os.getpid()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        stacks.down(ROOT, os.environ[_NAME_VARIABLE])


@pytest.fixture(scope="session")
def stack() -> Iterator[stacks.Stack]:
    """The session's stack, or, to save its start, the running one that STEPFLAKE_TEST_STACK names."""
    if running := os.environ.get("STEPFLAKE_TEST_STACK"):
        yield stacks.Stack.local(running, ROOT)
        return
    name = os.environ[_NAME_VARIABLE]
    for ended in stacks.local_names(ROOT):  # of sessions that were killed
        if ended.startswith("test-") and not _is_alive(int(ended.removeprefix("test-"))):
            stacks.down(ROOT, ended)
    lock = ROOT / ".stepflake" / "tests.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the first worker brings it up, the others find it up
        local = stacks.up(ROOT, name, step=_quiet)
    yield local.stack


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
