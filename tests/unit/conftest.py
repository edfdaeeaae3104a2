"""AWS in memory in place of AWS, for all tests of the Lambdas."""

import importlib
import io
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import hypothesis
import pytest

import functions
from batch import api, collect, initiate, poll, process, record_run, waits
from core import clients, deadline, patience
from core.calls import documents, permits, rates, reuse, rows, slots
from core.calls.versions import code_version
from core.catalog import read_catalog
from core.settings import settings
from fan_out import tasks, work
from ingest import ingestion
from tests.unit.fake_aws import CONTEXT, ENVIRONMENT, FakeAws

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

Deploy = Callable[..., None]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """AWS, the Lambdas' environment, and a clock for code that waits or checks leases."""
    fake = FakeAws()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "client", fake.client)
    waiting = (api, process, record_run, waits, deadline, patience, tasks, work, ingestion)
    for module in (*waiting, documents, permits, rates, reuse, rows, slots):
        monkeypatch.setattr(module, "time", fake.clock)
    _make_cold()
    # Code that waits ends with its invocation; where none has begun, it would wait for ever on this clock.
    deadline.begin(CONTEXT)
    yield fake
    _make_cold()


def _make_cold() -> None:
    """Forgets what an execution environment keeps from one invocation to the next."""
    clients._clients.clear()
    initiate.waits._learned.clear()
    poll.waits._learned.clear()
    settings.cache_clear()
    code_version.cache_clear()
    deadline._ends_at = None
    tasks._load_documents.cache_clear()


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """What the handlers have logged so far in this test, as text."""
    stream = io.StringIO()
    handlers = {each.logger.registered_handler for each in (collect, initiate, poll, process)}
    assert all(isinstance(handler, logging.StreamHandler) for handler in handlers)
    before = [(handler, handler.setStream(stream)) for handler in handlers]
    yield stream.getvalue
    for handler, earlier in before:
        handler.setStream(earlier)


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """`deploy(name='source', ...)`: these remote functions are deployed, and no others."""

    def write(**sources: str) -> None:
        for name, source in sources.items():
            monkeypatch.delitem(sys.modules, f"functions.{name}", raising=False)
            importlib.invalidate_caches()
            (tmp_path / f"{name}.py").write_text(
                "from stepflake_lambda import remote_function\n\n" + textwrap.dedent(source)
            )

    for module in (api, process, ingestion):
        monkeypatch.setattr(module, "read_catalog", lambda: read_catalog(tmp_path))
    monkeypatch.setattr(rows, "FUNCTIONS_DIR", tmp_path)
    monkeypatch.setattr(functions, "__path__", [str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write
