from stepflake_lambda import remote_function


@remote_function(on_error="null")
def even_or_null(n: int) -> int:
    """Raises for odd numbers, whose rows become null."""
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n
