"""The engine process: its state directory, and its end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepflake.local.engine import Engine, EngineError, PortTakenError, _environment


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine.start(tmp_path / "state")
    yield engine
    engine.stop()


@pytest.fixture
def bystander() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_engine_is_found_until_it_stops(engine: Engine) -> None:
    assert engine.is_healthy()
    assert Engine.find(engine.state) == engine
    engine.stop()
    assert not engine.is_alive()
    assert not engine.is_healthy()
    assert Engine.find(engine.state) is None
    engine.stop()


def test_killed_engine_is_not_running(engine: Engine) -> None:
    os.kill(engine.pid, signal.SIGKILL)
    os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)
    assert Engine.find(engine.state) is None


def test_recycled_process_id_is_not_taken_for_the_engine(
    tmp_path: Path, bystander: "subprocess.Popen[bytes]"
) -> None:
    (tmp_path / "engine.lock").touch()
    (tmp_path / "engine.json").write_text(json.dumps({"pid": bystander.pid, "port": 1}))
    assert Engine.find(tmp_path) is None
    Engine(tmp_path, bystander.pid, 1).stop()
    assert bystander.poll() is None


def test_directory_without_an_engine(tmp_path: Path) -> None:
    assert Engine.find(tmp_path / "none") is None


def test_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"Port {port} can't be used .* --port"):
            Engine.start(tmp_path, port=port)
    engine = Engine.start(tmp_path, port=port)
    assert engine.url == f"http://127.0.0.1:{port}"
    engine.stop()


def test_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="ended while it started") as error:
        Engine.start(tmp_path, environment={"GATEWAY_PORT": "many"})
    assert "many" in str(error.value)
    assert str(tmp_path / "engine.log") in str(error.value)
    assert Engine.find(tmp_path) is None


def test_engine_does_not_get_the_developer_s_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    variables = _environment(tmp_path, 4566)
    assert [name for name in variables if name.startswith(("AWS_", "PYTHON"))] == ["AWS_ENDPOINT_URL"]
    assert variables["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert variables["BIND_HOST"] == "127.0.0.1"
    assert Path(variables["HOME"]).is_relative_to(tmp_path)
