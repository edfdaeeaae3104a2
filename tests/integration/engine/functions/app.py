"""Handlers of the Lambdas in these tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Unlucky(Exception):
    """What `fail` raises."""


def echo(event: Any, _context: Any) -> Any:
    return event


def pid(_event: Any, _context: Any) -> int:
    return os.getpid()


def fail(_event: Any, _context: Any) -> None:
    raise Unlucky("it rains")


def sleep(event: dict[str, Any], _context: Any) -> int:
    """Says that it began, where `mark` names a file, and takes so many seconds."""
    if "mark" in event:
        Path(event["mark"]).touch()
    time.sleep(event["seconds"])
    return os.getpid()


def wait(event: dict[str, Any], _context: Any) -> int:
    """Says that it began, and ends once the file `until` exists."""
    Path(event["mark"]).touch()
    while not Path(event["until"]).exists():
        time.sleep(0.01)
    return os.getpid()


def end(event: dict[str, Any], _context: Any) -> None:
    """Ends the process: by a signal, or with an exit status."""
    if "signal" in event:
        os.kill(os.getpid(), getattr(signal, event["signal"]))
    os._exit(event["status"])


def large(event: dict[str, int], _context: Any) -> str:
    return "x" * event["characters"]


def fill(event: dict[str, Any], _context: Any) -> str:
    """Takes so many megabytes, itself or in a child, until it is killed or the time is over."""
    code = f"import time; kept = bytearray({event['megabytes']} * 2**20); time.sleep({event['seconds']})"
    if event.get("child"):
        subprocess.run([sys.executable, "-c", code], check=True)
    else:
        exec(code)
    return "survived"


def api(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """Answers API Gateway with what it was sent."""
    parameters = event["queryStringParameters"] or {}
    if "mark" in parameters:
        Path(parameters["mark"]).touch()
    time.sleep(float(parameters.get("seconds", 0)))
    if "done" in parameters:
        Path(parameters["done"]).touch()
    body = f"{event['isBase64Encoded']} {len(event['body'] or '')} {event['headers'].get('content-encoding')}"
    return {
        "statusCode": 200,
        "body": "x" * int(parameters["characters"]) if "characters" in parameters else body,
    }
