from typing import Any

from stepflake_lambda import remote_function


@remote_function()
def wrong_type(value: Any) -> int:
    """Returns what it gets, which need not be the int that its hint promises."""
    return value  # type: ignore[no-any-return]
