"""One local stack, of the checkout's own template, for all tests of a session that ask for `stack`.

Besides the shipped remote functions and services it has those of tests/functions and tests/services,
tests/services/unstable.py takes part in the pipeline, and the workflow of docs/adding-a-workflow.md is added.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import urllib3

from stepflake.local import stack as stacks
from stepflake.local.checkout import local_names
from stepflake.local.engine import Settings
from stepflake.local.faults import Faults
from stepflake.local.limits import Value
from stepflake.local.stack import LocalStack
from stepflake.stack import Stack
from tests.caller import Caller
from tests.documented_workflow import add_workflow

ROOT = Path(__file__).parent.parent

# A copy of the checkout with the tests' own functions and services; it also keeps the builds.
PROJECT = ROOT / ".stepflake" / ".tests"

# Comprehend's quota as if it had been raised, so that what waits for it does not wait long.
COMPREHEND_PER_SECOND = 20
LIMITS = {"comprehend.BatchDetectSentiment": Value(COMPREHEND_PER_SECOND, COMPREHEND_PER_SECOND)}

# Short times, so that timeouts come soon.
PARAMETERS = {
    "ProcessTimeoutSeconds": "6",
    "PostWaitSeconds": "1",
    "GetWaitSeconds": "2",
    "ComprehendRateLimit": f"{COMPREHEND_PER_SECOND}/second",
}

# One of the pipeline's services in the template: the tests' own is inserted before it.
KEYWORDS_LINE = "              - keywords\n"

# The name of the session's stack, which pytest-xdist's workers inherit from the session that started them.
_NAME_VARIABLE = "STEPFLAKE_SESSION_STACK"


def _quiet(_title: str) -> AbstractContextManager[None]:
    return nullcontext()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault", action="append", default=[], metavar="KIND=SHARE", help="As of `stepflake up --fault`."
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[_NAME_VARIABLE] = f"test-{os.getpid()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        stacks.down(PROJECT, os.environ[_NAME_VARIABLE])


@pytest.fixture(scope="session")
def faults(request: pytest.FixtureRequest) -> Faults:
    """Those of the session's stack."""
    return Faults.parse(request.config.getoption("--fault"))


@pytest.fixture(scope="session")
def local(faults: Faults) -> LocalStack:
    """The session's stack, with its engine.

    If STEPFLAKE_TEST_STACK names one, it stays up for the next session.
    """
    name = os.environ.get("STEPFLAKE_TEST_STACK") or os.environ[_NAME_VARIABLE]
    lock = ROOT / ".stepflake" / "tests.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the first worker brings it up, the others use it
        for ended in local_names(PROJECT):  # of sessions that were killed
            pid = ended.removeprefix("test-")
            if pid.isdecimal() and not _is_alive(int(pid)):
                stacks.down(PROJECT, ended)
        copied_for = PROJECT / "copied-for"
        session = os.environ[_NAME_VARIABLE]
        # Once for a session: the first worker's tests may read the copy already.
        if not copied_for.exists() or copied_for.read_text() != session:
            _copy_project()
            copied_for.write_text(session)
        settings = Settings(limits=LIMITS, faults=faults)
        deployed = stacks.up(PROJECT, name, step=_quiet, parameters=PARAMETERS, settings=settings)
    # What state machines wait, in Wait states and before a Retry, takes a fiftieth of the time.
    answer = urllib3.request(
        "POST", f"{deployed.engine.url}/_ministack/config", json={"stepfunctions._SFN_WAIT_SCALE": 0.02}
    )
    assert json.loads(answer.data)["applied"]
    return deployed


@pytest.fixture(scope="session")
def stack(local: LocalStack) -> Stack:
    """The session's stack."""
    return local.stack


@pytest.fixture(scope="session")
def caller(stack: Stack, faults: Faults) -> Iterator[Caller]:
    """Raw HTTP to the session's stack."""
    caller = Caller(stack, repeats=faults.any)
    yield caller
    caller.close()


def _copy_project() -> None:
    PROJECT.mkdir(exist_ok=True)
    for name in ("template.yaml", "samconfig.toml"):
        shutil.copy2(ROOT / name, PROJECT)
    for name in ("lambdas", "statemachines"):
        shutil.rmtree(PROJECT / name, ignore_errors=True)
        shutil.copytree(ROOT / name, PROJECT / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("functions", "services"):
        for path in (ROOT / "tests" / name).glob("*.py"):
            shutil.copy2(path, PROJECT / "lambdas" / name)
    template = PROJECT / "template.yaml"
    text = template.read_text(encoding="utf-8")
    assert text.count(KEYWORDS_LINE) == 1
    template.write_text(
        text.replace(KEYWORDS_LINE, f"              - unstable\n{KEYWORDS_LINE}"), encoding="utf-8"
    )
    add_workflow(PROJECT)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
