"""The wire format: what Snowflake sends, in all its forms, and what it gets."""

import base64
import gzip
import hashlib
import json
import math
import tracemalloc
import zlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from batch import errors, wire
from core.calls.rows import run_rows
from core.catalog import read_catalog
from core.exact_json import dump_json, parse_json
from core.remote import load_function
from tests.unit.fake_aws.invocations import BATCH_ID, api_event


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def refusal(body: bytes, **options: Any) -> str:
    with pytest.raises(errors.BadRequest) as refused:
        wire.parse_rows(api_event("echo", "POST", body, **options))
    return str(refused.value)


# Requests


def test_a_request_names_function_batch_and_query() -> None:
    request = wire.parse_request(api_event("echo"))
    assert (request.kind, request.name, request.batch_id) == ("functions", "echo", BATCH_ID)
    assert request.query_id == "01b02bdf-0001-7b58-0003-27d60056b5a6"


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_header_names_are_case_insensitive(change: Callable[[str], str]) -> None:
    sent = api_event("echo")
    sent["headers"] = {change(name): value for name, value in sent["headers"].items()}
    assert wire.parse_request(sent) == wire.parse_request(api_event("echo"))


@pytest.mark.parametrize("batch_id", [None, ""])
def test_a_request_without_a_batch_id_is_refused(batch_id: str | None) -> None:
    with pytest.raises(errors.BadRequest, match="sf-external-function-query-batch-id is missing"):
        wire.parse_request(api_event("echo", batch_id=batch_id))


@pytest.mark.parametrize(
    ("header", "value"),
    [("sf-external-function-format-version", "2.0"), ("sf-external-function-format", "arrow")],
)
def test_an_unknown_format_is_refused_by_name(header: str, value: str) -> None:
    with pytest.raises(errors.BadRequest, match=f"{header} is '{value}'"):
        wire.parse_request(api_event("echo", headers={header: value}))


def test_without_format_headers_the_format_is_the_only_one_there_is() -> None:
    sent = api_event("echo")
    sent["headers"] = {k: v for k, v in sent["headers"].items() if "format" not in k}
    assert wire.parse_request(sent).batch_id == BATCH_ID


def test_a_request_without_headers_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="query-batch-id"):
        wire.parse_request(api_event("echo") | {"headers": None})


# Bodies

BODY = b'{\n"data":[\n[0,"h\xc3\xa9llo",1.10],\n[1,null,"\\ud83d\\ude00"]\n]\n}'
ROWS = [["héllo", Decimal("1.10")], [None, "😀"]]


@pytest.mark.parametrize("coding", [None, "gzip", "deflate", "GZIP", "Deflate", "identity"])
@pytest.mark.parametrize("name", ["Content-Encoding", "content-encoding"])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_plain_body_is_read_whatever_a_stale_header_says(
    coding: str | None, name: str, as_text: bool
) -> None:
    headers = {} if coding is None else {name: coding}
    assert (
        wire.parse_rows(api_event("echo", "POST", BODY, headers=headers, as_text=as_text)).arguments == ROWS
    )


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_a_compressed_body_is_recognized_by_its_bytes(
    pack: Callable[[bytes], bytes], coding: str | None
) -> None:
    headers = {} if coding is None else {"Content-Encoding": coding}
    assert wire.parse_rows(api_event("echo", "POST", pack(BODY), headers=headers)).arguments == ROWS


@pytest.mark.parametrize("name", ["Content-Encoding", "CONTENT-ENCODING"])
def test_deflate_may_come_without_its_own_header(name: str) -> None:
    sent = api_event("echo", "POST", raw_deflate(BODY), headers={name: "deflate"})
    assert wire.parse_rows(sent).arguments == ROWS


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[[0,"a"]]}',
        b' \t\r\n{ "data" : [ [ 0 , "a" ] ] } \n',
        b'{\n"data":[\n[0,"a"]\n]\n}\n',
        b'{"other": {"x": 1}, "data":[[0,"a"]]}',
    ],
)
def test_whitespace_and_other_members_do_not_matter(body: bytes) -> None:
    assert wire.parse_rows(api_event("echo", "POST", body)).arguments == [["a"]]
    assert wire.parse_rows(
        api_event("echo", "POST", raw_deflate(body), headers={"content-encoding": "deflate"})
    )


