"""Rows of a file: CSV with a header, JSON Lines, or one JSON array of objects. Pure: no AWS.

Rows are read one after another, so that a file costs little more memory than its text. What cannot be read
raises RowError, which names the line.
"""

import csv
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import simplejson

from runtime import wire
from runtime.catalog import Parameter, Signature
from runtime.errors import ChunkError

Format = Literal["csv", "json"]

_CONTENT_TYPES: dict[str, Format] = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/json": "json",
    "application/jsonl": "json",
    "application/jsonlines": "json",
    "application/x-jsonlines": "json",
    "application/x-ndjson": "json",
}
_SUFFIXES: dict[str, Format] = {"csv": "csv", "json": "json", "jsonl": "json", "ndjson": "json"}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_SPACE = re.compile(r"[ \t\r\n]*")
_GZIP = b"\x1f\x8b"


class RowError(ChunkError):
    """A file whose rows cannot be read; the message names the line."""


@dataclass(frozen=True)
class Row:
    """One row. `line`: the line in which it begins, counted from 1. A CSV's values are text or None."""

    line: int
    columns: dict[str, wire.Json]


def find_format(content_type: str, key: str) -> Format | None:
    """How a file's rows are written, by its content type or else by its name; None for files without rows."""
    media = content_type.partition(";")[0].strip().lower()
    if media in _CONTENT_TYPES:
        return _CONTENT_TYPES[media]
    return _SUFFIXES.get(key.lower().removesuffix(".gz").rpartition(".")[2])


def decode(body: bytes, max_bytes: int) -> str:
    """A file's text. Gzip is told by its first bytes, a byte order mark is dropped.

    Raises RowError where it is not UTF-8, and where it unpacks to more than `max_bytes`.
    """
    if body.startswith(_GZIP):
        body = _unpack(body, max_bytes)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise RowError(f"line {line} is not UTF-8: it has the byte {body[error.start]:#04x}") from None


def read_rows(text: str, form: Format) -> Iterator[Row]:
    """The rows of a file, in order; empty lines are no rows. Raises RowError.

    JSON is an array of objects where the text begins with `[`, else an object on each line.
    """
    if form == "csv":
        return _read_csv(text)
    return _read_array(text) if text.startswith("[", _skip_space(text, 0)) else _read_json_lines(text)


def read_arguments(signature: Signature, form: Format, row: Row) -> list[wire.Json]:
    """A row's values for a function's parameters, by name; None where the row has none.

    A CSV's text becomes what the parameter's type asks for. Raises RowError.
    """
    if form == "json":
        return [row.columns.get(parameter.name) for parameter in signature.parameters]
    return [_from_text(parameter, row) for parameter in signature.parameters]


def _unpack(body: bytes, max_bytes: int) -> bytes:
    unpacked = bytearray()
    # A gzip may have several members, one behind the other.
    while body:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            unpacked += unpacker.decompress(body, max_bytes - len(unpacked) + 1)
        except zlib.error as error:
            raise RowError(f"the file cannot be unpacked: {error}") from None
        if len(unpacked) > max_bytes:
            raise RowError(f"the file unpacks to more than {max_bytes:,} bytes; split it")
        if not unpacker.eof:
            raise RowError("the file cannot be unpacked: it ends in the middle")
        body = unpacker.unused_data
    return bytes(unpacked)


def _lines(text: str) -> Iterator[str]:
    # By \n alone: str.splitlines knows others, which may stand inside a JSON string or a CSV field.
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _read_csv(text: str) -> Iterator[Row]:
    csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(_lines(text), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RowError(f"line {line}: the row that begins there is not CSV: {error}") from None
        if not fields:
            continue
        if header is None:
            header = fields
            if "" in header or len(set(header)) < len(header):
                raise RowError(f"line {line}: the header needs a name for each column, each name once")
        elif len(fields) != len(header):
            raise RowError(f"line {line} has {len(fields)} fields and the header has {len(header)}")
        else:
            yield Row(line, {name: value or None for name, value in zip(header, fields, strict=True)})


def _read_json_lines(text: str) -> Iterator[Row]:
    for line, content in enumerate(_lines(text), 1):
        if content.strip(" \t\r\n"):
            yield Row(line, _object(content, line))


def _read_array(text: str) -> Iterator[Row]:
    # The decoder of the standard library finds where an element ends; wire.parse_json keeps its digits.
    decoder = json.JSONDecoder()
    position, line, counted = _skip_space(text, _skip_space(text, 0) + 1), 1, 0
    if text[position : position + 1] == "]":
        position += 1
    else:
        while True:
            line, counted = line + text.count("\n", counted, position), position
            try:
                _, end = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                raise RowError(f"line {error.lineno} is not JSON: {error.msg}") from None
            except (ValueError, RecursionError):
                end = len(text)  # refused with its line by what reads it next
            yield Row(line, _object(text[position:end], line))
            position = _skip_space(text, end)
            delimiter = text[position : position + 1]
            position = _skip_space(text, position + 1)
            if delimiter == "]":
                break
            if delimiter != ",":
                line += text.count("\n", counted, end)
                raise RowError(
                    f"line {line} is not JSON: the element that ends there needs a , or ] behind it"
                )
    if _skip_space(text, position) < len(text):
        line += text.count("\n", counted, position)
        raise RowError(f"line {line} is not JSON: something follows the end of the array")


def _object(text: str, line: int) -> dict[str, wire.Json]:
    try:
        value = wire.parse_json(text)
    except RecursionError:
        raise RowError(f"line {line} nests arrays or objects too deeply to be read") from None
    except simplejson.JSONDecodeError as error:
        # It counts lines from the start of what it got, which is one row.
        raise RowError(f"line {line + error.lineno - 1} is not JSON: {error.msg}") from None
    except ValueError as error:
        raise RowError(f"line {line} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError(f"line {line}: each row must be a JSON object, whose members are the columns")
    return value


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _from_text(parameter: Parameter, row: Row) -> wire.Json:
    text = row.columns.get(parameter.name)
    if text is None:
        return None
    kind = parameter.type
    where = f"line {row.line}: the column {parameter.name!r}"
    if kind in ("int", "float", "Decimal"):
        if not _NUMBER.fullmatch(text.strip()):
            raise RowError(f"{where} is not a number")
        return Decimal(text.strip())
    if kind == "bool":
        if text.strip().lower() not in ("true", "false"):
            raise RowError(f"{where} is neither true nor false")
        return text.strip().lower() == "true"
    if kind in ("dict", "list"):
        try:
            return wire.parse_json(text)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{where} is not JSON: {error}") from None
    return text
