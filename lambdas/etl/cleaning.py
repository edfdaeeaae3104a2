"""Datasets: CSV and JSON Lines read as rows, and rows made clean. Pure: no AWS, no clock.

What becomes of a row is decided here and nowhere else:
- names of columns and texts are trimmed, empty texts become null; nothing else changes. CSV has texts only
  ("007" and "1.10" keep their digits, and Snowflake casts them), JSON Lines keeps its types and digits.
- what cannot be a row (bad CSV, bad JSON, not UTF-8, too few or too many fields, nothing in it, a partition
  column without a date, a key that came before) becomes a Reject with the reason and the text. None is lost.
- a file that cannot be read as rows at all (no usable header, broken gzip) fails the run: DatasetError.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from hashlib import blake2b
from typing import Any

from core.exact_json import Json, dump_json
from core.records import Record, Reject, Row, read_csv, read_json_lines, readable
from core.stored import read_stored

# The names of objects that are read, before an optional .gz.
FORMATS = (".csv", ".jsonl")

DAY = re.compile(r"\d{4}-\d{2}-\d{2}(?!\d)")


def record_from_json(document: dict[str, Any]) -> Record:
    """What `to_json` made."""
    return read_stored(Row, document) if "values" in document else read_stored(Reject, document)


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


def clean(values: dict[str, Json]) -> dict[str, Json]:
    """The row as it is loaded. Raises ValueError with the reason where it can't be."""
    cleaned: dict[str, Json] = {}
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


def dump_line(value: Json) -> bytes:
    """One line of JSON Lines without its end. Raises ValueError for what UTF-8 cannot carry."""
    return dump_json(value).encode("utf-8")


def _accept(row: Row, partition_by: str | None) -> tuple[str, dict[str, Json], bytes] | Reject:
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
    return Reject(row.source, row.line, reason, readable(dump_json(row.values)))


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    # Excel begins UTF-8 files with a byte order mark.
    for number, line in enumerate(lines):
        yield line.removeprefix("\ufeff") if number == 0 else line
