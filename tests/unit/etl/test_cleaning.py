"""Datasets: what is a row, what is rejected, and that no line is lost, repeated or moved."""

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.exact_json import dump_json
from core.records import MAX_DEPTH, MAX_FIELD_CHARS, DatasetError, Record, Reject, Row
from etl.cleaning import (
    clean,
    format_of,
    partition_of,
    read_records,
    record_from_json,
    reject_repeated_keys,
    split,
    transform,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.lists(
    TEXT.map(str.strip).filter(bool),
    min_size=1,
    max_size=5,
    unique_by=lambda name: name.removeprefix("\ufeff"),
)
NUMBERS = st.integers(-(10**30), 10**30) | st.decimals(allow_nan=False, allow_infinity=False, places=20)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def read(key: str, text: str | bytes) -> list[Record]:
    """As `extract` reads an object."""
    body = text.encode() if isinstance(text, str) else text
    ends = "" if format_of(key) == ".csv" else "\n"
    return list(
        read_records(key, io.TextIOWrapper(io.BytesIO(body), "utf-8", "surrogateescape", newline=ends))
    )


def rows(records: list[Record]) -> list[dict[str, Any]]:
    return [record.values for record in records if isinstance(record, Row)]


def rejects(records: list[Record]) -> list[tuple[int, str, str]]:
    return [(r.line, r.reason, r.raw) for r in records if isinstance(r, Reject)]


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("a/b.csv", ".csv"),
        ("b.CSV.gz", ".csv"),
        ("b.jsonl", ".jsonl"),
        ("b.jsonl.GZ", ".jsonl"),
        ("b.json", None),
    ],
)
def test_the_name_says_the_format(key: str, form: str | None) -> None:
    assert format_of(key) == form


# --- CSV ---


@given(NAMES, st.data())
def test_any_table_written_as_csv_is_read_as_it_was(names: list[str], data: st.DataObject) -> None:
    fields = st.lists(TEXT, min_size=len(names), max_size=len(names))
    table = data.draw(st.lists(fields, max_size=5))
    file = io.StringIO()
    csv.writer(file).writerows([names, *table])

    records = read("d.csv", "\ufeff" + file.getvalue())

    assert rejects(records) == []
    assert rows(records) == [dict(zip(names, row, strict=True)) for row in table]


def test_csv_names_are_trimmed_and_values_are_left_as_text_with_the_line_they_begin_in() -> None:
    records = read("d.csv", '\r\n id , amount\r\n007,1.10\r\n\r\n"8\n9", x \r\n10,\r\n')

    assert records == [
        Row("d.csv", 3, {"id": "007", "amount": "1.10"}),
        Row("d.csv", 5, {"id": "8\n9", "amount": " x "}),
        Row("d.csv", 7, {"id": "10", "amount": ""}),
    ]


def test_invalid_csv_is_rejected_with_its_line_and_the_rest_is_read() -> None:
    records = read("d.csv", b'a,b\n1,2\n1,2,3\n"x"y,2\n\xff,2\n3,4\n"never closed,5\n6,7\n')

    assert rows(records) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert rejects(records) == [
        (3, "3 fields, and the header has 2", "1,2,3\n"),
        (4, "not CSV: ',' expected after '\"'", '"x"y,2\n'),
        (5, "not UTF-8: byte 0xff at character 1", "\\xff,2\n"),
        (7, "not CSV: unexpected end of data", '"never closed,5\n6,7\n'),
    ]


def test_an_unclosed_quote_rejects_no_more_than_the_limit() -> None:
    long = "x" * 100 + "\n"
    records = read("d.csv", 'a\n"open\n' + long * (MAX_FIELD_CHARS // 100) + "good\n")

    assert rows(records)[-1] == {"a": "good"}
    [(line, reason, raw)] = rejects(records)
    assert (line, raw[:6]) == (2, '"open\n')
    assert "field larger than field limit" in reason


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("a,,b", "line 1: column 2 has no name; fix the header"),
        ("a,b, a ", "line 1: column 3 is named 'a' like an earlier one; fix the header"),
        ('a,"b"c', "line 1: the header is not CSV: ',' expected after '\"'"),
    ],
)
def test_a_header_that_names_no_columns_fails_the_dataset(header: str, problem: str) -> None:
    with pytest.raises(DatasetError) as error:
        read("datasets/x/d.csv", f"{header}\n1,2,3\n")
    assert str(error.value) == f"datasets/x/d.csv, {problem}"


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n", "\ufeff"])
def test_a_file_without_rows_has_no_records(text: str) -> None:
    assert read("d.csv", text) == []


@given(st.binary(max_size=200))
def test_for_any_bytes_each_line_is_in_one_record_or_the_dataset_fails(body: bytes) -> None:
    try:
        records = read("d.csv", b"a,b\n" + body)
    except DatasetError:
        return
    lines = [record.line for record in records]
    assert lines == sorted(set(lines))
    for record in records:
        assert record_from_json(json.loads(json.dumps(record.to_json()))) == record


# --- JSON Lines ---


@given(st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=4))
def test_any_objects_written_as_json_lines_are_read_with_all_their_digits(
    table: list[dict[str, Any]],
) -> None:
    records = read("d.jsonl", "".join(dump_json(row) + "\n" for row in table))

    assert rejects(records) == []
    assert rows(records) == table


