"""Remote functions: the decorator that makes one, and running rows through it."""

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TypeVar

from runtime import wire
from runtime.catalog import DEFAULT_CHUNK_ROWS, OnError, Parameter, Signature
from runtime.errors import ArgumentError, ChunkError, FunctionError, ResultError, TransientError, is_transient

Function = TypeVar("Function", bound=Callable[..., Any])
Row = list[wire.Json]


def remote_function(
    *,
    vectorised: bool = False,
    chunk_rows: int = DEFAULT_CHUNK_ROWS,
    concurrency: int = 1,
    on_error: OnError = "fail",
    diagnostic: bool = False,
    sql_names: tuple[str, ...] | None = None,
) -> Callable[[Function], Function]:
    """Makes the function of a file in `functions/` callable from SQL. The function itself stays as it is.

    Its type hints are its SQL signature (runtime.catalog.SNOWFLAKE_TYPES); all arguments must be literals,
    as `runtime.catalog` reads them without running the file.

    vectorised:  it takes one list for each parameter and returns a list, an item for each row; an item that
                 is an exception is that row's error. Otherwise it is called once for each row.
    chunk_rows:  rows that one `process` call handles; what is finished is not repeated by a retry.
    concurrency: rows that wait side by side, in threads; for functions that call another service.
    on_error:    what an error in a row does: "fail" the batch, answer "null", or answer an "object"
                 {"error": type, "cause": message}.
    diagnostic:  deployed only where the template's Diagnostics parameter is true.
    sql_names:   the names it has in SQL, if not only its own.
    """
    if chunk_rows < 1 or concurrency < 1:
        raise ValueError("chunk_rows and concurrency are at least 1")
    if on_error not in ("fail", "null", "object"):
        raise ValueError(f'on_error is "fail", "null" or "object", not {on_error!r}')
    if vectorised and concurrency > 1:
        raise ValueError("a vectorised function gets all rows in one call: concurrency is its own affair")

    def mark(function: Function) -> Function:
        return function

    return mark


def load_function(name: str) -> Callable[..., Any]:
    """The function of functions/{name}.py: only that file is imported."""
    function: Callable[..., Any] = getattr(importlib.import_module(f"functions.{name}"), name)
    return function


def run_rows(
    signature: Signature, function: Callable[..., Any], rows: Sequence[Row], first_row: int
) -> list[str]:
    """Rows through a function: a JSON text for each, in order.

    Raises FunctionError, ArgumentError or ResultError naming the row (where on_error is "fail"), and
    TransientError where trying again may help. `first_row`: the number of the first row in its batch.
    """
    values: Iterable[Any]
    if signature.vectorised:
        values = _run_vectorised(signature, function, rows, first_row)
    elif signature.concurrency > 1 and len(rows) > 1:
        values = _run_side_by_side(signature, function, rows, first_row)
    else:
        values = (_run_row(signature, function, row, n) for n, row in enumerate(rows, first_row))
    return [_encode(signature, value, n) for n, value in enumerate(values, first_row)]


def _run_row(signature: Signature, function: Callable[..., Any], row: Row, number: int) -> Any:
    try:
        return function(*_convert(signature, row, number))
    except Exception as error:  # noqa: BLE001 - whatever a user's function raises has a decided outcome
        return _row_error(signature, error, number)


def _run_side_by_side(
    signature: Signature, function: Callable[..., Any], rows: Sequence[Row], first_row: int
) -> Iterator[Any]:
    pool = ThreadPoolExecutor(min(signature.concurrency, len(rows)), thread_name_prefix=signature.name)
    try:
        yield from pool.map(
            _run_row,
            itertools.repeat(signature),
            itertools.repeat(function),
            rows,
            itertools.count(first_row),
        )
    finally:
        # Where one row fails the batch, rows that have not begun need not begin.
        pool.shutdown(cancel_futures=True)


def _run_vectorised(
    signature: Signature, function: Callable[..., Any], rows: Sequence[Row], first_row: int
) -> list[Any]:
    values: list[Any] = [None] * len(rows)
    good: list[int] = []
    columns: list[list[Any]] = []
    for index, row in enumerate(rows):
        try:
            columns.append(_convert(signature, row, first_row + index))
        except ArgumentError as error:
            values[index] = _row_error(signature, error, first_row + index)
        else:
            good.append(index)
    if not good:
        return values
    try:
        returned = function(*(list(column) for column in zip(*columns, strict=True)))
    except Exception as error:  # noqa: BLE001 - whatever a user's function raises has a decided outcome
        for index in good:
            values[index] = _row_error(signature, error, None)
        return values
    if not isinstance(returned, list):
        raise ResultError(f"{signature.name} returned {type(returned).__name__}; it must return a list")
    if len(returned) != len(good):
        raise ResultError(f"{signature.name} got {len(good)} rows and returned {len(returned)}")
    for index, value in zip(good, returned, strict=True):
        is_error = isinstance(value, Exception)
        values[index] = _row_error(signature, value, first_row + index) if is_error else value
    return values


def _row_error(signature: Signature, error: Exception, row: int | None) -> Any:
    """What a row's error becomes, by the function's policy: raised, None, or an object."""
    if signature.on_error == "null":
        return None
    if signature.on_error == "object":
        return {"error": type(error).__name__, "cause": str(error)}
    if isinstance(error, ChunkError) and not isinstance(error, TransientError):
        raise error
    where = signature.name if row is None else f"{signature.name}, row {row}"
    message = f"{where}: {type(error).__name__}: {error}"
    raise (TransientError if is_transient(error) else FunctionError)(message) from error


def _encode(signature: Signature, value: Any, row: int) -> str:
    try:
        text = wire.dump_json(value, default=_encode_special)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        failure = ResultError(f"{signature.name}, row {row}: the value it returned is not JSON: {error}")
        return wire.dump_json(_row_error(signature, failure, row))
    return text


def _encode_special(value: Any) -> Any:
    # All other types cross the wire as Snowflake casts them to a string: dates by ISO 8601, BINARY as hex.
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _convert(signature: Signature, row: Row, number: int) -> list[Any]:
    parameters = signature.parameters
    extra = len(row) - len(parameters)
    if extra > 0:
        parameters += parameters[-1:] * extra
    return [_convert_value(p, value, number) for p, value in zip(parameters, row, strict=False)]


def _convert_value(parameter: Parameter, value: wire.Json, row: int) -> Any:
    if value is None or parameter.type == "Any":
        return value
    try:
        return _CONVERSIONS[parameter.type](value)
    except (TypeError, ValueError, ArithmeticError):
        # Without the value: an error's text may reach logs, a row's data must not.
        raise ArgumentError(
            f"row {row}: {parameter.name} is {type(value).__name__}, which is not {parameter.type}"
        ) from None


def _whole(value: wire.Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != int(value):
        raise TypeError
    return int(value)


def _float(value: wire.Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        # FLOAT has three values that JSON has no number for; Snowflake sends them as strings.
        if value in ("NaN", "inf", "-inf"):
            return float(value)
        raise TypeError
    return float(value)


def _decimal(value: wire.Json) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError
    return Decimal(value)


def _exactly(kind: type) -> Callable[[wire.Json], Any]:
    def check(value: wire.Json) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return check


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "str": _exactly(str),
    "int": _whole,
    "float": _float,
    "Decimal": _decimal,
    "bool": _exactly(bool),
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "datetime": datetime.fromisoformat,
    "bytes": bytes.fromhex,
    "dict": _exactly(dict),
    "list": _exactly(list),
}
