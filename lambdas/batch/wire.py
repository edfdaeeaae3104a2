"""Snowflake's wire format: requests in, answers out. Pure: no AWS, no clock.

https://docs.snowflake.com/en/sql-reference/external-functions-data-format
"""

import base64
import gzip
import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch.errors import ApiError, BadRequest, BatchFailed, RequestTooLarge, ResultTooLarge
from core.exact_json import Json, dump_json, parse_json

Event = Mapping[str, Any]
Answer = dict[str, Any]

HEADER = "sf-external-function-"

# A synchronous Lambda event or response is at most 6 MB; the rest of it is headers and context.
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
MAX_BODY_CHARS = 6 * 1024 * 1024 - 64 * 1024

# A request's JSON, however small its compressed form is: API Gateway unpacks it, and passes it as base64.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-gzip-compression-decompression.html
MAX_REQUEST_BYTES = MAX_BODY_CHARS // 4 * 3

REMEDY = "lower MAX_BATCH_ROWS on the external function"
REQUEST_TOO_LARGE = f"the rows have more than {MAX_REQUEST_BYTES:,} bytes of JSON, uncompressed; {REMEDY}"


@dataclass(frozen=True)
class Request:
    """One POST or GET of Snowflake's on /{kind}/{name}; header names are lower-case."""

    kind: str
    name: str
    batch_id: str
    query_id: str
    headers: Mapping[str, str]

    @property
    def accepts_gzip(self) -> bool:
        """Whether the caller reads a gzipped answer."""
        header = self.headers.get("accept-encoding", "").lower().replace(" ", "")
        codings = (coding.partition(";") for coding in header.split(","))
        # q=0, q=0.0, q=0.000: refused. https://www.rfc-editor.org/rfc/rfc9110#section-12.4.2
        return any(
            name in ("gzip", "*") and not re.fullmatch(r"q=0\.?0*", quality) for name, _, quality in codings
        )

    @property
    def has_accept(self) -> bool:
        """Whether there is an Accept header, by which API Gateway decides that an answer may be bytes.

        What it does without one is not documented, so such a caller gets text wherever text fits.
        https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-payload-encodings.html
        """
        return bool(self.headers.get("accept"))


@dataclass(frozen=True)
class Rows:
    """The rows of a batch without their numbers, which are checked to be 0..n-1.

    `text`: canonical JSON, an array of argument arrays; `digest`: its SHA-256 in hex.
    """

    arguments: list[list[Json]]
    text: str
    digest: str


def parse_request(event: Event) -> Request:
    """A REST API proxy event as a Request. Raises BadRequest where a header is missing or unknown."""
    headers = _headers(event)
    version = headers.get(HEADER + "format-version", "1.0")
    if version != "1.0":
        raise BadRequest(f"header {HEADER}format-version is {version!r}; this service speaks version 1.0")
    if (form := headers.get(HEADER + "format", "json")).lower() != "json":
        raise BadRequest(f"header {HEADER}format is {form!r}; this service speaks json")
    batch_id = headers.get(HEADER + "query-batch-id", "")
    if not batch_id:
        raise BadRequest(
            f"header {HEADER}query-batch-id is missing; without it a repeated request cannot be recognized"
        )
    kind = event["resource"].strip("/").partition("/")[0]
    name = (event.get("pathParameters") or {}).get("name") or ""
    return Request(kind, name, batch_id, headers.get(HEADER + "current-query-id", ""), headers)


