from typing import Any

from stepflake_lambda import remote_function


@remote_function(on_error="object", vectorized=True, chunk_rows=1000)
def even_or_object(n: list[int]) -> list[Any]:
    """Returns an error for odd numbers, whose rows become an object with it."""
    return [ValueError(f"{value} is odd") if value % 2 else value for value in n]
