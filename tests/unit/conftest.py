"""What the tests of handlers need in place of AWS."""

import importlib
import io
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import functions
from batch import api, collect, initiate, poll, process, store
from core import executions, objects
from core.catalog import read_catalog
from core.settings import settings
from tests.unit.fake_aws import MACHINES, FakeAws

# How long an example takes says nothing on a machine that does other things as well.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

Deploy = Callable[..., None]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """S3, Step Functions, a clock and the Lambdas' environment; executions start, and run when told to."""
    fake = FakeAws()
    for name, value in {
        "BUCKET": "bucket",
        "TABLE": "table",
        "STATE_MACHINE_PREFIX": MACHINES,
        "POST_WAIT_SECONDS": "5",
        "GET_WAIT_SECONDS": "5",
        "DIAGNOSTICS": "true",
        "SENTIMENT_ENGINE": "vader",
        "SENTIMENT_LANGUAGE": "en",
    }.items():
        monkeypatch.setenv(name, value)
    for module in (store, objects):
        monkeypatch.setattr(module, "s3", lambda: fake.s3)
    monkeypatch.setattr(executions, "stepfunctions", lambda: fake.step_functions)
    monkeypatch.setattr(api, "time", fake.time)
    settings.cache_clear()
    yield fake
    settings.cache_clear()


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """What the handlers have logged so far in this test, as it stands in their log."""
    stream = io.StringIO()
    handlers = {each.logger.registered_handler for each in (collect, initiate, poll, process)}
    assert all(isinstance(handler, logging.StreamHandler) for handler in handlers)
    before = [(handler, handler.setStream(stream)) for handler in handlers]
    yield stream.getvalue
    for handler, earlier in before:
        handler.setStream(earlier)


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """`deploy(name='source', ...)`: these remote functions are there, and no others."""

    def write(**sources: str) -> None:
        for name, source in sources.items():
            monkeypatch.delitem(sys.modules, f"functions.{name}", raising=False)
            importlib.invalidate_caches()
            (tmp_path / f"{name}.py").write_text(
                "from stepflake_lambda import remote_function\n\n" + textwrap.dedent(source)
            )

    monkeypatch.setattr(api, "read_catalog", lambda: read_catalog(tmp_path))
    monkeypatch.setattr(process, "read_catalog", lambda: read_catalog(tmp_path))
    monkeypatch.setattr(functions, "__path__", [str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write