def parse_rows(event: Event) -> Rows:
    """The rows in a POST's body. Raises BadRequest or RequestTooLarge, saying what is wrong and where."""
    body = _unpack(event)
    try:
        document = parse_json(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest("the body nests arrays or objects too deeply to be read") from None
    if not isinstance(document, dict) or "data" not in document:
        raise BadRequest('the body must be a JSON object with the array "data": {"data": [[0, ...], ...]}')
    data = document["data"]
    if not isinstance(data, list):
        raise BadRequest(f'"data" must be an array of rows, not {_kind(data)}')
    for number, row in enumerate(data):
        if not isinstance(row, list) or not row:
            raise BadRequest(f'"data"[{number}] must be a row: an array of its number and its arguments')
        if type(row[0]) is not int or row[0] != number:
            raise BadRequest(
                f'"data"[{number}] must begin with its row number, {number}; rows are numbered from 0'
            )
    arguments = [row[1:] for row in data]
    text = dump_json(arguments)
    try:
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError:
        raise BadRequest(
            "a string in the body has half of a surrogate pair, which is not Unicode text"
        ) from None
    return Rows(arguments, text, digest)


def render_rows(texts: Sequence[str], first_row: int) -> str:
    """Values, each JSON text, as numbered rows without the outer brackets: `[0,"a"],[1,"b"]`."""
    return ",".join(f"[{number},{text}]" for number, text in enumerate(texts, first_row))


def render_result(chunks: Sequence[str]) -> bytes:
    """Chunks that `render_rows` made, in order, as the gzipped body of a 200: the same bytes each time."""
    body = '{"data":[' + ",".join(chunk for chunk in chunks if chunk) + "]}"
    return gzip.compress(body.encode("utf-8"), compresslevel=6, mtime=0)


def answer_result(result: bytes, request: Request) -> Answer:
    """A 200 with a stored result, gzipped where the caller accepts that. Raises ResultTooLarge."""
    headers = {"Content-Type": "application/json"}
    if request.accepts_gzip and (request.has_accept or _unpacked_size(result) > MAX_BODY_CHARS):
        body = base64.b64encode(result).decode("ascii")
        size = len(body)
        headers["Content-Encoding"] = "gzip"
    else:
        unpacked = gzip.decompress(result)
        body = unpacked.decode("utf-8")
        size = len(unpacked)
    if size > MAX_BODY_CHARS:
        hint = "" if request.accepts_gzip else ", or send Accept-Encoding: gzip"
        raise ResultTooLarge(
            f"the answer has {size:,} bytes and a response holds {MAX_BODY_CHARS:,}; {REMEDY}{hint}"
        )
    is_gzip = "Content-Encoding" in headers
    return {"statusCode": 200, "headers": headers, "body": body, "isBase64Encoded": is_gzip}


def answer_running(execution: str) -> Answer:
    """A 202: the batch is still running."""
    return _answer(202, {"status": "running", "execution": execution})


def answer_error(error: ApiError) -> Answer:
    """An error's status and a JSON body that a SQL user understands."""
    if isinstance(error, BatchFailed):
        return _answer(
            error.status, {"error": error.error, "cause": error.cause, "execution": error.execution}
        )
    return _answer(error.status, {"error": type(error).__name__, "message": str(error)})


def _headers(event: Event) -> dict[str, str]:
    return {name.lower(): value for name, value in (event.get("headers") or {}).items()}


def _unpacked_size(packed: bytes) -> int:
    # The last four bytes of a gzip are its unpacked size, of which render_result writes one member.
    return int.from_bytes(packed[-4:], "little")


def _answer(status: int, document: Json) -> Answer:
    headers = {"Content-Type": "application/json"}
    return {"statusCode": status, "headers": headers, "body": dump_json(document), "isBase64Encoded": False}


def _unpack(event: Event) -> bytes:
    headers = _headers(event)
    text: str = event.get("body") or ""
    try:
        body = base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode("utf-8")
    except ValueError as error:
        raise BadRequest(f"the body cannot be decoded: {error}") from None
    if len(body) > MAX_REQUEST_BYTES:
        raise RequestTooLarge(REQUEST_TOO_LARGE)
    # API Gateway may have unpacked the body and kept the header `Content-Encoding`: the first bytes decide.
    # No JSON text begins with these bytes.
    if body[:2] == b"\x1f\x8b":
        return _decompress(body, 16 + zlib.MAX_WBITS)
    if body[:1] == b"\x78":
        return _decompress(body, zlib.MAX_WBITS)
    # A deflate stream without zlib's header, as some clients send, cannot be recognized by its bytes.
    if headers.get("content-encoding", "").lower() == "deflate" and not body.lstrip().startswith(b"{"):
        return _decompress(body, -zlib.MAX_WBITS)
    return body


def _decompress(body: bytes, window_bits: int) -> bytes:
    unpacker = zlib.decompressobj(window_bits)
    try:
        unpacked = unpacker.decompress(body, MAX_REQUEST_BYTES + 1)
    except zlib.error as error:
        raise BadRequest(f"the compressed body cannot be unpacked: {error}") from None
    if len(unpacked) > MAX_REQUEST_BYTES:
        raise RequestTooLarge(REQUEST_TOO_LARGE)
    if not unpacker.eof:
        raise BadRequest("the compressed body ends in the middle")
    if unpacker.unused_data:
        raise BadRequest(f"{len(unpacker.unused_data)} bytes follow the end of the compressed body")
    return unpacked


def _kind(value: Json) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
