from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from stepflake_lambda import remote_function


@remote_function()
def typed(  # noqa: PLR0917
    a: str,
    b: int,
    c: float,
    d: Decimal,
    e: bool,
    f: date,
    g: time,
    h: datetime,
    i: bytes,
    j: dict[str, Any],
    k: list[Any],
    l: Any,  # noqa: E741
) -> list[Any]:
    """Returns, for an argument of each type, its Python type and itself."""
    return [[type(value).__name__, value] for value in (a, b, c, d, e, f, g, h, i, j, k, l)]
