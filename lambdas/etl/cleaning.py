"""Datasets: CSV and JSON Lines read as rows, and rows cleaned. Pure: no AWS, no clock.

Only this module decides what happens to a row:
- names of columns and texts are trimmed, empty texts become null; nothing else changes. CSV has texts only
  ("007" and "1.10" keep their digits, and Snowflake casts them), JSON Lines keeps its types and digits.
- what cannot be a row (bad CSV, bad JSON, not UTF-8, too few or too many fields, only empty columns, a
  partition column without a date, a repeated key) becomes a Reject with the reason and the text.
- a file that cannot be read as rows at all (no usable header, broken gzip) fails the run: DatasetError.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from hashlib import blake2b
from typing import Any, NamedTuple

from core.exact_json import Json, dump_json
from core.records import Record, Reject, Row, read_csv, read_json_lines, readable
from core.stored import read_stored

# The names of objects that are read, before an optional .gz.
FORMATS = (".csv", ".jsonl")

DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")


def record_from_json(document: dict[str, Any]) -> Record:
    """The record that `to_json` wrote."""
    return read_stored(Row, document) if "values" in document else read_stored(Reject, document)


def format_of(key: str) -> str | None:
    """Which of FORMATS an object's key names, or None."""
    name = key.lower().removesuffix(".gz")
    return next((suffix for suffix in FORMATS if name.endswith(suffix)), None)


def read_records(source: str, lines: Iterable[str]) -> Iterator[Record]:
    """The rows of one object, in order, and rejects in the place of what cannot be a row.

    `lines`: its text with the line ends in it, decoded as UTF-8 with "surrogateescape". Raises
    DatasetError.
    """
    text = _without_mark(lines)
    return read_csv(source, text) if format_of(source) == ".csv" else read_json_lines(source, text)


def clean(values: dict[str, Json]) -> dict[str, Json]:
    """The row as it is loaded. Raises ValueError with the reason where it cannot be."""
    cleaned: dict[str, Json] = {}
    for raw_name, value in values.items():
        name = raw_name.strip()
        if not name:
            raise ValueError("a column has no name")
        if name in cleaned:
            raise ValueError(f"two columns are named {name!r}")
        cleaned[name] = (value.strip() or None) if isinstance(value, str) else value
    if all(value is None for value in cleaned.values()):
        raise ValueError("all columns are empty")
    return cleaned


def partition_of(values: dict[str, Json], column: str | None) -> str:
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
        raise ValueError(f"{column} begins with a date that does not exist") from None
    return f"{column}={day.isoformat()}"


def transform(
    records: Iterable[Record], partition_by: str | None
) -> tuple[dict[str, list[bytes]], list[bytes]]:
    """({partition: lines of clean rows}, lines of rejects), each in the records' order, each line JSON."""
    rows: dict[str, list[bytes]] = {}
    rejects: list[bytes] = []
    for record in records:
        result = _accept(record, partition_by)
        if isinstance(result, Reject):
            rejects.append(dump_line(result.to_json()))
        else:
            rows.setdefault(result.partition, []).append(result.line)
    return rows, rejects


def reject_repeated_keys(
    records: Iterable[Record], columns: Sequence[str] | None, partition_by: str | None
) -> Iterator[Record]:
    """The records; of rows with the same key, all but the first are rejected. Without columns, none is.

    A row that is rejected for another reason does not count. A hash of 16 bytes is kept of each key.
    """
    if not columns:
        yield from records
        return
    seen: set[bytes] = set()
    for record in records:
        result = _accept(record, partition_by)
        if isinstance(result, Reject):
            yield result
            continue
        problem = _key_problem(result.values, columns, seen)
        yield _rejected(result.row, problem) if problem else result.row


def split(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """The records in batches, in order; one empty batch where there are none."""
    remaining = iter(records)
    batch = list(itertools.islice(remaining, size))
    yield batch
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def dump_line(value: Json) -> bytes:
    """One line of JSON Lines without its end. Raises ValueError for what UTF-8 cannot carry."""
    return dump_json(value).encode("utf-8")


class _CleanRow(NamedTuple):
    """A row that can be loaded. `values`: clean; `line`: the values as a line of JSON Lines."""

    row: Row
    partition: str
    values: dict[str, Json]
    line: bytes


def _accept(record: Record, partition_by: str | None) -> _CleanRow | Reject:
    if isinstance(record, Reject):
        return record
    try:
        values = clean(record.values)
        return _CleanRow(record, partition_of(values, partition_by), values, dump_line(values))
    except UnicodeEncodeError:
        return _rejected(record, "half of a surrogate pair, which is not Unicode text")
    except ValueError as error:
        return _rejected(record, str(error))


def _key_problem(values: dict[str, Json], columns: Sequence[str], seen: set[bytes]) -> str | None:
    """Why a clean row's key rejects it, or None; then the key's hash is added to `seen`."""
    key = [values.get(column) for column in columns]
    if None in key:
        return f"the key column {columns[key.index(None)]} is empty"
    digest = blake2b(dump_line(key), digest_size=16).digest()
    if digest in seen:
        return f"the key ({', '.join(columns)}) is repeated"
    seen.add(digest)
    return None


def _rejected(row: Row, reason: str) -> Reject:
    return Reject(row.source, row.line, reason, readable(dump_json(row.values)))


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    # Excel begins UTF-8 files with a byte order mark.
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line
