"""The deployed API against Snowflake's contract, byte by byte."""

import gzip
import json
import uuid
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.credentials import Credentials

from tests.caller import Caller, body_of, new_batch_id

TEXT = "héllo \U0001f600 \u2028"
ROWS: list[list[Any]] = [[TEXT, 1], [None, {"a": []}]]


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def post(caller: Caller, body: bytes, name: str = "echo", **options: Any) -> tuple[int, Any]:
    response = caller.request("POST", name, body, **{"batch_id": new_batch_id()} | options)
    return response.status, response.document


# Answers


def test_each_row_has_its_answer_in_order(caller: Caller) -> None:
    rows = [[n, f"row {n}"] for n in range(4096)]
    assert caller.call("echo", rows).values == rows


def test_no_rows_give_no_rows(caller: Caller) -> None:
    assert caller.post("echo", [], new_batch_id()).document == {"data": []}


def test_rows_without_arguments_are_answered(caller: Caller) -> None:
    assert caller.call("echo", [[], []]).values == [[], []]


def test_the_same_request_gets_the_same_bytes(caller: Caller) -> None:
    batch_id = new_batch_id()
    first = caller.call("echo", ROWS, batch_id)
    answers = [caller.get("echo", batch_id) for _ in range(3)]
    answers += [caller.post("echo", ROWS, batch_id) for _ in range(2)]
    assert first.values == ROWS
    assert {answer.raw for answer in answers} == {first.raw}
    assert {answer.status for answer in answers} == {200}


def test_a_long_batch_is_answered_with_202_and_polled(caller: Caller) -> None:
    batch_id = new_batch_id()
    first = caller.post("sleep", [[2.5]], batch_id)
    assert first.status == 202
    assert set(first.document) == {"status", "execution"}
    assert caller.post("sleep", [[2.5]], batch_id).status in (200, 202)
    assert caller.poll("sleep", batch_id).values == [2.5]


def test_a_poll_right_after_the_post_is_not_an_error(caller: Caller) -> None:
    batch_id = new_batch_id()
    with ThreadPoolExecutor(2) as pool:
        posted = pool.submit(caller.post, "sleep", [[0.5]], batch_id)
        polled = pool.submit(caller.get, "sleep", batch_id)
        # The GET may arrive before the POST: then the batch is unknown at first.
        assert polled.result().status in (200, 202, 404)
        assert posted.result().status in (200, 202)
    assert caller.poll("sleep", batch_id).values == [0.5]


@pytest.mark.parametrize(
    ("accepts", "packed"), [("gzip", True), ("gzip, deflate", True), (None, False), ("identity", False)]
)
def test_an_answer_is_gzipped_on_request(caller: Caller, accepts: str | None, packed: bool) -> None:
    batch_id = new_batch_id()
    caller.call("echo", ROWS, batch_id)
    answer = caller.get("echo", batch_id, headers={"Accept-Encoding": accepts or "identity"})
    assert (answer.headers.get("Content-Encoding") == "gzip") is packed
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.values == ROWS


def test_twenty_megabytes_are_answered_completely(caller: Caller) -> None:
    characters = 5 * 1024 * 1024
    answer = caller.call("huge", [[characters]] * 4)
    assert len(answer.body) > 20 * 1024 * 1024
    assert len(answer.raw) < 1024 * 1024
    assert {len(value) for value in answer.values} == {characters}
    assert len({*answer.values}) == 1


# Bodies


