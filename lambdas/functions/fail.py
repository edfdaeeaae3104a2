from stepflake_lambda import remote_function


@remote_function(diagnostic=True)
def fail(message: str | None) -> str:
    """Raises an error with this message, to see how failures look in SQL."""
    raise RuntimeError(message)
