"""What stands before MiniStack's ASGI application: the engine's own settings, and answers that are lost."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any

from stepflake.local.engine import SETTINGS_PATH
from stepflake.local.engine_process.account import ACCOUNT
from stepflake.local.engine_process.requests import AnswerLostError
from stepflake.local.faults import Faults
from stepflake.local.limits import Value

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_CLOSE = "stepflake.close"


def install() -> None:
    """Wraps MiniStack's application, and lets the server close a connection without an answer."""
    from hypercorn.protocol.events import StreamClosed
    from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
    from ministack import app  # type: ignore[import-untyped]

    app.app = in_front_of(app.app)
    app_send = HTTPStream.app_send

    async def send_or_close(self: HTTPStream, message: Any) -> None:
        if message is not None and message["type"] == _CLOSE:
            self.state = ASGIHTTPState.CLOSED
            await self.send(StreamClosed(stream_id=self.stream_id))
        else:
            await app_send(self, message)

    HTTPStream.app_send = send_or_close  # type: ignore[method-assign]


def in_front_of(application: Application) -> Application:
    """The application, with the engine's settings at SETTINGS_PATH."""

    async def front(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == SETTINGS_PATH:
            await _settings(scope, receive, send)
            return
        try:
            await application(scope, receive, send)
        except AnswerLostError:
            await send({"type": _CLOSE})

    return front


async def _settings(scope: Message, receive: Receive, send: Send) -> None:
    """GET: the limits, what they allowed and refused, and the faults. PUT: changes them."""
    # No page in a browser changes the engine's limits.
    if any(name == b"origin" for name, _ in scope["headers"]):
        await _answer(send, 403, {"error": "requests of web pages are refused"})
        return
    if scope["method"] == "PUT":
        change = json.loads(await _body(receive))
        ACCOUNT.configure(
            enabled=change.get("enabled"),
            values={name: Value(**value) for name, value in change.get("limits", {}).items()},
            faults=Faults.from_json(change["faults"]) if "faults" in change else None,
        )
    await _answer(
        send,
        200,
        {"enabled": ACCOUNT.enabled, "limits": ACCOUNT.report(), "faults": asdict(ACCOUNT.faults)},
    )


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _answer(send: Send, status: int, document: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})