def test_the_same_rows_are_the_same_text_however_they_are_written() -> None:
    one = wire.parse_rows(api_event("echo", "POST", b'{"data":[[0,"\\u00e9", {"b":1,"a":2}]]}'))
    two = wire.parse_rows(
        api_event("echo", "POST", gzip.compress('{ "data": [[0, "é", {"b": 1, "a": 2}]]}'.encode()))
    )
    assert one == two
    assert one.digest == hashlib.sha256(one.text.encode()).hexdigest()
    other = wire.parse_rows(api_event("echo", "POST", b'{"data":[[0,"e", {"b":1,"a":2}]]}'))
    assert other.digest != one.digest


def test_no_rows_and_rows_without_arguments_are_rows() -> None:
    assert wire.parse_rows(api_event("echo", "POST", b'{"data":[]}')).arguments == []
    assert wire.parse_rows(api_event("echo", "POST", b'{"data":[[0],[1]]}')).arguments == [[], []]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not JSON"),
        (b"   ", "not JSON"),
        (b'{"data":[[0,"a"]]', "line 1 column"),
        (b'{"data":[[0,"a"],]}', "line 1 column"),
        (b'{"data":[[0,"a\nb"]]}', "line 1 column"),
        (b'{"data":[[0,"a"]]}{}', "line 1 column"),
        (b'{"data":[[0,\n01]]}', "line 2 column"),
        (b"{'data':[]}", "line 1 column"),
        (b'{"data":[[0,"\xff"]]}', "not UTF-8: byte 13 is 0xff"),
        (b"[[0]]", '"data"'),
        (b'"data"', '"data"'),
        (b'{"rows":[]}', '"data"'),
        (b'{"data":null}', "not null"),
        (b'{"data":{}}', "not an object"),
        (b'{"data":"[]"}', "not a string"),
        (b'{"data":7}', "not a number"),
        (b'{"data":true}', "not a boolean"),
        (b'{"data":[0]}', '"data"[0] must be a row'),
        (b'{"data":[[0],{}]}', '"data"[1] must be a row'),
        (b'{"data":[[]]}', '"data"[0] must be a row'),
        (b'{"data":[[1,"a"]]}', '"data"[0] must begin with its row number, 0'),
        (b'{"data":[["0","a"]]}', '"data"[0] must begin with its row number, 0'),
        (b'{"data":[[0.0,"a"]]}', '"data"[0] must begin with its row number, 0'),
        (b'{"data":[[null,"a"]]}', '"data"[0] must begin with its row number, 0'),
        (b'{"data":[[false,"a"]]}', '"data"[0] must begin with its row number, 0'),
        (b'{"data":[[0],[0]]}', '"data"[1] must begin with its row number, 1'),
        (b'{"data":[[0],[2]]}', '"data"[1] must begin with its row number, 1'),
        (b'{"data":[[0,NaN]]}', "NaN is not a JSON number"),
        (b'{"data":[[0,Infinity]]}', "Infinity is not a JSON number"),
        (b'{"data":[[0,{"a":-Infinity}]]}', "-Infinity is not a JSON number"),
        (b'{"data":[[0,"\\ud800"]]}', "half of a surrogate pair"),
        (b'{"data":[[0,{"\\udc00":1}]]}', "half of a surrogate pair"),
        pytest.param(b'{"data":[[0,' + b"[" * 100_000 + b"]" * 100_000 + b"]]}", "too deeply", id="arrays"),
        pytest.param(b'{"a":' * 50_000, "too deeply", id="objects"),
        pytest.param(gzip.compress(BODY)[:-9], "ends in the middle", id="gzip cut"),
        pytest.param(gzip.compress(BODY)[:30] + b"\0" * 30, "cannot be unpacked", id="gzip broken"),
        pytest.param(gzip.compress(BODY) + b"more", "4 bytes follow", id="gzip and more"),
        pytest.param(zlib.compress(BODY)[:-1], "ends in the middle", id="zlib cut"),
        (b"x\x01nonsense", "cannot be unpacked"),
    ],
)
def test_an_error_names_its_place(body: bytes, what: str) -> None:
    assert what in refusal(body)