@given(st.binary(max_size=200))
def test_each_line_of_json_lines_that_is_not_blank_is_one_record(body: bytes) -> None:
    filled = [line for line in body.split(b"\n") if line.strip(b" \t\r")]

    # A byte order mark at the start is not content: a line with nothing else is blank.
    records = read("d.jsonl", b"\n" + body)

    assert len(records) == len(filled)


def test_json_lines_that_are_not_objects_are_rejected_with_their_text() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    lines = [
        b'{"a": 1.10}\r',
        b"{broken",
        b"[1]",
        b"",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\xe4"}',
        b'{"a": ' + deep.encode() + b"}",
        b'{"a": ' + b"[" * 5000 + b"}",
    ]
    records = read("d.jsonl", b"\n".join(lines))

    assert rows(records) == [{"a": Decimal("1.10")}]
    assert [(line, reason.partition(":")[0]) for line, reason, _ in rejects(records)] == [
        (2, "not JSON"),
        (3, "not a JSON object"),
        (5, "not JSON"),
        (6, "not JSON"),
        (7, "not UTF-8"),
        (8, f"arrays or objects nested more than {MAX_DEPTH} deep"),
        (9, "not JSON"),
    ]
    assert [raw for *_, raw in rejects(records)][4] == '{"a": "\\xe4"}'


# --- cleaning ---


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_cleaning_is_all_or_nothing_and_cleaning_again_changes_nothing(values: dict[str, Any]) -> None:
    try:
        cleaned = clean(values)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either outcome is fine, a reason is not optional
        return
    assert clean(cleaned) == cleaned
    assert len(cleaned) == len(values)
    for before, after in zip(values.values(), cleaned.values(), strict=True):
        if isinstance(before, str):
            assert after == (before.strip() or None)
        else:
            assert after == before


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({" a": 1, "a ": 2}, "two columns are named 'a'"),
        ({"": 1}, "a column has no name"),
        ({"a": "  ", "b": None}, "all columns are empty"),
        ({}, "all columns are empty"),
    ],
)
def test_a_row_that_cannot_be_loaded_has_a_reason(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clean(values)


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("2026-02-28", "day=2026-02-28"),
        ("2026-11-22T03:00:00Z", "day=2026-11-22"),
        ("2026-11-22 03:00", "day=2026-11-22"),
        (None, "day=null"),
    ],
)
def test_rows_are_partitioned_by_day(value: str | None, folder: str) -> None:
    assert partition_of({"day": value}, "day") == folder
    assert partition_of({"day": value}, None) == ""


@pytest.mark.parametrize(
    "value", ["22.11.2026", "2026-11-223", "2026-02-30", 20261122, "2026-1-1", "../../x"]
)
def test_an_invalid_date_is_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match="day"):
        partition_of({"day": value}, "day")


def test_a_row_without_the_partition_column_is_rejected() -> None:
    with pytest.raises(ValueError, match="no column day, by which the load is partitioned"):
        partition_of({"a": 1}, "day")


RECORDS = st.lists(
    st.builds(
        Row,
        source=st.just("s"),
        line=st.integers(1, 99),
        values=st.fixed_dictionaries(
            {
                "id": st.sampled_from(["1", " 1", "2", "", None, "\ud800"]),
                "day": st.sampled_from(["2026-01-01", "x", ""]),
            }
        ),
    )
    | st.builds(Reject, st.just("s"), st.integers(1, 99), st.just("reason"), TEXT)
)


@given(RECORDS, st.sampled_from([None, "day"]))
def test_each_record_becomes_one_row_or_one_reject_in_order(
    records: list[Record], column: str | None
) -> None:
    data, refused = transform(records, column)

    expected: dict[str, list[Any]] = {}
    for record in records:
        if isinstance(record, Row) and record.values["id"] != "\ud800":
            try:
                values = clean(record.values)
                expected.setdefault(partition_of(values, column), []).append(values)
            except ValueError:
                pass
    assert {folder: [json.loads(line) for line in lines] for folder, lines in data.items()} == expected
    assert len(refused) + sum(map(len, data.values())) == len(records)


@given(RECORDS, st.sampled_from([None, "day"]))
def test_of_rows_with_the_same_key_the_first_valid_one_is_kept(
    records: list[Record], column: str | None
) -> None:
    kept = list(reject_repeated_keys(records, ["id"], column))

    assert [(record.source, record.line) for record in kept] == [(r.source, r.line) for r in records]
    good, _ = transform(kept, column)
    before, _ = transform(records, column)
    wanted = {json.loads(line)["id"] for lines in before.values() for line in lines} - {None}
    loaded = [json.loads(line)["id"] for lines in good.values() for line in lines]
    assert sorted(loaded) == sorted(wanted)


def test_rejects_of_repeated_keys_say_which_columns() -> None:
    same = Row("s", 2, {"a": "1", "b": "x"})
    result = list(
        reject_repeated_keys(
            [same, Row("s", 3, {"a": " 1 ", "b": "x"}), Row("s", 4, {"a": "2"})], ["a", "b"], None
        )
    )

    assert result[0] == same
    assert [(r.line, r.reason) for r in result if isinstance(r, Reject)] == [
        (3, "the key (a, b) is repeated"),
        (4, "the key column b is empty"),
    ]


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_batches_are_the_records_in_order(numbers: list[int], size: int) -> None:
    records: list[Record] = [Row("s", number, {}) for number in numbers]
    batches = list(split(records, size))

    assert [record for batch in batches for record in batch] == records
    assert all(len(batch) == size for batch in batches[:-1])
    assert len(batches) == max(1, -(-len(numbers) // size))
