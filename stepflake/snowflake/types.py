"""Snowflake's types: their values in JSON, as remote services get and return them, and in DuckDB.

https://docs.snowflake.com/en/sql-reference/external-functions-data-format
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlglot import exp

from stepflake.snowflake.client import ExternalFunctionError, dump_json

_T = exp.DataType.Type
_INTEGERS = {*exp.DataType.INTEGER_TYPES}
_SEMI_STRUCTURED = {_T.VARIANT, _T.OBJECT, _T.ARRAY}
_TIMES = {*exp.DataType.TEMPORAL_TYPES, _T.TIME}
_BINARY = {_T.BINARY, _T.VARBINARY}
_FLOATS = {_T.FLOAT, _T.DOUBLE}

# DuckDB's macro that turns any value into text as Snowflake does: a JSON string loses its quotes.
TEXT_MACRO = "__stepflake_text"
# DuckDB's macro for a value's JSON text; its own to_json() makes a DOUBLE of a DECIMAL.
JSON_MACRO = "__stepflake_json"


def data_type(snowflake_type: str) -> exp.DataType:
    """The parsed type."""
    return exp.DataType.build(snowflake_type, dialect="snowflake")


def is_semi_structured(kind: exp.DataType) -> bool:
    """Whether it is VARIANT, OBJECT or ARRAY without element types: JSON in DuckDB."""
    return kind.this in _SEMI_STRUCTURED and not kind.expressions


def duckdb_type(kind: exp.DataType) -> exp.DataType:
    """The DuckDB type that holds all values of a Snowflake type."""
    if is_semi_structured(kind):
        return exp.DataType.build("JSON", dialect="duckdb")
    if kind.this in _INTEGERS:
        return exp.DataType.build("DECIMAL(38, 0)", dialect="duckdb")
    if kind.this in exp.DataType.TEXT_TYPES:
        return exp.DataType.build("TEXT", dialect="duckdb")
    if kind.this in _FLOATS:
        return exp.DataType.build("DOUBLE", dialect="duckdb")
    return kind.copy()


def argument_json(value: exp.Expr, snowflake_type: str) -> exp.Expr:
    """The SQL expression for an argument's JSON text; NULL is `null`."""
    kind = data_type(snowflake_type)
    if is_semi_structured(kind):
        plain = value
    elif kind.this in exp.DataType.TEXT_TYPES:
        plain = text(value)
    elif kind.this in _TIMES:
        plain = text(exp.cast(value, duckdb_type(kind)))
    elif kind.this in _BINARY:
        plain = _call("hex", exp.cast(value, duckdb_type(kind)))
    else:
        plain = exp.cast(value, duckdb_type(kind))
    return _call("coalesce", _call(JSON_MACRO, plain), exp.Literal.string("null"))


def row_json(values: list[exp.Expr], types: list[str]) -> exp.Expr:
    """The SQL expression for the JSON text of a row's arguments: `["a",1]`."""
    parts: list[exp.Expr] = [exp.Literal.string("[")]
    for number, (value, kind) in enumerate(zip(values, types, strict=True)):
        if number:
            parts.append(exp.Literal.string(","))
        parts.append(argument_json(value, kind))
    return _call("concat", *parts, exp.Literal.string("]"))


def result_texts(values: Iterable[Any], function: str, snowflake_type: str) -> Iterator[str | None]:
    """JSON values as the texts that `from_text` reads. Raises ExternalFunctionError for a wrong type."""
    kind = data_type(snowflake_type)
    wanted = {_T.OBJECT: dict, _T.ARRAY: list}.get(kind.this) if is_semi_structured(kind) else None
    is_plain = not is_semi_structured(kind)
    for value in values:
        if wanted and value is not None and not isinstance(value, wanted):
            raise ExternalFunctionError(
                f"External function {function} returns {snowflake_type}, but the remote service's value is "
                f"{dump_json(value)[:200]}"
            )
        if value is None or (is_plain and isinstance(value, str)):
            yield value
        else:
            yield dump_json(value)


def from_text(column: exp.Expr, snowflake_type: str) -> exp.Expr:
    """The SQL expression for the value of this type whose text `result_texts` gave."""
    kind = data_type(snowflake_type)
    if kind.this in _BINARY:
        return _call("unhex", column)
    return exp.cast(column, duckdb_type(kind))


def text(value: exp.Expr) -> exp.Expr:
    """The SQL expression for a value as Snowflake's text."""
    return _call(TEXT_MACRO, value)


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=[argument.copy() for argument in arguments])