def test_a_body_that_contradicts_its_event_is_refused() -> None:
    for text in ("!", "é", "QQ"):
        with pytest.raises(errors.BadRequest, match="the body cannot be decoded"):
            wire.parse_rows(api_event("echo", "POST") | {"body": text, "isBase64Encoded": True})
    with pytest.raises(errors.BadRequest, match="the body cannot be decoded"):
        wire.parse_rows(api_event("echo", "POST") | {"body": '{"data":[[0,"\ud800"]]}'})


def test_a_wrong_content_encoding_is_refused() -> None:
    assert "cannot be unpacked" in refusal(b"\xff\xfe", headers={"Content-Encoding": "deflate"})


ENVELOPE = b'{"data":[[0,"%s"]]}'
PADDING = b"a" * (wire.MAX_REQUEST_BYTES - len(ENVELOPE) + 2)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zlib.compress])
def test_a_request_has_as_many_bytes_of_json_as_lambda_gets_in_base64(pack: Callable[[bytes], bytes]) -> None:
    largest, larger = ENVELOPE % PADDING, ENVELOPE % (PADDING + b"a")
    assert len(base64.b64encode(largest)) == wire.MAX_BODY_CHARS
    assert len(largest) == wire.MAX_REQUEST_BYTES
    assert wire.parse_rows(api_event("echo", "POST", pack(largest))).arguments == [[PADDING.decode()]]
    with pytest.raises(errors.RequestTooLarge, match=r"more than 4,669,440 bytes of JSON.*MAX_BATCH_ROWS"):
        wire.parse_rows(api_event("echo", "POST", pack(larger)))


def test_text_has_the_same_limit() -> None:
    assert wire.parse_rows(api_event("echo", "POST", ENVELOPE % PADDING, as_text=True)).arguments
    with pytest.raises(errors.RequestTooLarge):
        wire.parse_rows(api_event("echo", "POST", ENVELOPE % (PADDING + b"a"), as_text=True))


