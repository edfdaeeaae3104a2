import os
import tempfile
import time
from pathlib import Path

from core.errors import TransientError
from stepflake_lambda import remote_function


@remote_function(chunk_rows=2)
def attempts(key: str, how: str, times: int) -> int:
    """Counts how often it was called for `key`; before it answers, it fails so many times.

    `how`: "transient", "raise", "exit", "kill" or "hang". The count is in a file, which all processes of the
    local engine's Lambdas see.
    """
    count = _count(key)
    if count <= times:
        _go_wrong(how)
    return count


def _count(key: str) -> int:
    with (Path(tempfile.gettempdir()) / f"attempts-{key}").open("ab") as calls:
        calls.write(b".")
        return calls.tell()


def _go_wrong(how: str) -> None:
    if how == "transient":
        raise TransientError("busy")
    if how == "exit":
        raise SystemExit(3)
    if how == "kill":
        os._exit(3)
    if how == "hang":
        time.sleep(60)
    raise ValueError("the thirteenth row of thirteen")
