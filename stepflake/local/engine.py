"""The embedded AWS engine: one MiniStack process on a loopback port, with its IAM enforced.

An engine lives in a state directory of its own: `engine.json` (which process, which port), `engine.log` and
`tmp/`, so that two engines share no temporary files. It holds a lock on `engine.lock` for as long as it
lives. The kernel releases that lock however the process ends, so a process id is trusted, and killed, only
while the lock is held: a recycled id, or one from before a reboot, is not mistaken for the engine.
"""

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from stepflake.errors import UserError
from stepflake.local.faults import Faults
from stepflake.local.limits import Value

HOST = "127.0.0.1"
REGION = "us-east-1"

# Where the engine's limits and faults are read and changed (`engine_process.front`).
SETTINGS_PATH = "/_stepflake/settings"

# The environment variable from which the Lambdas' bootstrap reads to which engine they belong.
STATE_VARIABLE = "STEPFLAKE_STATE"

_START_SECONDS = 60
_STOP_SECONDS = 10
_LOG_TAIL_LINES = 20

# What the engine, and so every Lambda, has of the developer's environment. No AWS_*, PYTHON* or DOCKER_*:
# Lambdas have only the engine's credentials, and import what they would import on AWS.
_INHERITED = (
    "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy",
    "https_proxy",
)  # fmt: skip

# Engines that this process started: it has to wait for them when they end, or they stay as zombies.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


class EngineError(UserError):
    """The engine did not start, or stopped; the message names the log, and holds its tail."""


class PortTakenError(EngineError):
    """Something else listens on the port that was asked for."""


@dataclass(frozen=True)
class Settings:
    """What to change of an engine's limits and faults. None: `has_limits` and `faults` stay as they are."""

    has_limits: bool | None = None
    limits: Mapping[str, Value] = field(default_factory=dict)
    faults: Faults | None = None

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"limits": {name: asdict(value) for name, value in self.limits.items()}}
        if self.has_limits is not None:
            document["enabled"] = self.has_limits
        if self.faults is not None:
            document["faults"] = asdict(self.faults)
        return document


