import importlib

from stepflake_lambda import remote_function

notes = importlib.import_module("functions._notes")


@remote_function(max_concurrency=3, concurrency=2)
def narrow(key: str, text: str) -> str:
    """A call of a service that allows three at a time; each takes a moment."""
    return str(notes.call(key, text, seconds=0.1))
