import time

from stepflake_lambda import remote_function


# The rows wait in parallel, like rows that call another service.
@remote_function(diagnostic=True, concurrency=100)
def sleep(seconds: float | None) -> float | None:
    """Waits, and returns how many seconds it was asked to."""
    if seconds is not None:
        time.sleep(seconds)
    return seconds
