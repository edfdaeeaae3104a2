"""CSV and JSON Lines read as rows. Pure: no AWS, no clock."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import simplejson

from core.errors import TaskError
from core.exact_json import Json, parse_json

# Longer fields are rejected: an opening quote without its end would take all that follows as one field.
MAX_FIELD_CHARS = 1024 * 1024

# Objects and arrays within each other: readers give up somewhere, and a row must not come to that later on.
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
    """What was not loaded, and why. `raw`: its text; bytes that are not UTF-8 stand in it as \\xff."""

    source: str
    line: int
    reason: str
    raw: str

    def to_json(self) -> dict[str, Json]:
        return {"source": self.source, "line": self.line, "reason": self.reason, "raw": self.raw}


Record = Row | Reject


def read_csv(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """RFC 4180 with a header; any line ends. Blank lines are no rows. Raises DatasetError."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    taken: list[str] = []
    count = 0

    def tell() -> Iterator[str]:
        nonlocal count
        for line in lines:
            count += 1
            taken.append(line)
            yield line

    reader = csv.reader(tell(), strict=True)
    header: list[str] | None = None
    while True:
        first = count + 1
        taken.clear()
        problem = ""
        fields: list[str] | None = []
        try:
            fields = next(reader, None)
        except csv.Error as error:
            problem = f"not CSV: {error}"
        if fields is None:
            return
        raw = "".join(taken)
        problem = problem or _encoding_problem(raw)
        if header is None:
            if problem:
                raise DatasetError(f"{source}, line {first}: the header is {problem}")
            if fields:
                header = _header(source, first, fields)
            continue
        if not problem and not fields:
            continue
        if not problem and len(fields) != len(header):
            problem = f"{len(fields)} fields, and the header has {len(header)}"
        if problem:
            yield Reject(source, first, problem, readable(raw))
        else:
            yield Row(source, first, dict(zip(header, fields, strict=True)))


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


def _header(source: str, line: int, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    for number, name in enumerate(names, 1):
        if not name or names.index(name) < number - 1:
            problem = f"is named {name!r} like an earlier one" if name else "has no name"
            raise DatasetError(f"{source}, line {line}: column {number} {problem}; mend the header")
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
    """The text as UTF-8 carries it: what came of bytes that are not UTF-8 stands in it as \\xff."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
