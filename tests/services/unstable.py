import importlib
from typing import Any


def unstable(document: dict[str, Any]) -> Any:
    """Fails as `trouble` says: {"key", "how", "times"}, as of `attempts`; returns how often it ran."""
    trouble = document.get("trouble")
    if trouble is None:
        return 0
    # It is deployed only with the tests' own functions.
    attempts = importlib.import_module("functions.attempts").attempts
    return attempts(trouble["key"], trouble["how"], trouble["times"])
