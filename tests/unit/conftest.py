"""What the tests of handlers need in place of AWS."""

import importlib.util
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process
import pytest

from runtime import api, batches, executions
from runtime.catalog import read_catalog
from runtime.settings import settings
from tests.unit.fake_aws import MACHINES, FakeAws

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
    monkeypatch.setattr(batches, "s3", lambda: fake.s3)
    monkeypatch.setattr(executions, "stepfunctions", lambda: fake.step_functions)
    monkeypatch.setattr(api, "time", fake.time)
    settings.cache_clear()
    yield fake
    settings.cache_clear()


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """`deploy(name='source', ...)`: these remote functions are there, and no others."""

    def load(name: str) -> Callable[..., Any]:
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function: Callable[..., Any] = getattr(module, name)
        return function

    def write(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(
                "from runtime.remote import remote_function\n\n" + textwrap.dedent(source)
            )

    monkeypatch.setattr(api, "read_catalog", lambda: read_catalog(tmp_path))
    monkeypatch.setattr(process, "read_catalog", lambda: read_catalog(tmp_path))
    monkeypatch.setattr(process, "load_function", load)
    return write
