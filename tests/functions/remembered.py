import importlib

from stepflake_lambda import remote_function

notes = importlib.import_module("functions._notes")


@remote_function(
    rate_limit="60/second", concurrency=2, on_error="object", deduplicate=True, reuse="30 minutes"
)
def remembered(key: str, text: str) -> str | None:
    """A call whose result is kept."""
    answer: str | None = notes.call(key, text)
    return answer