@pytest.mark.parametrize(
    ("pack", "headers"),
    [
        (bytes, {}),
        (gzip.compress, {"Content-Encoding": "gzip"}),
        (gzip.compress, {}),
        (zlib.compress, {"Content-Encoding": "deflate"}),
        (raw_deflate, {"Content-Encoding": "deflate"}),
    ],
    ids=["plain", "gzip", "gzip without its header", "deflate", "raw deflate"],
)
def test_a_body_is_read_in_every_compression(
    caller: Caller, pack: Callable[[bytes], bytes], headers: Mapping[str, str]
) -> None:
    batch_id = new_batch_id()
    body = pack(body_of(ROWS))
    first = caller.request("POST", "echo", body, batch_id=batch_id, headers=headers)
    assert first.status in (200, 202), first.body
    assert caller.poll("echo", batch_id).values == ROWS
    # The same rows in every compression: the same batch, and no conflict.
    assert caller.post("echo", ROWS, batch_id).raw == caller.get("echo", batch_id).raw


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_body_that_is_not_compressed_as_its_header_says_is_415(caller: Caller, coding: str) -> None:
    """API Gateway answers that, before a Lambda runs."""
    headers = {"Content-Encoding": coding}
    response = caller.request("POST", "echo", body_of(ROWS), batch_id=new_batch_id(), headers=headers)
    assert (response.status, response.document) == (415, {"message": "Unsupported Media Type"})


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
def test_header_names_are_case_insensitive(caller: Caller, change: Callable[[str], str]) -> None:
    batch_id = new_batch_id()
    name = "sf-external-function-query-batch-id"
    response = caller.request("POST", "echo", body_of(ROWS), headers={name: None, change(name): batch_id})
    assert response.status in (200, 202), response.body
    assert caller.poll("echo", batch_id).values == ROWS


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":[[0,"a",1],[1,"b",2]]}',
        b' \r\n\t{ "data" :\n[ [ 0 , "a" ,\n1 ]\n,\n[ 1 , "b" , 2 ] ] }\n\n',
        b'{"more": [1], "data":[[0,"\\u0061",1],[1,"b",2]]}',
    ],
)
def test_whitespace_and_escapes_do_not_matter(caller: Caller, body: bytes) -> None:
    batch_id = new_batch_id()
    caller.request("POST", "echo", body, batch_id=batch_id)
    assert caller.poll("echo", batch_id).values == [["a", 1], ["b", 2]]


LITERALS = [
    "12345678901234567890123456789012345678",
    "-12345678901234567890123456789012345678",
    "1.10",
    "0.1234567890123456789012345678901234567",
    "9007199254740993",
    "-0.0",
    "0",
    "1.5E-300",
    "1.7976931348623157E+308",
    "true",
    "null",
    '""',
    '"\\u0000\\u001f\\"\\\\/"',
    '"héllo \U0001f600"',
    '"{% $states.input %}"',
    "[]",
    "{}",
    '{"a":{"b":[1.10,{"c":null}]},"":"é"}',
    '"' + "x" * 1024 * 1024 + '"',
]


def test_every_value_keeps_all_its_digits(caller: Caller) -> None:
    batch_id = new_batch_id()
    body = '{"data":[' + ",".join(f"[{n},{literal}]" for n, literal in enumerate(LITERALS)) + "]}"
    caller.request("POST", "echo", body.encode(), batch_id=batch_id)
    answer = caller.poll("echo", batch_id)
    expected = '{"data":[' + ",".join(f"[{n},[{literal}]]" for n, literal in enumerate(LITERALS)) + "]}"
    assert answer.body == expected


def test_a_small_batch_keeps_its_digits_too(caller: Caller) -> None:
    """It is in the execution's input, where a larger one is in S3."""
    batch_id = new_batch_id()
    body = '{"data":[[0,' + ",".join(LITERALS[:-1]) + "]]}"
    caller.request("POST", "echo", body.encode(), batch_id=batch_id)
    answer = caller.poll("echo", batch_id)
    assert answer.body == '{"data":[[0,[' + ",".join(LITERALS[:-1]) + "]]]}"


# Refusals


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b'{"data":[[0,"a"]', "line 1 column"),
        (b'{"rows":[]}', '"data"'),
        (b'{"data":{"0":"a"}}', '"data" must be an array of rows, not an object'),
        (b'{"data":[[0,"a"],"b"]}', '"data"[1] must be a row'),
        (b'{"data":[[1,"a"]]}', '"data"[0] must begin with its row number, 0'),
        (b'{"data":[[0,"a"],[2,"b"]]}', '"data"[1] must begin with its row number, 1'),
        (b'{"data":[[0,1E+400]]}', "Infinity"),
        (b'{"data":[[0,NaN]]}', "NaN is not a JSON number"),
        (b'{"data":[[0,-Infinity]]}', "-Infinity is not a JSON number"),
        (b'{"data":[[0,"\\ud800"]]}', "surrogate"),
        (b'{"data":[[0,"\xff"]]}', "not UTF-8"),
        (b"\x1f\x8b\x08\x00", "compressed body"),
    ],
    ids=range(13),
)
def test_a_bad_body_is_400_with_what_is_wrong_and_where(caller: Caller, body: bytes, said: str) -> None:
    status, document = post(caller, body)
    assert (status, document["error"]) == (400, "BadRequest")
    assert said in document["message"]


