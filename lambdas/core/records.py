"""CSV and JSON Lines read as rows. Pure: no AWS, no clock."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import simplejson

from core.errors import TaskError
from core.exact_json import Json, parse_json

# Longer fields are rejected: after a quote that is never closed, the rest of the file would be one field.
MAX_FIELD_CHARS = 1024 * 1024

# How deep objects and arrays may be nested: readers have a limit, and no row must exceed it in a later step.
MAX_DEPTH = 100

JSON_SPACE = " \t\r\n"


class DatasetError(TaskError):
    """A dataset that cannot be loaded as it is; the message names the object and the remedy."""


@dataclass(frozen=True)
class Row:
    """A row as its source has it. `line`: the first of its lines, from 1."""

    source: str
    line: int
    values: dict[str, Json]

    def to_json(self) -> dict[str, Json]:
        return {"source": self.source, "line": self.line, "values": self.values}


@dataclass(frozen=True)
class Reject:
    """What was not loaded, and why. `raw`: its text; bytes that are not UTF-8 are written as \\xff."""

    source: str
    line: int
    reason: str
    raw: str

    def to_json(self) -> dict[str, Json]:
        return {"source": self.source, "line": self.line, "reason": self.reason, "raw": self.raw}


Record = Row | Reject


class _CsvRecord(NamedTuple):
    """What csv.reader read. `line`: the first, from 1; `fields`: none for a blank line; `problem`: if any."""

    line: int
    raw: str
    fields: list[str]
    problem: str


def read_csv(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """RFC 4180 with a header; any line ends. Blank lines are no rows. Raises DatasetError."""
    header: list[str] = []
    for record in _parse_csv(lines):
        problem, fields = record.problem, record.fields
        if not header:
            header = _header(source, record)
            continue
        if fields and len(fields) != len(header):
            problem = problem or f"{len(fields)} fields, and the header has {len(header)}"
        if problem:
            yield Reject(source, record.line, problem, readable(record.raw))
        elif fields:
            yield Row(source, record.line, dict(zip(header, fields, strict=True)))


def read_json_lines(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """One JSON object on each line; blank lines are no rows."""
    for number, line in enumerate(lines, 1):
        text = line.strip(JSON_SPACE)
        if not text:
            continue
        problem = _encoding_problem(text)
        document: Json = None
        if not problem:
            try:
                document = parse_json(text)
            except simplejson.JSONDecodeError as error:
                problem = f"not JSON: {error.msg} at column {error.colno}"
            except (ValueError, RecursionError) as error:
                problem = f"not JSON: {error}"
            else:
                if not isinstance(document, dict):
                    problem = "not a JSON object"
                elif _is_deep(document):
                    problem = f"arrays or objects nested more than {MAX_DEPTH} deep"
        if problem:
            yield Reject(source, number, problem, readable(text))
        else:
            yield Row(source, number, document)


def _parse_csv(lines: Iterable[str]) -> Iterator[_CsvRecord]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    raw: list[str] = []

    def recorded() -> Iterator[str]:
        for line in lines:
            raw.append(line)
            yield line

    reader = csv.reader(recorded(), strict=True)
    while True:
        first = reader.line_num + 1
        raw.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _CsvRecord(first, "".join(raw), [], f"not CSV: {error}")
        else:
            text = "".join(raw)
            yield _CsvRecord(first, text, fields, _encoding_problem(text))


def _header(source: str, record: _CsvRecord) -> list[str]:
    """The names of the columns; none for a blank line."""
    if record.problem:
        raise DatasetError(f"{source}, line {record.line}: the header is {record.problem}")
    names = [field.strip() for field in record.fields]
    for number, name in enumerate(names, 1):
        if not name or names.index(name) < number - 1:
            problem = f"is named {name!r} like an earlier one" if name else "has no name"
            raise DatasetError(f"{source}, line {record.line}: column {number} {problem}; fix the header")
    return names


def _is_deep(document: Json) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        children = (c for node in level for c in (node.values() if isinstance(node, dict) else node))
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _encoding_problem(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not UTF-8: byte {ord(text[error.start]) - 0xDC00:#04x} at character {error.start + 1}"
    return ""


def readable(text: str) -> str:
    """The text as valid UTF-8: bytes that were not UTF-8 are written as \\xff."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
