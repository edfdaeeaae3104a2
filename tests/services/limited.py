import importlib
from typing import Any

from stepflake_lambda import service


@service(rate_limit="40/second", calls="limited")
def limited(document: dict[str, Any]) -> Any:
    """A call of the service that the function `limited` calls too: its `text`, noted under `key`."""
    # It is deployed only with the tests' own functions.
    return importlib.import_module("functions._notes").call(document["key"], document["text"])
