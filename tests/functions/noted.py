import importlib
from typing import Any

from stepflake_lambda import remote_function


@remote_function()
def noted(key: str) -> list[Any]:
    """What calls noted under `key`: {"called": text, "at": epoch seconds}, and "answered" at their end."""
    notes: list[Any] = importlib.import_module("functions._notes").read(key)
    return notes
