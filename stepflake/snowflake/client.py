"""Calls a remote service by HTTP as Snowflake calls an external function.

It shares no code with the Lambdas, so that a mistake in one of them is not hidden by the same mistake here.
https://docs.snowflake.com/en/sql-reference/external-functions-data-format
https://docs.snowflake.com/en/sql-reference/external-functions-implementation
"""

import base64
import gzip
import hashlib
import random
import re
import threading
import time
import urllib.parse
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Self, TypeVar

import simplejson
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

# The largest batches seen have about 4,096 rows; MAX_BATCH_ROWS only lowers that.
BATCH_ROWS = 4096
# Snowflake reads at most 10 MB of an answer, compressed as it is sent.
RESPONSE_BYTES = 10 * 1024 * 1024
# Snowflake's time limit for a batch; it can't be configured.
GIVE_UP_SECONDS = 600.0

# Snowflake doesn't publish its intervals; these are short at first, for quick functions.
FIRST_POLL_SECONDS, POLL_GROWTH, LONGEST_POLL_SECONDS = 0.1, 1.5, 5.0
FIRST_RETRY_SECONDS, RETRY_GROWTH, LONGEST_RETRY_SECONDS = 0.25, 2.0, 8.0
RETRIES = 8

ACCEPTED, OK, THROTTLED, SERVER_ERROR = 202, 200, 429, 500
SHOWN_CHARACTERS = 2000
PIECE_BYTES = 1 << 16

_Values = TypeVar("_Values")
Compression = Literal["AUTO", "GZIP", "DEFLATE", "NONE"]


class ExternalFunctionError(Exception):
    """A batch failed; the message is the one that Snowflake shows."""


class Cancelled(Exception):
    """This batch was abandoned because another batch of the same call failed."""


@dataclass(frozen=True)
class ExternalFunction:
    """An external function as SQL declares it.

    `parameters`: names and Snowflake types. `headers`: HEADERS, sent as `sf-custom-*`. `context_headers`: the
    context functions' names; `SnowflakeClient.call` takes their values.
    """

    name: str
    url: str
    parameters: tuple[tuple[str, str], ...]
    returns: str
    headers: tuple[tuple[str, str], ...] = ()
    context_headers: tuple[str, ...] = ()
    max_batch_rows: int | None = None
    compression: Compression = "AUTO"
    null_on_null: bool = False
    immutable: bool = False
    comment: str = ""

    @property
    def signature(self) -> str:
        """As in Snowflake's header: `(A VARCHAR, B NUMBER)`."""
        return "(" + ", ".join(f"{name} {kind}" for name, kind in self.parameters) + ")"


@dataclass
class Batch:
    """One batch and the state of its requests, for a Watcher.

    `rows`: the count of rows. `statuses`: the HTTP status of each request, 0 for one without an answer.
    `seconds`: from the POST to the rows or the error, once the state is "done" or "failed".
    """

    id: str
    function: str
    url: str
    rows: int
    statuses: list[int] = field(default_factory=list)
    seconds: float = 0.0
    state: Literal["sent", "done", "failed"] = "sent"


Watcher = Callable[[Batch], None]


def new_query_id() -> str:
    """A query id in the shape of Snowflake's: a UUID that starts with 01."""
    return "01" + str(uuid.uuid4())[2:]


