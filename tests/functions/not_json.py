from typing import Any

from stepflake_lambda import remote_function


@remote_function()
def not_json(value: Any) -> Any:
    """Returns a set, which JSON cannot represent."""
    return {value}
