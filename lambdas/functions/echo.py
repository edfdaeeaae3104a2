from typing import Any

from stepflake_lambda import remote_function


@remote_function(diagnostic=True)
def echo(*arguments: Any) -> list[Any]:
    """Returns its arguments as an array, to see what arrives."""
    return list(arguments)