class SnowflakeClient:
    """Sends batches to remote services, signed with SigV4, and polls, retries and checks as Snowflake does.

    `watch` is called with each batch when it is sent, after each answer and at its end, in the thread that
    sends it. `in_flight`: the most batches of one call that are sent in parallel. `retries`: how often a
    request is repeated that gets no answer, 429 or 5xx; Snowflake does not publish it. Thread-safe.
    """

    def __init__(
        self,
        credentials: Credentials,
        region: str,
        *,
        in_flight: int = 16,
        retries: int = RETRIES,
        watch: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._in_flight = in_flight
        self._retries = retries
        self._watch = watch or (lambda _batch: None)
        self._clock = clock
        self._pause = pause
        self._jitter = jitter
        self._pool = urllib3.PoolManager(
            maxsize=in_flight, retries=False, timeout=urllib3.Timeout(connect=10, read=60)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.clear()

    def call(
        self,
        function: ExternalFunction,
        rows: Iterable[Sequence[Any]],
        *,
        query_id: str | None = None,
        call_number: int = 1,
        context: Mapping[str, str] | None = None,
    ) -> Iterator[Any]:
        """The function's value for each row of arguments, in order; sent in batches, several in parallel.

        `call_number` distinguishes the calls of one query in the batch ids. Values are parsed JSON, with
        Decimal for numbers with a fraction or an exponent. Raises ExternalFunctionError for the first batch
        that fails.
        """
        query_id = query_id or new_query_id()
        size = min(function.max_batch_rows or BATCH_ROWS, BATCH_ROWS)
        source = iter(rows)
        batches = iter(lambda: list(islice(source, size)), [])
        stop = threading.Event()
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="batch") as executor:
            # Lazily: the next batch is taken from `rows` when one in flight is done.
            futures = (
                executor.submit(
                    self.send,
                    function,
                    batch,
                    query_id=query_id,
                    batch_id=f"{query_id}:{call_number}:1:0:{number}",
                    context=context,
                    stop=stop,
                )
                for number, batch in enumerate(batches)
            )
            try:
                for values in _in_order(futures, self._in_flight):
                    yield from values
            finally:
                stop.set()

    def send(
        self,
        function: ExternalFunction,
        rows: Sequence[Sequence[Any]],
        *,
        query_id: str,
        batch_id: str,
        context: Mapping[str, str] | None = None,
        stop: threading.Event | None = None,
    ) -> list[Any]:
        """One batch: POST, and GET as long as the answer is 202; the value of each row, in order.

        Raises ExternalFunctionError, and Cancelled once `stop` is set.
        """
        batch = Batch(batch_id, function.name, function.url, len(rows))
        headers = request_headers(function, query_id, batch_id, context or {})
        body, encoding = _compressed(request_body(rows), function.compression)
        headers |= encoding
        started = self._clock()
        self._watch(batch)
        try:
            answer = self._converse(function, batch, body, headers, stop or threading.Event())
            values = read_values(function.name, answer, len(rows))
        except BaseException:
            batch.state = "failed"
            raise
        else:
            batch.state = "done"
            return values
        finally:
            batch.seconds = self._clock() - started
            self._watch(batch)

    def _converse(
        self,
        function: ExternalFunction,
        batch: Batch,
        body: bytes,
        headers: dict[str, str],
        stop: threading.Event,
    ) -> bytes:
        """Send requests until one is answered with the rows, or the batch fails; the body with the rows."""
        deadline = self._clock() + GIVE_UP_SECONDS
        method, content = "POST", body
        polls = retries = 0
        while not stop.is_set():
            answer = self._try_request(method, function, content, headers)
            batch.statuses.append(answer.status)
            self._watch(batch)
            if answer.status == OK:
                return _checked(function.name, answer)
            if answer.status == ACCEPTED:
                method, content, retries = "GET", b"", 0
                delay = min(FIRST_POLL_SECONDS * POLL_GROWTH**polls, LONGEST_POLL_SECONDS)
                polls += 1
            elif is_retryable(answer.status) and retries < self._retries:
                delay = self._retry_delay(retries)
                retries += 1
            else:
                tries = f" (after {retries + 1} tries)" if is_retryable(answer.status) else ""
                raise ExternalFunctionError(
                    f"Request failed for external function {function.name} {answer.problem}{tries}"
                )
            if self._clock() + delay >= deadline:
                raise ExternalFunctionError(
                    f"Request failed for external function {function.name}: batch {batch.id} was given up "
                    f"after {GIVE_UP_SECONDS:.0f} s, {answer.problem}"
                )
            self._pause(stop, delay)
        raise Cancelled(batch.id)

    def _retry_delay(self, retries: int) -> float:
        """Exponential backoff with jitter, in seconds."""
        longest = min(FIRST_RETRY_SECONDS * RETRY_GROWTH**retries, LONGEST_RETRY_SECONDS)
        return longest * (0.5 + self._jitter() / 2)

    def _try_request(
        self, method: str, function: ExternalFunction, body: bytes, headers: dict[str, str]
    ) -> "_Answer":
        try:
            return self._request(method, function, body, headers)
        except urllib3.exceptions.HTTPError as error:
            return _Answer(0, error=f"without an answer from {function.url}: {_plain(error)}")

    def _request(
        self, method: str, function: ExternalFunction, body: bytes, headers: dict[str, str]
    ) -> "_Answer":
        signed = AWSRequest(method=method, url=function.url, data=body, headers=headers)
        region = region_of(function.url) or self._region
        SigV4Auth(self._credentials, "execute-api", region).add_auth(signed)
        response = self._pool.request(
            method,
            function.url,
            body=body or None,
            headers={name: str(value) for name, value in signed.headers.items()},
            preload_content=False,
            decode_content=False,
            redirect=False,
        )
        # Read to the end, which detects a truncated answer, and in pieces, which limits the memory.
        received = bytearray()
        with response:
            for piece in response.stream(PIECE_BYTES, decode_content=False):
                received += piece
                if len(received) > RESPONSE_BYTES:
                    response.close()
                    raise ExternalFunctionError(
                        f"Request failed for external function {function.name}: the response is larger than "
                        f"{RESPONSE_BYTES} bytes; return less in a row, or lower its MAX_BATCH_ROWS"
                    )
        decoded = _decoded(bytes(received), response.headers.get("Content-Encoding", ""))
        return _Answer(response.status, decoded, bytes(received), response.headers.get("Content-MD5"))


@dataclass(frozen=True)
class _Answer:
    """`body`: decompressed; `received`: as sent. `status`: 0 without an answer, for which `error` is why."""

    status: int
    body: bytes = b""
    received: bytes = b""
    md5: str | None = None
    error: str = ""

    @property
    def problem(self) -> str:
        """The end of the message of a batch that fails with this answer."""
        if self.status == ACCEPTED:
            return "because it was still running (202)"
        return self.error or f"with remote service error: {self.status} '{_shown(self.body)}'"


def _in_order(futures: Iterator[Future[_Values]], in_flight: int) -> Iterator[_Values]:
    """The results in the order of the futures, of which at most `in_flight` run; raises the first error."""
    running: dict[Future[_Values], int] = {}
    finished: dict[int, _Values] = {}
    started = delivered = 0
    while True:
        for future in islice(futures, in_flight - len(running)):
            running[future] = started
            started += 1
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            finished[running.pop(future)] = future.result()
        while delivered in finished:
            yield finished.pop(delivered)
            delivered += 1


def is_retryable(status: int) -> bool:
    """Whether Snowflake repeats a request with this status; 0 stands for no answer."""
    return status in (0, THROTTLED) or status >= SERVER_ERROR


def region_of(url: str) -> str | None:
    """The region in an API Gateway URL, None for another host's."""
    host = urllib.parse.urlsplit(url).hostname or ""
    found = re.fullmatch(r"[^.]+\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", host)
    return found[1] if found else None


def request_body(rows: Sequence[Sequence[Any]]) -> bytes:
    """`{"data":[[0,...],[1,...]]}` with newlines as Snowflake writes them."""
    lines = (dump_json([number, *row]) for number, row in enumerate(rows))
    return ('{\n"data":[\n' + ",\n".join(lines) + "\n]\n}").encode()


def request_headers(
    function: ExternalFunction, query_id: str, batch_id: str, context: Mapping[str, str]
) -> dict[str, str]:
    """Snowflake's headers for one batch; `context` has the values of CONTEXT_HEADERS by function name."""
    prefix = "sf-external-function"
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": "snowflake/1.0",
        f"{prefix}-format": "json",
        f"{prefix}-format-version": "1.0",
        f"{prefix}-current-query-id": query_id,
        f"{prefix}-query-batch-id": batch_id,
        **_with_twin(f"{prefix}-name", function.name),
        **_with_twin(f"{prefix}-signature", function.signature),
        **_with_twin(f"{prefix}-return-type", function.returns),
    }
    for name, value in function.headers:
        headers[f"sf-custom-{name}"] = value
    for name in function.context_headers:
        headers |= _with_twin("sf-context-" + name.lower().replace("_", "-"), context.get(name, ""))
    return headers


