import importlib
from typing import Any


def unstable(document: dict[str, Any]) -> Any:
    """Goes wrong as `trouble` says: {"key", "how", "times"}, which see attempts; returns how often it ran."""
    trouble = document.get("trouble")
    if trouble is None:
        return 0
    # Beside the shipped functions only where this is deployed.
    attempts = importlib.import_module("functions.attempts").attempts
    return attempts(trouble["key"], trouble["how"], trouble["times"])
