import importlib

from stepflake_lambda import remote_function

# It is deployed only with the tests' own functions.
notes = importlib.import_module("functions._notes")


@remote_function(rate_limit="40/second", calls="limited", concurrency=4)
def limited(key: str, text: str) -> str:
    """A call of a service that allows 40 a second; noted under `key`."""
    return str(notes.call(key, text))
