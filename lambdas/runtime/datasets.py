"""Datasets: CSV and JSON Lines read as rows, and rows made clean. Pure: no AWS, no clock.

What becomes of a row is decided here and nowhere else:
- names of columns and texts are trimmed, empty texts become null; nothing else changes. CSV has texts only
  ("007" and "1.10" keep their digits, and Snowflake casts them), JSON Lines keeps its types and digits.
- what cannot be a row (bad CSV, bad JSON, not UTF-8, too few or too many fields, nothing in it, a partition
  column without a date, a key that came before) becomes a Reject with the reason and the text. None is lost.
- a file that cannot be read as rows at all (no usable header, broken gzip) fails the run: DatasetError.
"""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from typing import Any

import simplejson

from runtime import wire
from runtime.errors import TaskError

# The names of objects that are read, before an optional .gz.
FORMATS = (".csv", ".jsonl")

# Longer fields are rejected: an opening quote without its end would take all that follows as one field.
MAX_FIELD_CHARS = 1024 * 1024

# Objects and arrays within each other: readers give up somewhere, and a row must not come to that later on.
MAX_DEPTH = 100

JSON_SPACE = " \t\r\n"
DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")


class DatasetError(TaskError):
    """A dataset that cannot be loaded as it is; the message names the object and the remedy."""


@dataclass(frozen=True)
class Row:
    """A row as its source has it. `line`: the first of its lines, from 1."""

    source: str
    line: int
    values: dict[str, wire.Json]

    def to_json(self) -> dict[str, wire.Json]:
        return {"source": self.source, "line": self.line, "values": self.values}


@dataclass(frozen=True)
class Reject:
    """What was not loaded, and why. `raw`: its text; bytes that are not UTF-8 stand in it as \\xff."""

    source: str
    line: int
    reason: str
    raw: str

    def to_json(self) -> dict[str, wire.Json]:
        return {"source": self.source, "line": self.line, "reason": self.reason, "raw": self.raw}


Record = Row | Reject


def record_from_json(document: dict[str, Any]) -> Record:
    """What `to_json` made."""
    return Row(**document) if "values" in document else Reject(**document)


def format_of(key: str) -> str | None:
    """Which of FORMATS an object's key names, or None."""
    name = key.lower().removesuffix(".gz")
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def read_records(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """The rows of one object, in order, with what is none in its place.

    `lines`: its text with the line ends in it, decoded as UTF-8 with "surrogateescape". Raises
    DatasetError.
    """
    text = _without_mark(lines)
    return read_csv(source, text) if format_of(source) == ".csv" else read_json_lines(source, text)


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
            yield Reject(source, first, problem, _readable(raw))
        else:
            yield Row(source, first, dict(zip(header, fields, strict=True)))


def read_json_lines(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """One JSON object on each line; blank lines are no rows."""
    for number, line in enumerate(lines, 1):
        text = line.strip(JSON_SPACE)
        if not text:
            continue
        problem = _encoding_problem(text)
        document: wire.Json = None
        if not problem:
            try:
                document = wire.parse_json(text)
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
            yield Reject(source, number, problem, _readable(text))
        else:
            yield Row(source, number, document)


def clean(values: dict[str, wire.Json]) -> dict[str, wire.Json]:
    """The row as it is loaded. Raises ValueError with the reason where it can't be."""
    cleaned: dict[str, wire.Json] = {}
    for raw_name, value in values.items():
        name = raw_name.strip()
        if not name:
            raise ValueError("a column has no name")
        if name in cleaned:
            raise ValueError(f"two columns are named {name!r}")
        cleaned[name] = (value.strip() or None) if isinstance(value, str) else value
    if all(value is None for value in cleaned.values()):
        raise ValueError("nothing in any column")
    return cleaned


def partition_of(values: dict[str, wire.Json], column: str | None) -> str:
    """The folder of a clean row: `day=2026-11-22`, `day=null`, or "" without a column. Raises ValueError."""
    if column is None:
        return ""
    if column not in values:
        raise ValueError(f"no column {column}, by which the load is partitioned")
    value = values[column]
    if value is None:
        return f"{column}=null"
    if not isinstance(value, str) or not DAY.match(value):
        raise ValueError(f"{column} does not begin with a date (YYYY-MM-DD)")
    try:
        day = date.fromisoformat(value[:10])
    except ValueError:
        raise ValueError(f"{column} is a day that no calendar has") from None
    return f"{column}={day.isoformat()}"


def transform(
    records: Iterable[Record], partition_by: str | None
) -> tuple[dict[str, list[bytes]], list[bytes]]:
    """({partition: lines of clean rows}, lines of rejects), each in the records' order, each line JSON."""
    rows: dict[str, list[bytes]] = {}
    rejects: list[bytes] = []
    for record in records:
        result = _accept(record, partition_by) if isinstance(record, Row) else record
        if isinstance(result, Reject):
            rejects.append(dump_line(result.to_json()))
        else:
            partition, _, line = result
            rows.setdefault(partition, []).append(line)
    return rows, rejects


def reject_repeated_keys(
    records: Iterable[Record], columns: Sequence[str] | None, partition_by: str | None
) -> Iterator[Record]:
    """The records, where of rows with the same key only the first one stays a row. No columns: all stay.

    A row that will be rejected for another reason claims no key. It keeps 16 bytes of each key in mind.
    """
    if not columns:
        yield from records
        return
    seen: set[bytes] = set()
    for record in records:
        result = _accept(record, partition_by) if isinstance(record, Row) else record
        if isinstance(result, Reject):
            yield result
            continue
        _, values, _ = result
        key = [values.get(column) for column in columns]
        digest = blake2b(dump_line(key), digest_size=16).digest()
        problem = ""
        if None in key:
            problem = f"the key column {columns[key.index(None)]} is empty"
        elif digest in seen:
            problem = f"the key ({', '.join(columns)}) came before"
        seen.add(digest)
        yield _rejected(record, problem) if problem and isinstance(record, Row) else record


def split(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """The records in batches, in order; one empty batch where there are none."""
    remaining = iter(records)
    batch = list(itertools.islice(remaining, size))
    yield batch
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def dump_line(value: wire.Json) -> bytes:
    """One line of JSON Lines without its end. Raises ValueError for what UTF-8 cannot carry."""
    return wire.dump_json(value).encode("utf-8")


def _accept(row: Row, partition_by: str | None) -> tuple[str, dict[str, wire.Json], bytes] | Reject:
    """Partition, clean values and their line of a row that can be loaded."""
    try:
        values = clean(row.values)
        partition = partition_of(values, partition_by)
        line = dump_line(values)
    except UnicodeEncodeError:
        return _rejected(row, "half of a surrogate pair, which is not Unicode text")
    except ValueError as error:
        return _rejected(row, str(error))
    return partition, values, line


def _rejected(row: Row, reason: str) -> Reject:
    return Reject(row.source, row.line, reason, _readable(wire.dump_json(row.values)))


def _header(source: str, line: int, fields: list[str]) -> list[str]:
    names = [field.strip() for field in fields]
    for number, name in enumerate(names, 1):
        if not name or names.index(name) < number - 1:
            problem = f"is named {name!r} like an earlier one" if name else "has no name"
            raise DatasetError(f"{source}, line {line}: column {number} {problem}; mend the header")
    return names


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    # Excel begins UTF-8 files with a byte order mark.
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line


def _is_deep(document: wire.Json) -> bool:
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


def _readable(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