def test_a_missing_batch_id_is_400(caller: Caller) -> None:
    for method in ("POST", "GET"):
        response = caller.request(method, "echo", body_of(ROWS) if method == "POST" else b"")
        assert response.status == 400
        assert "sf-external-function-query-batch-id" in response.document["message"]


def test_an_unknown_format_version_is_400(caller: Caller) -> None:
    status, document = post(caller, body_of(ROWS), headers={"sf-external-function-format-version": "2.0"})
    assert status == 400
    assert "'2.0'" in document["message"]


def test_a_wrong_number_of_arguments_is_400_with_the_signature(caller: Caller) -> None:
    status, document = post(caller, body_of([["a"], ["b", "c"]]), "sentiment")
    assert status == 400
    assert document["message"] == (
        "row 1 has 2 arguments; the function is sentiment(text VARCHAR) -> VARIANT"
    )


def test_an_unknown_function_is_404_with_the_known_ones(caller: Caller) -> None:
    for method in ("POST", "GET"):
        response = caller.request(method, "sentimental", body_of([["a"]]), batch_id=new_batch_id())
        assert response.status == 404
        assert "'sentimental'" in response.document["message"]
        assert "sentiment, sleep" in response.document["message"]


def test_an_unknown_batch_is_404(caller: Caller) -> None:
    response = caller.get("echo", new_batch_id())
    assert (response.status, response.document["error"]) == (404, "UnknownBatch")


def test_other_rows_under_the_same_batch_id_are_409(caller: Caller) -> None:
    batch_id = new_batch_id()
    assert caller.post("sleep", [[1.5]], batch_id).status == 202
    running = caller.post("sleep", [[1.6]], batch_id)
    assert caller.poll("sleep", batch_id).values == [1.5]
    finished = caller.post("sleep", [[1.6]], batch_id)
    for response in (running, finished):
        assert (response.status, response.document["error"]) == (409, "BatchConflict")
    assert caller.get("sleep", batch_id).values == [1.5]


def test_a_request_larger_than_the_limit_is_413_with_the_remedy(caller: Caller) -> None:
    status, document = post(caller, body_of([["x" * 5_000_000]]))
    assert (status, document["error"]) == (413, "RequestTooLarge")
    assert "MAX_BATCH_ROWS" in document["message"]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_an_unsigned_request_is_403(caller: Caller, method: str) -> None:
    response = caller.request(method, "echo", body_of(ROWS), batch_id=new_batch_id(), signed=False)
    assert response.status == 403


@pytest.mark.parametrize("is_known", [True, False])
def test_a_caller_without_permission_is_403(caller: Caller, is_known: bool) -> None:
    iam, name = caller.stack.client("iam"), f"stranger-{uuid.uuid4()}"
    key = {"AccessKeyId": "AKIANOBODY", "SecretAccessKey": "guessed"}
    if is_known:
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
    stranger = Credentials(key["AccessKeyId"], key["SecretAccessKey"])
    try:
        for method in ("POST", "GET"):
            response = caller.request(
                method, "echo", body_of(ROWS), batch_id=new_batch_id(), credentials=stranger
            )
            assert response.status == 403
    finally:
        if is_known:
            iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
            iam.delete_user(UserName=name)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_other_methods_are_refused(caller: Caller, method: str) -> None:
    response = caller.request(method, "echo", body_of(ROWS), batch_id=new_batch_id())
    assert response.status in (403, 404, 405)


def test_an_error_is_a_json_document_of_its_type(caller: Caller) -> None:
    response = caller.request("POST", "echo", b"{", batch_id=new_batch_id())
    assert response.headers["Content-Type"] == "application/json"
    assert set(json.loads(response.body)) == {"error", "message"}
