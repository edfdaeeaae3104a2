"""Rows of CSV and JSON files, and the line that an error names."""

import gzip
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalog import Parameter, Signature
from core.exact_json import Json, dump_json
from core.records import Row
from ingest.file_rows import Format, RowError, decode, find_format, read_arguments, read_rows

LIMIT = 1000


def rows(text: str, form: Format) -> list[tuple[int, dict[str, Json]]]:
    return [(row.line, row.values) for row in read_rows(text, form)]


@pytest.mark.parametrize(
    ("content_type", "key", "form"),
    [
        ("text/csv", "a.json", "csv"),
        ("Text/CSV; charset=utf-8", "a", "csv"),
        ("application/x-ndjson", "a", "json"),
        ("binary/octet-stream", "a.CSV", "csv"),
        ("application/gzip", "a.jsonl.gz", "json"),
        ("", "a.b/c.json", "json"),
        ("application/pdf", "a.pdf", None),
        ("", "csv", "csv"),
        ("", "a.csv/b", None),
        ("", "a.gz", None),
    ],
)
def test_the_format_is_that_of_the_content_type_or_else_of_the_name(
    content_type: str, key: str, form: Format | None
) -> None:
    assert find_format(content_type, key) == form


def test_csv_names_the_first_line_of_each_row() -> None:
    text = 'a,b\r\n1,"x\ny"\r\n\r\n , \n"",0\n'

    assert rows(text, "csv") == [
        (2, {"a": "1", "b": "x\ny"}),
        (5, {"a": " ", "b": " "}),
        (6, {"a": None, "b": "0"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3: 1 fields, and the header has 2"),
        ('a\n"x"y\n', "line 2: not CSV: ',' expected after '\"'"),
        ('a\n1\n"x\n\n', "line 3: not CSV: unexpected end of data"),
        ("a,a\n", "the file, line 1: column 2 is named 'a' like an earlier one; fix the header"),
        ("\na,\n", "the file, line 2: column 2 has no name; fix the header"),
    ],
)
def test_bad_csv(text: str, message: str) -> None:
    with pytest.raises(RowError) as raised:
        rows(text, "csv")

    assert str(raised.value) == message


def test_json_lines_keep_digits_and_count_empty_lines() -> None:
    text = '\n{"n": 1.10}\n \t\n{"n": 12345678901234567890123, "s": "\u2028"}'

    assert rows(text, "json") == [
        (2, {"n": Decimal("1.10")}),
        (4, {"n": 12345678901234567890123, "s": "\u2028"}),
    ]


def test_an_array_has_a_line_for_each_row() -> None:
    text = ' [{"n": 1.10}, {"n": 2},\n\n{"n":\n[3]}\n,{}] \n'

    assert rows(text, "json") == [(1, {"n": Decimal("1.10")}), (1, {"n": 2}), (3, {"n": [3]}), (5, {})]


@pytest.mark.parametrize("text", ["", "\n \n", "[]", " [\n] "])
def test_json_without_rows(text: str) -> None:
    assert rows(text, "json") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n[1]', "line 2: not a JSON object"),
        ('{"a": 1}\n{"a": NaN}', "line 2: not JSON: NaN is not a JSON number"),
        ('{\n "a": 1\n}', "line 1: not JSON"),
        ('{"a": 1}\n{"a": "\\ud800"}', "line 2: half of a surrogate pair, which is not Unicode text"),
        ("[", "line 1: not JSON: Expecting value"),
        ('[{"a": 1},\n', "line 2: not JSON: Expecting value"),
        ('[{"a": 1}\n{"a": 2}]', "line 1: not JSON: the element that ends there needs , or ] after it"),
        ('[{"a": 1},\n\n{"a" 2}]', "line 3: not JSON: Expecting ':' delimiter"),
        ('[{"a": 1},\n2]', "line 2: not a JSON object"),
        ('[{"a": 1},\n{"a":\n1e999}]', "line 2: not JSON: the number 1e999 would become Infinity"),
        ('[{"a": ' + "9" * 5000 + "}]", "line 1: not JSON: the number 999999"),
        ('[{"a": ' + "[" * 100_000, "line 1: arrays or objects are nested too deeply to be read"),
        ('[{"a": 1}]\n\n{"a": 2}', "line 3: not JSON: something follows the end of the array"),
    ],
)
def test_bad_json(text: str, message: str) -> None:
    with pytest.raises(RowError) as raised:
        rows(text, "json")

    assert str(raised.value).startswith(message)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=6), st.sampled_from([", ", ",\n", "\n ,\t"])
)
def test_any_rows_are_read_as_they_were_written(values: list[dict[str, Json]], separator: str) -> None:
    texts = [dump_json(value) for value in values]

    assert [value for _, value in rows("[" + separator.join(texts) + "]", "json")] == values
    assert [value for _, value in rows("\n".join(texts), "json")] == values