def read_values(function_name: str, answer: bytes, count: int) -> list[Any]:
    """The value of each of the `count` rows of a 200's body. Raises ExternalFunctionError."""
    problem = f"Error parsing JSON response from external function {function_name}: "
    try:
        parsed = load_json(answer.decode())
    except (ValueError, RecursionError) as error:
        raise ExternalFunctionError(f"{problem}{error}: '{_shown(answer)}'") from None
    rows = parsed.get("data") if isinstance(parsed, dict) else None
    if not isinstance(rows, list):
        raise ExternalFunctionError(f'{problem}top-level JSON object must contain "data" JSON array element')
    if len(rows) != count:
        raise ExternalFunctionError(f"{problem}wrong number of rows: expected {count}, got {len(rows)}")
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 2:  # noqa: PLR2004
            raise ExternalFunctionError(
                f"{problem}row {number} must be an array of a row number and one value: "
                f"{dump_json(row)[:200]}"
            )
        if row[0] != number or not isinstance(row[0], int) or isinstance(row[0], bool):
            raise ExternalFunctionError(
                f"{problem}Row numbers out of order: expected {number}, got {dump_json(row[0])[:200]}"
            )
    return [row[1] for row in rows]


def dump_json(value: Any) -> str:
    """Compact JSON with all digits of ints and Decimals; NaN and Infinity are a ValueError."""
    return simplejson.dumps(
        value, use_decimal=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def load_json(text: str) -> Any:
    """JSON with int and Decimal for numbers, so that no digit is lost; NaN and Infinity are a ValueError."""
    return simplejson.loads(text, use_decimal=True, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _with_twin(name: str, value: str) -> dict[str, str]:
    """A header and its base64 twin; the plain one can't hold what isn't printable ASCII."""
    plain = "".join(c if " " <= c <= "~" else " " for c in value)
    return {name: plain, f"{name}-base64": base64.b64encode(value.encode()).decode()}


def _compressed(body: bytes, compression: Compression) -> tuple[bytes, dict[str, str]]:
    if compression == "NONE":
        return body, {}
    if compression == "DEFLATE":
        return zlib.compress(body), {"Content-Encoding": "deflate"}
    return gzip.compress(body, compresslevel=6, mtime=0), {"Content-Encoding": "gzip"}


def _decoded(received: bytes, encoding: str) -> bytes:
    """The body without gzip. Raises DecodeError for a corrupt one, so that the request is repeated."""
    if encoding.strip().lower() != "gzip":
        return received
    try:
        return gzip.decompress(received)
    except (OSError, EOFError, zlib.error) as error:
        raise urllib3.exceptions.DecodeError(f"the answer is not gzip as its header says: {error}") from error


def _checked(function_name: str, answer: _Answer) -> bytes:
    """The body, if Content-MD5 is absent or matches.

    Whether Snowflake takes the digest before or after gzip isn't documented; either is accepted.
    """
    actual = [
        base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        for content in (answer.body, answer.received)
    ]
    if answer.md5 is not None and answer.md5.strip() not in actual:
        raise ExternalFunctionError(
            f"Request failed for external function {function_name}: Content-MD5 is {answer.md5}, "
            f"but the response body's is {actual[0]}"
        )
    return answer.body


def _shown(body: bytes) -> str:
    text = body.decode(errors="replace")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _plain(error: Exception) -> str:
    """An error's message without the object's repr, with which urllib3's messages start."""
    return re.sub(r"^<[^>]*>: |^\w+\(.*?\): ", "", str(error))
