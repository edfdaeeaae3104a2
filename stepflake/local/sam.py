"""The `sam` command, run for a local stack: without the user's settings, credentials and telemetry."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from stepflake.local.engine import REGION, Engine
from stepflake.stack import ACCESS_KEY, SECRET_KEY, StackError


class EngineDiedError(StackError):
    """The engine ended while a command needed it."""


def run_sam(cache: Path, arguments: list[str], engine: Engine | None = None) -> str:
    """Runs one `sam` command and returns what it printed.

    Raises StackError with that where the command fails, EngineDiedError where the engine ends meanwhile.
    """
    log = (engine.state if engine else cache) / f"sam-{arguments[0]}.log"
    variables = _environment(cache / "sam", engine)
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "samcli", *arguments],
            cwd=cache,  # sam stores what it downloads in .aws-sam there
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that Ctrl-C ends it below, with all that it started
        )
        try:
            while _is_running(process) and (engine is None or engine.is_alive()):
                pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(errors="replace")
    if process.returncode:
        if engine and not engine.is_alive():
            raise EngineDiedError(f"The engine ended during sam {arguments[0]}.\n{engine.log_tail()}")
        raise StackError(f"sam {arguments[0]} failed; all of its output: {log}\n{_error_of(text)}")
    return text


def _environment(settings: Path, engine: Engine | None) -> dict[str, str]:
    settings.mkdir(parents=True, exist_ok=True)
    # sam looks for a newer version of itself unless it did so recently.
    (settings / "metadata.json").write_text(
        json.dumps({"telemetryEnabled": False, "lastVersionCheck": time.time()})
    )
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYTHON"))}
    variables |= {
        # sam builds with the first Python on it.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.2",
        "__SAM_CLI_APP_DIR": str(settings),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if engine:
        variables["AWS_ENDPOINT_URL"] = engine.url
        variables["NO_PROXY"] = variables["no_proxy"] = "127.0.0.1,localhost"
    return variables


def _is_running(process: "subprocess.Popen[bytes]") -> bool:
    """Waits up to 0.2 s for the process; whether it still runs then."""
    try:
        process.wait(0.2)
    except subprocess.TimeoutExpired:
        return True
    return False


def _error_of(text: str) -> str:
    """The error in sam's output: from its last `Error:` on, else its last lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    starts = [
        index for index, line in enumerate(lines) if line.startswith(("Error:", "Build Failed", "Traceback"))
    ]
    return "\n".join(lines[starts[-1] :] if starts else lines[-10:])
