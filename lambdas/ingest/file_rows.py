"""Rows of a file: CSV with a header, JSON Lines, or one JSON array of objects. Pure: no AWS.

Rows are read one after another, so that a file costs little more memory than its text. One row that cannot
be read rejects the whole file: it raises RowError, which names the line.
"""

import json
import re
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

import simplejson

from core.catalog import Parameter, Signature
from core.errors import TaskError
from core.exact_json import Json, dump_json, parse_json
from core.records import DatasetError, Row, read_csv, read_json_lines

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

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_GZIP = b"\x1f\x8b"


class RowError(TaskError):
    """A file whose rows cannot be read; the message names the line."""


def find_format(content_type: str, key: str) -> Format | None:
    """How a file's rows are written, by its content type or else by its name; None for files without rows."""
    media = content_type.partition(";")[0].strip().lower()
    if media in _CONTENT_TYPES:
        return _CONTENT_TYPES[media]
    return _SUFFIXES.get(key.lower().removesuffix(".gz").rpartition(".")[2])


def decode(body: bytes, max_bytes: int) -> str:
    """A file's text; gzip is recognized by its first bytes. A byte order mark is dropped.

    Raises RowError where it is not UTF-8, and where it unpacks to more than `max_bytes`.
    """
    if body.startswith(_GZIP):
        body = _unpack(body, max_bytes)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise RowError(f"line {line}: not UTF-8: byte {body[error.start]:#04x}") from None


def read_rows(text: str, form: Format) -> Iterator[Row]:
    """The rows of a file, in order; empty lines are no rows, and empty fields of a CSV are None.

    JSON is an array of objects where the text begins with `[`, else an object on each line. Raises RowError.
    """
    if form == "csv":
        rows = _read_csv(text)
    elif text.startswith("[", _skip_space(text, 0)):
        rows = _read_array(text)
    else:
        rows = _read_json_lines(text)
    # Text that was UTF-8 can have half of a surrogate pair only as an escape.
    return _whole_characters(rows) if _SURROGATE.search(text) else rows


def read_arguments(signature: Signature, form: Format, row: Row) -> list[Json]:
    """A row's values for a function's parameters, by name; None where the row has none.

    A CSV's text becomes what the parameter's type asks for. Raises RowError.
    """
    if form == "json":
        return [row.values.get(parameter.name) for parameter in signature.parameters]
    return [_from_text(parameter, row) for parameter in signature.parameters]


def _unpack(body: bytes, max_bytes: int) -> bytes:
    unpacked = bytearray()
    # A gzip file may have several members, one after another.
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
    # By \n only: str.splitlines also splits at characters that a JSON string or a CSV field may contain.
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _read_csv(text: str) -> Iterator[Row]:
    try:
        for record in read_csv("the file", _lines(text)):
            if not isinstance(record, Row):
                raise RowError(f"line {record.line}: {record.reason}")
            yield Row(
                record.source, record.line, {name: value or None for name, value in record.values.items()}
            )
    except DatasetError as error:
        raise RowError(str(error)) from None


def _read_json_lines(text: str) -> Iterator[Row]:
    for record in read_json_lines("the file", _lines(text)):
        if not isinstance(record, Row):
            raise RowError(f"line {record.line}: {record.reason}")
        yield record


def _read_array(text: str) -> Iterator[Row]:
    # The standard library's decoder finds where an element ends; parse_json keeps its digits.
    decoder = json.JSONDecoder()
    counted, line = 0, 1

    def line_of(position: int) -> int:
        nonlocal counted, line
        counted, line = position, line + text.count("\n", counted, position)
        return line

    position = _skip_space(text, _skip_space(text, 0) + 1)
    is_last = text.startswith("]", position)
    while not is_last:
        try:
            _, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise RowError(f"line {error.lineno}: not JSON: {error.msg}") from None
        except (ValueError, RecursionError):
            end = len(text)  # _element raises the error that says why
        yield _element(text[position:end], line_of(position))
        position = _skip_space(text, end)
        is_last = text.startswith("]", position)
        if not is_last:
            if not text.startswith(",", position):
                raise RowError(
                    f"line {line_of(end)}: not JSON: the element that ends there needs , or ] after it"
                )
            position = _skip_space(text, position + 1)
    position = _skip_space(text, position + 1)
    if position < len(text):
        raise RowError(f"line {line_of(position)}: not JSON: something follows the end of the array")


def _element(text: str, line: int) -> Row:
    try:
        value = parse_json(text)
    except RecursionError:
        raise RowError(f"line {line}: arrays or objects are nested too deeply to be read") from None
    except simplejson.JSONDecodeError as error:
        raise RowError(f"line {line + error.lineno - 1}: not JSON: {error.msg}") from None
    except ValueError as error:
        raise RowError(f"line {line}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError(f"line {line}: not a JSON object")
    return Row("the file", line, value)


def _whole_characters(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        try:
            dump_json(row.values).encode("utf-8")
        except UnicodeEncodeError:
            raise RowError(f"line {row.line}: half of a surrogate pair, which is not Unicode text") from None
        yield row


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _from_text(parameter: Parameter, row: Row) -> Json:
    text = row.values.get(parameter.name)
    if text is None:
        return None
    where = f"line {row.line}: the column {parameter.name!r}"
    if parameter.type in ("int", "float", "Decimal"):
        if not _NUMBER.fullmatch(text.strip()):
            raise RowError(f"{where} is not a number")
        return Decimal(text.strip())
    if parameter.type == "bool":
        if text.strip().lower() not in ("true", "false"):
            raise RowError(f"{where} is neither true nor false")
        return text.strip().lower() == "true"
    if parameter.type in ("dict", "list"):
        try:
            return parse_json(text)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{where} is not JSON: {error}") from None
    return text
