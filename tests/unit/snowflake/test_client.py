"""The client against a service that is slow, fails or answers wrongly."""

import base64
import gzip
import hashlib
import random
import re
import socket
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from botocore.credentials import Credentials

from stepflake.snowflake import client as wire
from stepflake.snowflake.client import Batch, ExternalFunction, ExternalFunctionError, SnowflakeClient
from tests.unit.snowflake.remote_service import (
    ACCEPTED,
    LOST,
    RemoteService,
    Response,
    gzipped,
    rows_response,
    serve,
)

QUERY = "01b02bdf-0001-7b58-0003-27d60056b5a6"


class FakeTime:
    """A clock that only pauses advance."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def pause(self, _stop: threading.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def service() -> Iterator[RemoteService]:
    with serve() as running:
        yield running


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def client(time: FakeTime) -> Iterator[SnowflakeClient]:
    with SnowflakeClient(
        Credentials("AKIDEXAMPLE", "secret", "token"),
        "eu-central-1",
        clock=time.clock,
        pause=time.pause,
        jitter=random.Random(1).random,
    ) as made:
        yield made


def function(service: RemoteService, **options: Any) -> ExternalFunction:
    return ExternalFunction("F", f"{service.url}/prod/functions/f", (("B", "VARCHAR"),), "VARIANT", **options)


def call(client: SnowflakeClient, declared: ExternalFunction, *rows: list[Any]) -> list[Any]:
    return list(client.call(declared, rows or [["x"]], query_id=QUERY))


def test_a_request_looks_as_snowflakes_do(service: RemoteService, client: SnowflakeClient) -> None:
    declared = function(
        service,
        headers=(("mode", "detached"),),
        context_headers=("CURRENT_USER",),
    )
    values = list(client.call(declared, [["x"], ["ü"]], query_id=QUERY, context={"CURRENT_USER": "Zoë"}))

    (request,) = service.requests
    assert values == ["x", "ü"]
    assert request.method == "POST"
    assert request.path == "/prod/functions/f"
    assert request.raw[:2] == b"\x1f\x8b"
    assert request.body.decode() == '{\n"data":[\n[0,"x"],\n[1,"ü"]\n]\n}'
    sent = request.headers
    assert sent["content-encoding"] == "gzip"
    assert sent["accept-encoding"] == "gzip"
    assert sent["user-agent"] == "snowflake/1.0"
    assert sent["content-type"] == "application/json"
    assert sent["sf-external-function-format"] == "json"
    assert sent["sf-external-function-format-version"] == "1.0"
    assert sent["sf-external-function-current-query-id"] == QUERY
    assert sent["sf-external-function-query-batch-id"] == f"{QUERY}:1:1:0:0"
    assert sent["sf-external-function-name"] == "F"
    assert sent["sf-external-function-signature"] == "(B VARCHAR)"
    assert sent["sf-external-function-return-type"] == "VARIANT"
    assert base64.b64decode(sent["sf-external-function-signature-base64"]) == b"(B VARCHAR)"
    assert sent["sf-custom-mode"] == "detached"
    assert sent["sf-context-current-user"] == "Zo "
    assert base64.b64decode(sent["sf-context-current-user-base64"]).decode() == "Zoë"
    assert re.match(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-central-1/execute-api/aws4_request, ",
        sent["authorization"],
    )
    assert sent["x-amz-security-token"] == "token"
    assert "sf-external-function-query-batch-id" in sent["authorization"]


def test_the_region_is_the_urls() -> None:
    assert wire.region_of("https://abc123.execute-api.us-west-2.amazonaws.com/prod/f") == "us-west-2"
    assert wire.region_of("http://127.0.0.1:4566/_aws/execute-api/abc/prod/f") is None


@pytest.mark.parametrize(
    ("compression", "encoding", "start"),
    [
        ("AUTO", "gzip", b"\x1f\x8b"),
        ("GZIP", "gzip", b"\x1f\x8b"),
        ("DEFLATE", "deflate", b"\x78"),
        ("NONE", None, b"{"),
    ],
)
def test_compression_is_the_functions(
    service: RemoteService, client: SnowflakeClient, compression: Any, encoding: str | None, start: bytes
) -> None:
    assert call(client, function(service, compression=compression)) == ["x"]
    (request,) = service.requests
    assert request.headers.get("content-encoding") == encoding
    assert request.raw.startswith(start)


def test_a_function_without_arguments_sends_row_numbers(
    service: RemoteService, client: SnowflakeClient
) -> None:
    service.function = lambda _path, arguments: len(arguments)
    assert call(client, function(service), [], []) == [0, 0]
    assert service.requests[0].rows == [[0], [1]]


def test_numbers_keep_their_digits_both_ways(service: RemoteService, client: SnowflakeClient) -> None:
    numbers = [12345678901234567890123456789012345678, Decimal("1.10"), Decimal("1E+400"), 1.5, -1]
    values = call(client, function(service), *[[number] for number in numbers])
    assert b"12345678901234567890123456789012345678" in service.requests[0].body
    assert b"1.10]" in service.requests[0].body
    assert [str(value) for value in values] == [str(number) for number in numbers]


def test_a_batch_that_runs_is_polled_with_the_same_headers(
    service: RemoteService, client: SnowflakeClient, time: FakeTime
) -> None:
    service.script.extend([ACCEPTED] * 20 + [gzipped(rows_response(["done"]))])
    assert call(client, function(service)) == ["done"]

    post, *polls = service.requests
    assert {poll.method for poll in polls} == {"GET"}
    assert {poll.path for poll in polls} == {post.path}
    assert {poll.raw for poll in polls} == {b""}
    changing = {"authorization", "x-amz-date", "content-length"}
    for poll in polls:
        assert {k: v for k, v in poll.headers.items() if k not in changing} == {
            k: v for k, v in post.headers.items() if k not in changing
        }
    assert time.pauses == sorted(time.pauses)
    assert time.pauses[0] < 0.5
    assert time.pauses[-1] == wire.LONGEST_POLL_SECONDS


@pytest.mark.parametrize(
    "failure", [LOST, Response(429), Response(500), Response(503, b"busy"), Response(504)]
)
def test_a_transient_failure_is_retried_with_the_same_batch_id(
    service: RemoteService, client: SnowflakeClient, time: FakeTime, failure: Response
) -> None:
    service.script.extend([failure, failure, ACCEPTED, failure])
    # The GET after that failure is answered with the rows.
    service.script.append(rows_response(["done"]))
    assert call(client, function(service)) == ["done"]
    assert [r.method for r in service.requests] == ["POST", "POST", "POST", "GET", "GET"]
    assert len({r.headers["sf-external-function-query-batch-id"] for r in service.requests}) == 1
    assert len({r.body for r in service.requests if r.method == "POST"}) == 1
    assert 0 < time.pauses[0] <= wire.FIRST_RETRY_SECONDS < time.pauses[1]


def test_a_truncated_answer_is_retried(service: RemoteService, client: SnowflakeClient) -> None:
    whole = rows_response(["done"])
    cut = Response(200, whole.body[:-5], {"Content-Length": str(len(whole.body)), "Connection": "close"})
    packed = gzip.compress(whole.body)[:-4]
    service.script.extend([cut, Response(200, packed, {"Content-Encoding": "gzip"}), whole])
    assert call(client, function(service)) == ["done"]
    assert len(service.requests) == 3


def test_retries_are_limited(service: RemoteService, client: SnowflakeClient, time: FakeTime) -> None:
    service.script.extend([Response(503, b"busy")] * 100)
    with pytest.raises(
        ExternalFunctionError, match="external function F with remote service error: 503 'busy'"
    ):
        call(client, function(service))
    assert len(service.requests) == wire.RETRIES + 1
    assert max(time.pauses) <= wire.LONGEST_RETRY_SECONDS


def test_a_refused_connection_is_reported_with_the_url(client: SnowflakeClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/prod/functions/f"
        with pytest.raises(ExternalFunctionError, match=re.escape(url)):
            call(client, ExternalFunction("F", url, (), "VARIANT"))


def test_a_batch_that_never_ends_fails_after_ten_minutes(
    service: RemoteService, client: SnowflakeClient, time: FakeTime
) -> None:
    service.script.extend([ACCEPTED] * 1000)
    with pytest.raises(ExternalFunctionError, match="given up after 600 s"):
        call(client, function(service))
    assert 590 <= time.now <= 600


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 201, 302])
def test_any_other_status_fails_at_once_and_shows_its_body(
    service: RemoteService, client: SnowflakeClient, status: int
) -> None:
    service.script.append(Response(status, b'{"error": "BadRow"}'))
    with pytest.raises(ExternalFunctionError) as raised:
        call(client, function(service))
    problem = "Request failed for external function F with remote service error"
    assert str(raised.value) == f'{problem}: {status} \'{{"error": "BadRow"}}\''
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", 'top-level JSON object must contain "data" JSON array element'),
        (b"{}", 'top-level JSON object must contain "data" JSON array element'),
        (b'{"data": {}}', 'top-level JSON object must contain "data" JSON array element'),
        (b'{"data": [[0, 1]]}', "wrong number of rows: expected 2, got 1"),
        (b'{"data": [[0, 1], [1, 2], [2, 3]]}', "wrong number of rows: expected 2, got 3"),
        (b'{"data": [[1, 1], [0, 2]]}', "Row numbers out of order: expected 0, got 1"),
        (b'{"data": [[0, 1], ["1", 2]]}', 'Row numbers out of order: expected 1, got "1"'),
        (b'{"data": [[false, 1], [1, 2]]}', "Row numbers out of order: expected 0, got false"),
        (b'{"data": [[0, 1], [1]]}', "row 1 must be an array"),
        (b'{"data": [[0, 1, 2], [1, 2]]}', "row 0 must be an array"),
        (b'{"data": [[0, NaN], [1, 2]]}', "NaN is not JSON"),
        (b"<html>", "Error parsing JSON response"),
        (b'{"data": [[0, "\xff"], [1, 2]]}', "Error parsing JSON response"),
    ],
)
def test_a_200_with_wrong_rows_fails(
    service: RemoteService, client: SnowflakeClient, body: bytes, message: str
) -> None:
    service.script.append(Response(200, body))
    with pytest.raises(ExternalFunctionError, match=re.escape(message)):
        call(client, function(service), ["a"], ["b"])
    assert len(service.requests) == 1


def test_content_md5_must_match(service: RemoteService, client: SnowflakeClient) -> None:
    good = rows_response(["done"])
    digest = base64.b64encode(hashlib.md5(good.body).digest()).decode()
    service.script.append(rows_response(["done"], Content_MD5=digest))
    assert call(client, function(service)) == ["done"]
    service.script.append(rows_response(["dome"], Content_MD5=digest))
    with pytest.raises(ExternalFunctionError, match="Content-MD5"):
        call(client, function(service))


def test_an_answer_has_at_most_ten_megabytes_as_sent(service: RemoteService, client: SnowflakeClient) -> None:
    large = rows_response(["x" * 20_000_000])
    service.script.extend([gzipped(large), large])
    (value,) = call(client, function(service))
    assert len(value) == 20_000_000
    with pytest.raises(ExternalFunctionError, match=r"larger than 10485760 bytes.*MAX_BATCH_ROWS"):
        call(client, function(service))


def test_batches_are_sent_in_parallel_and_rows_keep_their_order(
    service: RemoteService, client: SnowflakeClient
) -> None:
    service.together = threading.Barrier(4)
    assert call(client, function(service, max_batch_rows=3), *[[n] for n in range(12)]) == list(range(12))
    assert service.most_at_once == 4
    assert service.rows_sent("f") == [[n] for n in range(12)]


def test_a_batch_has_at_most_4096_rows(service: RemoteService, client: SnowflakeClient) -> None:
    assert call(client, function(service, max_batch_rows=100_000), *[[n] for n in range(5000)]) == list(
        range(5000)
    )
    assert sorted(len(r.rows) for r in service.requests) == [904, 4096]


def test_no_rows_send_nothing(service: RemoteService, client: SnowflakeClient) -> None:
    assert list(client.call(function(service), [])) == []
    assert service.requests == []


def test_one_failed_batch_cancels_the_others(service: RemoteService, client: SnowflakeClient) -> None:
    service.script.append(Response(400, b"no"))
    service.script.extend([ACCEPTED] * 10_000)
    with pytest.raises(ExternalFunctionError, match="400 'no'"):
        call(client, function(service, max_batch_rows=1), *[[n] for n in range(16)])


def test_a_watcher_is_called_with_every_state_of_a_batch(service: RemoteService, time: FakeTime) -> None:
    heard: list[tuple[str, str, tuple[int, ...]]] = []

    def watch(batch: Batch) -> None:
        heard.append((batch.id, batch.state, tuple(batch.statuses)))

    service.script.extend([Response(503), ACCEPTED])
    service.script.append(rows_response(["done"]))
    with SnowflakeClient(
        Credentials("a", "b"), "eu-central-1", watch=watch, clock=time.clock, pause=time.pause
    ) as client:
        assert call(client, function(service)) == ["done"]
    batch_id = f"{QUERY}:1:1:0:0"
    assert heard == [
        (batch_id, "sent", ()),
        (batch_id, "sent", (503,)),
        (batch_id, "sent", (503, 202)),
        (batch_id, "sent", (503, 202, 200)),
        (batch_id, "done", (503, 202, 200)),
    ]