@dataclass(frozen=True)
class Engine:
    """A running engine. `port`: of all its services, on the loopback interface."""

    state: Path
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        return self.state / "engine.log"

    @classmethod
    def find(cls, state: Path) -> Self | None:
        """The engine that runs in `state`, or None; then the Lambdas of an earlier one have been killed."""
        if not _is_locked(state):
            _kill_lambdas(state)
            return None
        try:
            known = json.loads((state / "engine.json").read_text())
        except FileNotFoundError:
            return None
        return cls(state, known["pid"], known["port"])

    @classmethod
    def start(
        cls, state: Path, *, port: int | None = None, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Starts an engine in `state` and waits until it answers. `port`: a free one where none is named.

        `environment`: other settings of the engine, for tests. Raises EngineError.
        """
        if port is not None:
            _check_free(port)
        attempts = 1 if port is not None else 3  # a free port can be taken between finding and using it
        while True:
            attempts -= 1
            engine = cls._spawn(state, port or _free_port(), environment or {})
            try:
                engine._wait_until_healthy()
            except EngineError:
                engine.stop()
                if attempts == 0 or "already in use" not in engine.log.read_text(errors="replace"):
                    raise
            except BaseException:
                engine.stop()
                raise
            else:
                return engine

    @classmethod
    def _spawn(cls, state: Path, port: int, environment: Mapping[str, str]) -> Self:
        temporary = state / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        variables = {**_environment(state, port), **environment}
        with (state / "engine.lock").open("w") as lock, (state / "engine.log").open("wb") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                [sys.executable, "-m", "stepflake.local.engine_process"],
                env=variables,
                cwd=temporary,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock.fileno()],
                # A session of its own: Ctrl-C in the terminal reaches only `up`, which stops the engine, and
                # the Lambdas are in its process group, so that one signal ends all.
                start_new_session=True,
            )
        engine = cls(state, process.pid, port)
        _children[engine.pid] = process
        (state / "engine.json").write_text(
            json.dumps({"pid": engine.pid, "port": engine.port, "url": engine.url})
        )
        return engine

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_healthy():
            if not self.is_alive():
                raise EngineError(f"The engine ended while it started.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise EngineError(f"The engine does not answer on {self.url}.\n{self.log_tail()}")
            time.sleep(0.05)

    def is_alive(self) -> bool:
        return _is_locked(self.state)

    def is_healthy(self) -> bool:
        """Whether it answers its health check."""
        try:
            return self._request("GET", "/_ministack/health")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def configure(self, settings: Settings) -> None:
        """Changes its limits and faults, while it runs. Raises EngineError."""
        self._settings("PUT", json.dumps(settings.to_json()))

    def settings(self) -> dict[str, Any]:
        """`enabled`, `limits` (as `Account.report` has them) and `faults`. Raises EngineError."""
        return self._settings("GET")

    def _settings(self, method: str, body: str | None = None) -> dict[str, Any]:
        try:
            status, answer = self._request(method, SETTINGS_PATH, body)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"The engine does not answer on {self.url}: {error}") from error
        if status != http.HTTPStatus.OK:
            raise EngineError(f"The engine refused {method} {SETTINGS_PATH}: {answer.decode()}")
        document: dict[str, Any] = json.loads(answer)
        return document

    def _request(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def log_tail(self) -> str:
        """The last lines of its log, and where the rest is."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([*lines[-_LOG_TAIL_LINES:], f"The engine's log: {self.log}"])

    def stop(self) -> None:
        """Kills the engine and its Lambdas, and waits until they have ended; it has nothing to save."""
        if self.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
            _wait_until(lambda: not self.is_alive(), f"The engine (process {self.pid}) can't be killed.")
        if child := _children.pop(self.pid, None):
            child.wait()
        _kill_lambdas(self.state)


def _environment(state: Path, port: int) -> dict[str, str]:
    temporary = str(state / "tmp")
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
        "AUTH": "true",
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "MINISTACK_REGION": REGION,
        # Handlers inherit it: their boto3 clients call this engine.
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "NO_PROXY": f"{HOST},localhost",
        # Caches, and what Lambdas write to their temporary directory; deleted with the stack.
        "TMPDIR": temporary,
        "HOME": temporary,
        "STATE_DIR": f"{temporary}/state",
        "S3_DATA_DIR": f"{temporary}/s3",
        # As on Lambda.
        "TZ": "UTC",
        "LANG": "C.UTF-8",
        # A POST that waits for its rows holds a thread, and its rows need others.
        "MINISTACK_WORKER_THREADS": "256",
        "LOG_LEVEL": "WARNING",
        # Nothing outside of this directory: no fixed ports, no containers.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",
        STATE_VARIABLE: str(state),
    }


def _is_locked(state: Path) -> bool:
    try:
        with (state / "engine.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTakenError(
                f"Port {port} can't be used ({error.strerror}); name another --port, or none for a free one."
            ) from error


def _lambda_processes(state: Path) -> list[int]:
    """The Lambda processes of `state`'s engine, which can outlive one that was killed.

    Their last argument is the directory (see the bootstrap in build.py).
    """
    listing: list[tuple[int, str]] = []
    if Path("/proc/self/cmdline").exists():
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                listing.append((int(entry.name), (entry / "cmdline").read_text().replace("\0", " ").strip()))
            except (OSError, UnicodeDecodeError):
                continue  # it ended meanwhile, or may not be read
    else:
        output = subprocess.run(
            ["/bin/ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True
        )
        for line in output.stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            listing.append((int(pid), command.strip()))
    return [
        pid for pid, command in listing if " -m awslambdaric " in command and command.endswith(f" {state}")
    ]


def _kill_lambdas(state: Path) -> None:
    for pid in _lambda_processes(state):
        try:
            # The group was the engine's: what the Lambdas started is in it too.
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    _wait_until(lambda: not _lambda_processes(state), f"Lambda processes of {state} can't be killed.")


def _wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise EngineError(otherwise)
        time.sleep(0.01)
