import importlib
from typing import Any

from stepflake_lambda import service


@service(rate_limit="8/second", reuse="30 minutes")
def rationed(document: dict[str, Any]) -> Any:
    """A call of a service that allows 8 a second, and whose results are kept."""
    return importlib.import_module("functions._notes").call(document["key"], document["text"])
