"""What the tests' functions and services call: it notes each call, in a file that all Lambdas see."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


def call(key: str, text: str, seconds: float = 0) -> str | None:
    """Answers `text` in capitals after so long; for "null", None.

    A text with "kill" ends the process at its first call; for one with "error", it raises.
    """
    _note(key, {"called": text, "at": time.time()})
    if "kill" in text and sum(note.get("called") == text for note in read(key)) == 1:
        os._exit(3)
    if "error" in text:
        raise ValueError(text)
    time.sleep(seconds)
    _note(key, {"answered": text, "at": time.time()})
    return None if "null" in text else text.upper()


def read(key: str) -> list[dict[str, Any]]:
    """What was noted under a key, in order: {"called", "at"} and {"answered", "at"}, in epoch seconds."""
    try:
        return [json.loads(line) for line in _file(key).read_text().splitlines()]
    except FileNotFoundError:
        return []


def _note(key: str, note: dict[str, Any]) -> None:
    with _file(key).open("a") as notes:
        notes.write(json.dumps(note) + "\n")


def _file(key: str) -> Path:
    return Path(tempfile.gettempdir()) / f"notes-{key}"