def test_a_zip_bomb_is_unpacked_no_further_than_the_limit() -> None:
    bomb = gzip.compress(b" " * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(errors.RequestTooLarge):
            wire.parse_rows(api_event("echo", "POST", bomb))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20_000_000


# Numbers


@pytest.mark.parametrize(
    "literal",
    [
        "0",
        "-1",
        "12345678901234567890123456789012345678",
        "-12345678901234567890123456789012345678",
        "1.10",
        "0.10000000000000000000000000000000000001",
        "1234567890123456789012345678.1234567890",
        "1E+37",
        "1.7976931348623157E+308",
        "-1.7976931348623157E+308",
        "5E-324",
        "1E-400",
        "1" + "0" * 308,
        "-1" + "0" * 308,
    ],
)
def test_numbers_keep_their_digits(literal: str) -> None:
    rows = wire.parse_rows(api_event("echo", "POST", b'{"data":[[0,%s]]}' % literal.encode()))
    assert rows.text == f"[[{literal}]]"


@pytest.mark.parametrize(
    "literal",
    [
        "1E+400",
        "-1E400",
        "1e309",
        "1.8E308",
        "-1.8e+308",
        "2" + "0" * 308,
        "-2" + "0" * 308,
        "1" + "0" * 309,
        pytest.param("1" * 5000, id="5,000 digits"),
        "1" * 400 + ".5",
        "1E+99999999999999999999999",
        "1E-99999999999999999999999",
    ],
)
def test_numbers_that_readers_cannot_hold_are_refused(literal: str) -> None:
    message = refusal(b'{"data":[[0,{"a":[%s]}]]}' % literal.encode())
    assert "would become Infinity" in message or "is out of range" in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("1E+400"),
        pytest.param(10**309, id="310 digits"),
        pytest.param(10**5000, id="5,001 digits"),
        [1, {"a": Decimal("-Infinity")}],
        {1, 2},
        object(),
        {(1, 2): 3},
    ],
)
def test_what_json_cannot_carry_is_not_written(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        dump_json(value)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1E+400", "9" * 400, 'say "NaN"'])
def test_strings_that_look_like_such_numbers_are_strings(text: str) -> None:
    assert json.loads(dump_json([text, {text: text}])) == [text, {text: text}]


# Answers


def result(*values: str, first_row: int = 0) -> bytes:
    return wire.render_result([wire.render_rows(values, first_row)])


def request(**headers: str) -> wire.Request:
    plain = api_event("echo")
    plain["headers"] = {k: v for k, v in plain["headers"].items() if k not in ("Accept", "Accept-Encoding")}
    plain["headers"] |= {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.parse_request(plain)


def test_chunks_become_one_result_with_rows_numbered_through() -> None:
    chunks = [wire.render_rows(['"a"', "null"], 0), "", wire.render_rows(["1.10"], 2)]
    assert gzip.decompress(wire.render_result(chunks)) == b'{"data":[[0,"a"],[1,null],[2,1.10]]}'
    assert gzip.decompress(wire.render_result([])) == b'{"data":[]}'


def test_the_same_rows_are_the_same_bytes() -> None:
    assert result('"a"') == result('"a"')


@pytest.mark.parametrize(
    "accepts",
    ["gzip", "gzip, deflate", "deflate, GZIP", "identity;q=0.5, gzip;q=1.0", "*", "gzip; q=0.001"],
)
def test_an_answer_is_gzipped_where_the_client_accepts_it(accepts: str) -> None:
    answer = wire.answer_result(result('"é"'), request(Accept="*/*", Accept_Encoding=accepts))
    assert answer["statusCode"] == 200
    assert answer["headers"] == {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert answer["isBase64Encoded"]
    assert gzip.decompress(base64.b64decode(answer["body"])) == '{"data":[[0,"é"]]}'.encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"},
        {"Accept": "*/*", "Accept_Encoding": "identity"},
        {"Accept": "*/*", "Accept_Encoding": "gzip;q=0"},
        {"Accept": "*/*", "Accept_Encoding": "gzip; q=0.000, br"},
        {"Accept_Encoding": "gzip"},  # without Accept, API Gateway may not decode it into bytes
    ],
)
def test_an_answer_is_not_compressed_otherwise(headers: dict[str, str]) -> None:
    answer = wire.answer_result(result('"é"'), request(**headers))
    assert answer == {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": '{"data":[[0,"é"]]}',
        "isBase64Encoded": False,
    }


def test_twenty_megabytes_pass_gzipped_and_not_otherwise() -> None:
    large = result('"' + "abcdefghij" * 2_000_000 + '"')
    for headers in ({"Accept": "*/*", "Accept_Encoding": "gzip"}, {"Accept_Encoding": "gzip"}):
        answer = wire.answer_result(large, request(**headers))
        assert len(answer["body"]) < wire.MAX_BODY_CHARS
        assert len(gzip.decompress(base64.b64decode(answer["body"]))) > 20_000_000
    with pytest.raises(errors.ResultTooLarge, match=r"MAX_BATCH_ROWS.*send Accept-Encoding: gzip"):
        wire.answer_result(large, request())


def test_a_result_too_large_even_gzipped_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY_CHARS", 50)
    with pytest.raises(errors.ResultTooLarge, match=r"MAX_BATCH_ROWS on the external function$"):
        wire.answer_result(result('"abcdefghijklmnop"'), request(Accept="*/*", Accept_Encoding="gzip"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadRequest("why"), 400),
        (errors.UnknownTarget("why"), 404),
        (errors.UnknownBatch("why"), 404),
        (errors.BatchConflict("why"), 409),
        (errors.ResultExpired("why"), 410),
        (errors.RequestTooLarge("why"), 413),
        (errors.ResultTooLarge("why"), 422),
        (errors.Throttled("why"), 429),
        (errors.ApiError("why"), 500),
    ],
)
def test_each_error_has_its_status_and_says_why(error: errors.ApiError, status: int) -> None:
    answer = wire.answer_error(error)
    assert answer["statusCode"] == status
    assert json.loads(answer["body"]) == {"error": type(error).__name__, "message": "why"}


