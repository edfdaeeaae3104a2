import importlib

from stepflake_lambda import remote_function

notes = importlib.import_module("functions._notes")


@remote_function(rate_limit="60/minute")
def scarce(key: str, text: str) -> str:
    """A call of a service that allows one a second."""
    return str(notes.call(key, text))
