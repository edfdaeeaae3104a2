"""A remote service on loopback whose answers a test chooses: correct, wrong, late, or missing."""

import gzip
import json
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import simplejson


@dataclass(frozen=True)
class Request:
    """A received request; `body` is decompressed, `headers` have names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def rows(self) -> list[list[Any]]:
        """The rows of a POST, with their row numbers."""
        return list(simplejson.loads(self.body, use_decimal=True)["data"])


@dataclass(frozen=True)
class Response:
    """What to answer; status 0 closes the connection without an answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


LOST = Response(0)
ACCEPTED = Response(202)


def rows_response(values: Sequence[Any], **headers: str) -> Response:
    """A correct answer, one value for each row."""
    data = simplejson.dumps({"data": [[n, v] for n, v in enumerate(values)]}, use_decimal=True)
    return Response(200, data.encode(), {k.replace("_", "-"): v for k, v in headers.items()})


def gzipped(response: Response) -> Response:
    """The same answer, compressed."""
    return Response(
        response.status, gzip.compress(response.body), response.headers | {"Content-Encoding": "gzip"}
    )


class RemoteService:
    """Answers from `script` while there is one, then by `function(path, arguments)` for each row."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: deque[Response] = deque()
        self.function: Callable[[str, list[Any]], Any] = lambda _path, arguments: arguments[0]
        self.url = ""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        # For tests of parallel batches: how many must have arrived before any is answered.
        self.together: threading.Barrier | None = None

    def rows_sent(self, name: str) -> list[list[Any]]:
        """The arguments of all rows POSTed to the function, in the order of batches' ids."""
        posts = [r for r in self.requests if r.method == "POST" and r.path.endswith("/" + name)]
        posts.sort(
            key=lambda r: [int(n) for n in r.headers["sf-external-function-query-batch-id"].split(":")[1:]]
        )
        return [row[1:] for request in posts for row in request.rows]

    def respond(self, request: Request) -> Response:
        """The next scripted answer, or the function's."""
        with self._lock:
            self.requests.append(request)
            scripted = self.script.popleft() if self.script else None
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if scripted is not None:
                return scripted
            if self.together is not None:
                self.together.wait(timeout=10)
            try:
                return rows_response([self.function(request.path, row[1:]) for row in request.rows])
            except ValueError as error:
                return Response(400, json.dumps({"error": "Refused", "message": str(error)}).encode())
        finally:
            with self._lock:
                self._at_once -= 1


@contextmanager
def serve() -> Iterator[RemoteService]:
    """A running service; `url` is its base, without a slash at the end."""
    service = RemoteService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            encoding = self.headers.get("Content-Encoding") if raw else None
            body = raw
            if encoding == "gzip":
                body = gzip.decompress(raw)
            elif encoding == "deflate":
                body = zlib.decompress(raw)
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = service.respond(Request(self.command, self.path, headers, body, raw))
            if response.status == 0:
                self.close_connection = True
                return
            self.send_response(response.status)
            for name, value in response.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in response.headers:
                self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Does not log: tests print what they need."""

    class Server(ThreadingHTTPServer):
        daemon_threads = False
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignores clients that disconnect, as some tests do."""

    server = Server(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()