def test_a_failed_batch_is_answered_with_error_cause_and_execution() -> None:
    answer = wire.answer_error(errors.BatchFailed("FunctionError", "f, row 3: KeyError: 'é'", "f-0123"))
    assert answer["statusCode"] == 422
    assert json.loads(answer["body"]) == {
        "error": "FunctionError",
        "cause": "f, row 3: KeyError: 'é'",
        "execution": "f-0123",
    }


def test_a_running_batch_is_answered_with_its_execution() -> None:
    answer = wire.answer_running("f-0123")
    assert answer["statusCode"] == 202
    assert json.loads(answer["body"]) == {"status": "running", "execution": "f-0123"}


# Properties

LARGEST = 10**300
numbers = st.one_of(
    st.integers(-LARGEST, LARGEST),
    st.integers(-(10**38), 10**38),
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-LARGEST, max_value=LARGEST),
    st.decimals(allow_nan=False, allow_infinity=False, places=10, min_value=-(10**27), max_value=10**27),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=6,
)
rows_of_values = st.lists(st.lists(values, max_size=3), max_size=5)


def digits(value: Any) -> Any:
    """A JSON value with each number as its sign, its digits and its exponent: 1.10 is not 1.1."""
    if isinstance(value, list):
        return [digits(item) for item in value]
    if isinstance(value, dict):
        return {key: digits(item) for key, item in value.items()}
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = Decimal(value)
        # A whole number without an exponent is an integer in JSON, whose zero has no sign.
        return number.as_tuple() if number or number.as_tuple().exponent else "0"
    return value


@given(rows_of_values, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([bytes, gzip.compress]))
def test_any_rows_are_returned_unchanged_and_in_order(
    rows: list[list[Any]], escaped: bool, indent: int | None, pack: Callable[[bytes], bytes]
) -> None:
    data = {"data": [[number, *row] for number, row in enumerate(rows)]}
    sent = simplejson.dumps(data, use_decimal=True, ensure_ascii=escaped, indent=indent).encode()
    parsed = wire.parse_rows(api_event("echo", "POST", pack(sent)))
    # Through the execution's input and back.
    again = parse_json(json.loads(json.dumps({"rows": parsed.text}))["rows"])
    half = len(again) // 2
    signature, echo = read_catalog(diagnostics=True)["echo"], load_function("echo")
    chunks = [
        wire.render_rows(run_rows(signature, echo, part, first), first)
        for part, first in ((again[:half], 0), (again[half:], half))
    ]
    answer = wire.answer_result(wire.render_result(chunks), wire.parse_request(api_event("echo")))
    received = json.loads(gzip.decompress(base64.b64decode(answer["body"])), parse_float=Decimal)
    assert digits(received) == digits({"data": [[number, row] for number, row in enumerate(rows)]})


def read_or_refuse(sent: dict[str, Any]) -> None:
    """Reads a POST's rows. Fails for anything but rows or a 4xx that says why."""
    try:
        rows = wire.parse_rows(sent)
    except errors.ApiError as error:
        answer = wire.answer_error(error)
    else:
        assert parse_json(rows.text) == rows.arguments
        return
    assert 400 <= answer["statusCode"] < 500
    assert json.loads(answer["body"])["message"]


@given(st.binary(), st.sampled_from(["", "gzip", "deflate", "identity"]))
def test_any_bytes_are_rows_or_a_refusal(body: bytes, coding: str) -> None:
    for sent in (body, gzip.compress(body), zlib.compress(body), b'{"data":[[0,' + body + b"]]}"):
        read_or_refuse(api_event("echo", "POST", sent, headers={"Content-Encoding": coding}))


@given(st.text(alphabet='{}[]",:0123456789.eE+-tfn \\ud8data', max_size=60))
def test_anything_that_looks_like_json_is_rows_or_a_refusal(text: str) -> None:
    for sent in (text, '{"data":[[0,' + text + "]]}", '{"data":[' + text + "]}"):
        read_or_refuse(api_event("echo", "POST", sent.encode(), as_text=True))


@given(values)
def test_what_is_written_is_what_python_reads(value: Any) -> None:
    text = dump_json(value)
    assert digits(json.loads(text, parse_float=Decimal)) == digits(value)
