"""Middleware before the routes: the key, the limit on a body, and answers without FastAPI.

Invariant: no body over BODY_BYTES_MAX is held in memory, and no request without the key reaches a
route but health's.
"""

import hmac
import json
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEALTH_PATH = "/api/v1/external-signals/sync/health"

# A line of the log has at most 65,535 bytes; a client that escapes everything but ASCII makes six
# bytes of two. Four times the length of a line holds every signal.
BODY_BYTES_MAX = 262_144

# A client that is still sending when we close would get a reset in place of the 413, so some of
# the excess is read and discarded.
DRAIN_BYTES_MAX = 16 * BODY_BYTES_MAX


class ClientGone(Exception):
    """The client closed the connection before its request had arrived."""


async def answer(
    send: Send, status: int, body: object, headers: Mapping[str, str] | None = None
) -> None:
    """Send one whole JSON answer."""
    data = json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": str(len(data))}
    lines.update({name.lower(): value for name, value in (headers or {}).items()})
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})


async def read_body(receive: Receive) -> bytes | None:
    """The whole body, or None where it is over the limit. Raises ClientGone."""
    chunks: list[bytes] = []
    size_bytes = 0
    while size_bytes <= DRAIN_BYTES_MAX:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size_bytes += len(chunk)
        if size_bytes <= BODY_BYTES_MAX:
            chunks.append(chunk)
        else:
            chunks.clear()
        if not message.get("more_body", False):
            break
    return b"".join(chunks) if size_bytes <= BODY_BYTES_MAX else None


async def refuse_size(send: Send) -> None:
    """Answer 413 and close the connection: the rest of the body is not read."""
    detail = {"detail": f"Body is larger than {BODY_BYTES_MAX} bytes"}
    await answer(send, 413, detail, {"connection": "close"})


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns this body once, then the messages of the connection."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


def key_is_right(scope: Scope, key: bytes) -> bool:
    """Whether there is exactly one X-API-Key and it is equal, compared in constant time."""
    given = [value for name, value in scope["headers"] if name == b"x-api-key"]
    # On bytes: hmac.compare_digest raises for text that is not ASCII.
    return len(given) == 1 and hmac.compare_digest(given[0], key)


class BodyLimit:
    """Reads the body first, and refuses one that is too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive)
        except ClientGone:
            return
        if body is None:
            await refuse_size(send)
        else:
            await self._app(scope, replay(body, receive), send)


class KeyGate:
    """Lets requests with the key pass, and all requests to the health path."""

    def __init__(self, app: ASGIApp, key: bytes) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == HEALTH_PATH or key_is_right(scope, self._key):
            await self._app(scope, receive, send)
        else:
            await answer(send, 401, {"detail": "Invalid or missing API key"})
