"""JSON whose numbers keep all their digits, both ways. Pure: no AWS."""

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

import simplejson

from core.shorten import shorten

Json = Any

# The largest double has 309 digits before the point: a number with as many may exceed it.
DOUBLE_DIGITS = 309

# How many characters of a number an error shows.
SHOWN_CHARS = 40

# Finds runs of digits 20 times as fast as a regular expression.
_DIGITS_TO_ZEROS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))

_LONG_NUMBER = b"0" * DOUBLE_DIGITS


def parse_json(text: str) -> Json:
    """JSON whose numbers keep their digits: int, or Decimal. Raises ValueError, which says where.

    A number too large for a double is refused: most readers of the JSON would make it Infinity.
    """
    return simplejson.loads(
        text, parse_int=_parse_int, parse_float=_parse_decimal, parse_constant=_refuse_constant
    )


def dump_json(value: Json, default: Callable[[Any], Any] | None = None) -> str:
    """Compact JSON with all digits. Raises ValueError or TypeError for what JSON cannot carry."""
    text: str = _encoder(default).encode(value)
    # simplejson writes Decimal("NaN") and Decimal("1E+400") without an error; parsing the text raises it.
    if "NaN" in text or "Infinity" in text or "E+" in text or _has_long_number(text):
        parse_json(text)
    return text


@cache
def _encoder(default: Callable[[Any], Any] | None) -> simplejson.JSONEncoder:
    # One for all rows: simplejson.dumps makes a new one for each call, which takes longer than the encoding.
    return simplejson.JSONEncoder(
        separators=(",", ":"),
        ensure_ascii=False,
        use_decimal=True,
        allow_nan=False,
        namedtuple_as_object=False,
        encoding=None,  # type: ignore[arg-type]  # bytes go to `default`: they are not text
        default=default,
    )


def _parse_int(literal: str) -> int:
    if len(literal) >= DOUBLE_DIGITS:
        _refuse_infinity(literal)
    return int(literal)


def _parse_decimal(literal: str) -> Decimal:
    try:
        number = Decimal(literal)
    except InvalidOperation:
        raise ValueError(
            f"the exponent of the number {shorten(literal, SHOWN_CHARS)} is out of range"
        ) from None
    if number.adjusted() >= DOUBLE_DIGITS - 1:
        _refuse_infinity(literal)
    return number


def _has_long_number(text: str) -> bool:
    if len(text) < DOUBLE_DIGITS:
        return False
    return _LONG_NUMBER in text.encode("utf-8", "surrogatepass").translate(_DIGITS_TO_ZEROS)


def _refuse_infinity(literal: str) -> None:
    if math.isinf(float(literal)):
        raise ValueError(f"the number {shorten(literal, SHOWN_CHARS)} would become Infinity in most readers")


def _refuse_constant(literal: str) -> None:
    raise ValueError(f"{literal} is not a JSON number")
