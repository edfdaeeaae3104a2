import time

from stepflake_lambda import remote_function


@remote_function()
def ten_ms(n: int) -> int:
    """Takes 10 ms for a row, each time."""
    time.sleep(0.01)
    return n
