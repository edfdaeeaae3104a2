import time

from stepflake_lambda import remote_function


@remote_function(reuse="1 day")
def ten_ms_reused(n: int) -> int:
    """Takes 10 ms for a row whose result is not kept."""
    time.sleep(0.01)
    return n
