"""Raw signed HTTP to a deployed API, without stepflake's own client: what is really sent and received."""

import gzip
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from stepflake.stack import Stack

# Long enough for a machine under load; a batch that hangs fails the test.
PATIENCE_SECONDS = 60
REPEATS = 20


@dataclass(frozen=True)
class Response:
    """A response with its body decompressed; `raw`: the body as it was sent."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> str:
        packed = self.headers.get("Content-Encoding") == "gzip"
        return (gzip.decompress(self.raw) if packed else self.raw).decode()

    @property
    def document(self) -> Any:
        """The body's JSON; numbers with a point or an exponent as Decimals."""
        return json.loads(self.body, parse_float=Decimal)

    @property
    def values(self) -> list[Any]:
        """The values of a 200, whose rows are checked to be in order."""
        assert self.status == 200, self.body
        rows = self.document["data"]
        assert [row[0] for row in rows] == list(range(len(rows)))
        assert all(len(row) == 2 for row in rows)
        return [row[1] for row in rows]


def new_batch_id() -> str:
    """A batch id in Snowflake's form."""
    return f"01{str(uuid.uuid4())[2:]}:1:1:0:0"


def body_of(rows: Sequence[Sequence[Any]]) -> bytes:
    """A POST's body, in Snowflake's form. Rows are of what Python's json writes."""
    lines = ",\n".join(json.dumps([number, *row]) for number, row in enumerate(rows))
    return ('{\n"data":[\n' + lines + "\n]\n}").encode()


class Caller:
    """Calls the functions of a stack. Thread-safe.

    `repeats`: it sends a request again, as Snowflake does, that gets no answer, 429 or 5xx; for tests under
    faults.
    """

    def __init__(self, stack: Stack, *, repeats: bool = False) -> None:
        self.stack = stack
        self.repeats = repeats
        self._http = urllib3.PoolManager(maxsize=32, retries=False, timeout=urllib3.Timeout(40))

    def close(self) -> None:
        self._http.clear()

    def request(
        self,
        method: str,
        name: str,
        body: bytes = b"",
        *,
        batch_id: str | None = None,
        headers: Mapping[str, str | None] | None = None,
        signed: bool = True,
        credentials: Credentials | None = None,
        kind: str = "functions",
    ) -> Response:
        """One request with Snowflake's headers. `headers` are added, or left out where they are None.

        `credentials`: to sign it with, if not with the stack's own. `kind`: functions or workflows.
        """
        sent: dict[str, str | None] = {
            "User-Agent": "snowflake/1.0",
            "Accept": "*/*",
            "Accept-Encoding": "gzip",
            "Content-Type": "application/json",
            "sf-external-function-format": "json",
            "sf-external-function-format-version": "1.0",
            "sf-external-function-current-query-id": "01b02bdf-0001-7b58-0003-27d60056b5a6",
            "sf-external-function-query-batch-id": batch_id,
            **(headers or {}),
        }
        url = f"{self.stack.api_url}/{kind}/{name}"
        kept = {key: value for key, value in sent.items() if value is not None}
        request = AWSRequest(method, url, headers=kept, data=body)
        if signed:
            SigV4Auth(credentials or self.stack.credentials, "execute-api", self.stack.region).add_auth(
                request
            )
        for _ in range(REPEATS if self.repeats else 1):
            try:
                response = self._http.request(
                    method, url, body=body, headers=dict(request.headers.items()), decode_content=False
                )
            except urllib3.exceptions.HTTPError:
                if not self.repeats:
                    raise
                continue
            if not self.repeats or (response.status != 429 and response.status < 500):
                return Response(response.status, response.headers, response.data)
        raise AssertionError(f"{method} {url} had no final answer in {REPEATS} requests")

    def post(self, name: str, rows: Sequence[Sequence[Any]], batch_id: str, **options: Any) -> Response:
        """A POST of these rows, which are numbered here."""
        return self.request("POST", name, body_of(rows), batch_id=batch_id, **options)

    def get(self, name: str, batch_id: str, **options: Any) -> Response:
        """One GET for a batch."""
        return self.request("GET", name, batch_id=batch_id, **options)

    def call(self, name: str, rows: Sequence[Sequence[Any]], batch_id: str | None = None) -> Response:
        """The answer to these rows, polled for as long as it is 202."""
        batch_id = batch_id or new_batch_id()
        response = self.post(name, rows, batch_id)
        return self.poll(name, batch_id) if response.status == 202 else response

    def poll(self, name: str, batch_id: str) -> Response:
        """The final answer to a batch that was POSTed. Each GET waits on the server."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (response := self.get(name, batch_id)).status == 202:
            assert time.monotonic() < deadline, f"{name}: 202 for {PATIENCE_SECONDS} s: {response.body}"
        return response