@pytest.mark.parametrize("body", ["日本".encode(), b"\xef\xbb\xbf" + "日本".encode()])
@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda b: gzip.compress(b) + gzip.compress(b"", mtime=0)]
)
def test_text_may_be_gzipped_and_have_a_byte_order_mark(body: bytes, pack: type[bytes]) -> None:
    assert decode(pack(body), LIMIT) == "日本"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"a\nb\n\xe9", "line 3: not UTF-8: byte 0xe9"),
        (gzip.compress(b"a" * 500, mtime=0)[:-1], "the file cannot be unpacked: it ends in the middle"),
        (gzip.compress(b"a" * 1001, mtime=0), "the file unpacks to more than 1,000 bytes; split it"),
        (gzip.compress(b"a" * 600, mtime=0) * 2, "the file unpacks to more than 1,000 bytes; split it"),
        (gzip.compress(b"a", mtime=0) + b"rest", "the file cannot be unpacked: Error -3"),
    ],
)
def test_bytes_that_are_not_text_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(RowError) as raised:
        decode(body, LIMIT)

    assert str(raised.value).startswith(message)


def test_a_file_that_unpacks_to_the_limit_is_accepted() -> None:
    assert len(decode(gzip.compress(b"a" * LIMIT), LIMIT)) == LIMIT


def signature(kind: str) -> Signature:
    return Signature("f", (Parameter("a", kind), Parameter("b", "str")), variadic=False, returns="Any")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("str", "007", "007"),
        ("Any", "007", "007"),
        ("date", "2026-11-22", "2026-11-22"),
        ("int", " +007 ", 7),
        ("float", "-.5e-3", Decimal("-0.0005")),
        ("Decimal", "1.10", Decimal("1.10")),
        ("bool", "TRUE", True),
        ("bool", "false", False),
        ("list", "[1.10]", [Decimal("1.10")]),
        ("dict", '{"n": null}', {"n": None}),
        ("int", None, None),
    ],
)
def test_the_text_of_a_csv_becomes_what_the_parameter_asks_for(
    kind: str, text: str | None, value: Json
) -> None:
    row = Row("the file", 7, {"c": "other", "b": "x", "a": text})

    assert read_arguments(signature(kind), "csv", row) == [value, "x"]


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        ("int", "1,000", "not a number"),
        ("float", "1_000", "not a number"),
        ("float", "NaN", "not a number"),
        ("Decimal", "1e1000", "not a number"),
        ("int", "٣", "not a number"),
        ("bool", "yes", "neither true nor false"),
        ("dict", "{", "not JSON: Expecting"),
    ],
)
def test_text_that_is_not_of_the_parameter_s_type(kind: str, text: str, problem: str) -> None:
    with pytest.raises(RowError, match=rf"^line 7: the column 'a' is {problem}"):
        read_arguments(signature(kind), "csv", Row("the file", 7, {"a": text}))


def test_json_members_are_arguments_as_they_are() -> None:
    assert read_arguments(signature("int"), "json", Row("the file", 1, {"a": "7"})) == ["7", None]
