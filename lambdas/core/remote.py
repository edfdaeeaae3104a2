"""Loads a remote function, and calls it with the arguments of rows."""

import importlib
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from core.catalog import Parameter, Signature
from core.errors import (
    ArgumentError,
    FunctionError,
    ResultError,
    TaskError,
    ThrottleError,
    TransientError,
    is_throttle,
    is_transient,
)
from core.exact_json import Json, dump_json
from core.shorten import shorten

# How many characters of a message an error keeps.
MESSAGE_CHARS = 500

Arguments = list[Json]


class ErrorText(str):
    """A row's answer that stands for its error, as on_error says. It is not kept for other calls."""

    __slots__ = ()


def load_function(name: str) -> Callable[..., Any]:
    """The function of functions/{name}.py: only that file is imported. Raises FunctionError."""
    try:
        module = importlib.import_module(f"functions.{name}")
    except Exception as error:
        raise FunctionError(_message(f"{name}: {type(error).__name__}: {error}")) from error
    function: Callable[..., Any] = getattr(module, name)
    return function


def call_rows(
    signature: Signature, function: Callable[..., Any], rows: Mapping[int, Arguments]
) -> tuple[dict[int, str], dict[int, TaskError]]:
    """One call of a vectorized function with these rows, or one call of another function for each row.

    `rows`: by their numbers in the batch. Returns the JSON texts of the rows, and the errors of those without
    one: TransientError where the row may be called again; else final, and rows after it may be missing.
    """
    if signature.vectorized:
        return _call_vectorized(signature, function, rows)
    texts: dict[int, str] = {}
    errors: dict[int, TaskError] = {}
    for number, row in rows.items():
        answer = call_row(signature, function, row, number)
        if isinstance(answer, str):
            texts[number] = answer
            continue
        errors[number] = answer
        if not isinstance(answer, TransientError):
            break
    return texts, errors


def call_row(
    signature: Signature, function: Callable[..., Any], row: Arguments, number: int
) -> str | TaskError:
    """The JSON text of one row, or its error, as `call_rows` has them."""
    try:
        value = function(*_convert(signature, row))
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return _failure(signature, error, number)
    return _encode(signature, value, number)


def _call_vectorized(
    signature: Signature, function: Callable[..., Any], rows: Mapping[int, Arguments]
) -> tuple[dict[int, str], dict[int, TaskError]]:
    answers: dict[int, str | TaskError] = {}
    arguments: dict[int, list[Any]] = {}
    for number, row in rows.items():
        try:
            arguments[number] = _convert(signature, row)
        except ArgumentError as error:
            answers[number] = _failure(signature, error, number)
    # Where a row fails the batch, a call would be made for nothing.
    if arguments and not any(isinstance(answer, TaskError) for answer in answers.values()):
        answers |= _call_columns(signature, function, arguments)
    texts = {number: answer for number, answer in answers.items() if isinstance(answer, str)}
    errors = {number: answer for number, answer in answers.items() if not isinstance(answer, str)}
    return texts, errors


def _call_columns(
    signature: Signature, function: Callable[..., Any], arguments: Mapping[int, list[Any]]
) -> dict[int, str | TaskError]:
    try:
        values = function(*(list(column) for column in zip(*arguments.values(), strict=True)))
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        return dict.fromkeys(arguments, _failure(signature, error, None))
    problem: str | None = None
    if not isinstance(values, list):
        problem = f"{signature.name} returned {type(values).__name__}; it must return a list"
    elif len(values) != len(arguments):
        problem = f"{signature.name} got {len(arguments)} rows and returned {len(values)}"
    if problem:
        return dict.fromkeys(arguments, ResultError(problem))
    return {
        number: (_failure if isinstance(value, Exception) else _encode)(signature, value, number)
        for number, value in zip(arguments, values, strict=True)
    }


def _failure(signature: Signature, error: Exception, row: int | None) -> str | TaskError:
    """A row's error as on_error says: null or an object; or the error of its Task, which names the row."""
    where = signature.name if row is None else f"{signature.name}, row {row}"
    is_refused = is_throttle(error)
    if (
        is_refused
        or isinstance(error, TransientError)
        or (signature.on_error == "fail" and is_transient(error))
    ):
        kind: type[TaskError] = ThrottleError if is_refused else TransientError
        message = f"{where}: {type(error).__name__}: {error}"
    elif signature.on_error == "null":
        return ErrorText("null")
    elif signature.on_error == "object":
        # It does not name its row, in which it is: equal rows have equal answers.
        return ErrorText(dump_json({"error": type(error).__name__, "cause": _message(str(error))}))
    elif isinstance(error, ArgumentError):
        kind, message = ArgumentError, f"row {row}: {error}"
    elif isinstance(error, ResultError):
        kind, message = ResultError, f"{where}: {error}"
    elif isinstance(error, TaskError):
        return error
    else:
        kind, message = FunctionError, f"{where}: {type(error).__name__}: {error}"
    failure = kind(_message(message))
    failure.__cause__ = error
    return failure


def _message(text: str) -> str:
    # A long one would exceed what Step Functions keeps, and half of a surrogate pair is not UTF-8.
    return shorten(text.encode("utf-8", "replace").decode("utf-8"), MESSAGE_CHARS)


def _encode(signature: Signature, value: Any, row: int) -> str | TaskError:
    try:
        _check_hint(signature.returns, value)
        text = dump_json(value, default=_encode_special)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        return _failure(signature, ResultError(f"the value it returned cannot be sent: {error}"), row)
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


def _convert(signature: Signature, row: Arguments) -> list[Any]:
    parameters = signature.parameters
    extra = len(row) - len(parameters)
    if extra > 0:
        parameters += parameters[-1:] * extra
    return [_convert_value(p, value) for p, value in zip(parameters, row, strict=False)]


def _convert_value(parameter: Parameter, value: Json) -> Any:
    if value is None or parameter.type == "Any":
        return value
    try:
        return _CONVERSIONS[parameter.type](value)
    except (TypeError, ValueError, ArithmeticError):
        # Without the value: an error's text may reach logs, a row's data must not.
        raise ArgumentError(
            f"{parameter.name} is {type(value).__name__}, which is not {parameter.type}"
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
