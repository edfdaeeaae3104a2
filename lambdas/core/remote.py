"""Loads a remote function, and calls it with the arguments of rows."""

import importlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from core.catalog import Parameter, Signature
from core.errors import ArgumentError, FunctionError, ResultError, TaskError, TransientError, is_transient
from core.exact_json import Json, dump_json
from core.shorten import shorten

# How many characters of a message an error keeps.
MESSAGE_CHARS = 500

Arguments = list[Json]


def load_function(name: str) -> Callable[..., Any]:
    """The function of functions/{name}.py: only that file is imported. Raises FunctionError."""
    try:
        module = importlib.import_module(f"functions.{name}")
    except Exception as error:
        raise FunctionError(_message(f"{name}: {type(error).__name__}: {error}")) from error
    function: Callable[..., Any] = getattr(module, name)
    return function


def run_rows(
    signature: Signature, function: Callable[..., Any], rows: Sequence[Arguments], first_row: int
) -> list[str]:
    """Calls the function for all rows; returns a JSON text for each, in order.

    Raises FunctionError, ArgumentError or ResultError naming the row (where on_error is "fail"), and
    TransientError where a retry may help. `first_row`: the number of the first row in its batch.
    """
    if signature.vectorized:
        return _run_vectorized(signature, function, rows, first_row)
    if signature.concurrency > 1 and len(rows) > 1:
        return _run_in_parallel(signature, function, rows, first_row)
    return [_run_row(signature, function, row, n) for n, row in enumerate(rows, first_row)]


def _run_row(signature: Signature, function: Callable[..., Any], row: Arguments, number: int) -> str:
    try:
        value = function(*_convert(signature, row, number))
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return _failure(signature, error, number)
    return _encode(signature, value, number)


def _run_in_parallel(
    signature: Signature, function: Callable[..., Any], rows: Sequence[Arguments], first_row: int
) -> list[str]:
    pool = ThreadPoolExecutor(min(signature.concurrency, len(rows)), thread_name_prefix=signature.name)
    try:
        texts = pool.map(
            _run_row,
            itertools.repeat(signature),
            itertools.repeat(function),
            rows,
            itertools.count(first_row),
        )
        return list(texts)
    finally:
        # Where one row fails the batch, rows that have not started are cancelled.
        pool.shutdown(cancel_futures=True)


def _run_vectorized(
    signature: Signature, function: Callable[..., Any], rows: Sequence[Arguments], first_row: int
) -> list[str]:
    texts: dict[int, str] = {}
    arguments: dict[int, list[Any]] = {}
    for number, row in enumerate(rows, first_row):
        try:
            arguments[number] = _convert(signature, row, number)
        except ArgumentError as error:
            texts[number] = _failure(signature, error, number)
    if arguments:
        texts |= _call_vectorized(signature, function, arguments)
    return [texts[number] for number in sorted(texts)]


def _call_vectorized(
    signature: Signature, function: Callable[..., Any], arguments: dict[int, list[Any]]
) -> dict[int, str]:
    """The texts of rows by their numbers, from one call with a list for each parameter."""
    try:
        values = function(*(list(column) for column in zip(*arguments.values(), strict=True)))
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return {number: _failure(signature, error, None) for number in arguments}
    if not isinstance(values, list):
        raise ResultError(f"{signature.name} returned {type(values).__name__}; it must return a list")
    if len(values) != len(arguments):
        raise ResultError(f"{signature.name} got {len(arguments)} rows and returned {len(values)}")
    texts = {}
    for number, value in zip(arguments, values, strict=True):
        render = _failure if isinstance(value, Exception) else _encode
        texts[number] = render(signature, value, number)
    return texts


def _failure(signature: Signature, error: Exception, row: int | None) -> str:
    """Handles a row's error as on_error says: raises it, or returns the JSON text of null or of an object."""
    if not isinstance(error, TransientError):
        if signature.on_error == "null":
            return "null"
        if signature.on_error == "object":
            return dump_json({"error": type(error).__name__, "cause": _message(str(error))})
    if isinstance(error, TaskError) and not isinstance(error, TransientError):
        raise error
    where = signature.name if row is None else f"{signature.name}, row {row}"
    message = _message(f"{where}: {type(error).__name__}: {error}")
    raise (TransientError if is_transient(error) else FunctionError)(message) from error


def _message(text: str) -> str:
    # A long one would exceed what Step Functions keeps, and half of a surrogate pair is not UTF-8.
    return shorten(text.encode("utf-8", "replace").decode("utf-8"), MESSAGE_CHARS)


def _encode(signature: Signature, value: Any, row: int) -> str:
    try:
        _check_hint(signature.returns, value)
        text = dump_json(value, default=_encode_special)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        message = f"{signature.name}, row {row}: the value it returned cannot be sent: {error}"
        return _failure(signature, ResultError(_message(message)), row)
    return text


def _check_hint(hint: str, value: Any) -> None:
    if value is None or hint == "Any":
        return
    # bool is an int to Python, but not to SQL.
    if not isinstance(value, _RETURNED[hint]) or isinstance(value, bool) is not (hint == "bool"):
        raise TypeError(f"it is {type(value).__name__}, and the hint says {hint}")


def _encode_special(value: Any) -> Any:
    # All other types cross the wire as Snowflake casts them to a string: dates by ISO 8601, BINARY as hex.
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def _convert(signature: Signature, row: Arguments, number: int) -> list[Any]:
    parameters = signature.parameters
    extra = len(row) - len(parameters)
    if extra > 0:
        parameters += parameters[-1:] * extra
    return [_convert_value(p, value, number) for p, value in zip(parameters, row, strict=False)]


def _convert_value(parameter: Parameter, value: Json, row: int) -> Any:
    if value is None or parameter.type == "Any":
        return value
    try:
        return _CONVERSIONS[parameter.type](value)
    except (TypeError, ValueError, ArithmeticError):
        # Without the value: an error's text may reach logs, a row's data must not.
        raise ArgumentError(
            f"row {row}: {parameter.name} is {type(value).__name__}, which is not {parameter.type}"
        ) from None


def _whole(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != int(value):
        raise TypeError
    return int(value)


def _float(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        # FLOAT has three values that JSON has no number for; Snowflake sends them as strings.
        if value in ("NaN", "inf", "-inf"):
            return float(value)
        raise TypeError
    return float(value)


def _decimal(value: Json) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise TypeError
    return Decimal(value)


def _exactly(kind: type) -> Callable[[Json], Any]:
    def check(value: Json) -> Any:
        if type(value) is not kind:
            raise TypeError
        return value

    return check


_RETURNED: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float, Decimal),
    "Decimal": (int, float, Decimal),
    "bool": (bool,),
    "date": (date,),
    "time": (time,),
    "datetime": (datetime,),
    "bytes": (bytes, bytearray),
    "dict": (dict,),
    "list": (list, tuple),
}

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
