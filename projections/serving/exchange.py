"""Wraps an application: checks each request before it gets it, and limits the time of an answer.

Invariant: an application sees only requests for a known host within the limits, and is cancelled
when its client has gone or its deadline has passed.
"""

import asyncio
import logging
from email.utils import formatdate
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from projections.serving.address import is_allowed_host
from projections.serving.connection import CONNECTION, SAFE_HEADERS, Connection
from projections.serving.limits import Limits

logger = logging.getLogger(__name__)

LOST_S_MAX = 1.0  # until a connection that was aborted cancels its application
_CLOSE = {"Connection": "close"}


def guarded(app: ASGIApp, names: frozenset[str], limits: Limits) -> ASGIApp:
    """Wraps an application. `names` are the host names that it is served under."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"].pop(CONNECTION)
        exchange = _Exchange(connection, receive, send, limits)
        connection.begin(asyncio.current_task())
        try:
            await exchange.run(_refusal(scope, names, limits) or app, scope)
        except asyncio.CancelledError:
            if not connection.is_lost:  # else the connection has cancelled it
                raise

    return answer


class _Exchange:
    """The calls between an application and its connection."""

    def __init__(
        self, connection: Connection, receive: Receive, send: Send, limits: Limits
    ) -> None:
        self._connection = connection
        self._receive = receive
        self._send = send
        self._limits = limits
        self._body_bytes = 0
        self._is_whole = False  # the body of the request
        self._is_reading = False  # a part of it
        self._deadline = asyncio.timeout(limits.answer_s_max)
        self._is_started = False
        self._is_complete = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Calls the application until the answer is complete."""
        try:
            async with self._deadline:
                await app(scope, self.receive, self.send)
        except Exception:  # the outermost frame of a request: the process continues
            if self._deadline.expired() and not self._is_started:
                status = self._status_of_timeout()
            else:
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                logger.exception("request_failed")
            await self._end(scope, status)

    async def receive(self) -> Message:
        """The next part of the body. Raises HTTPException if the body is too large."""
        self._is_reading = not self._is_whole
        message = await self._receive()
        self._is_reading = False
        self._is_whole = not message.get("more_body", False)
        self._body_bytes += len(message.get("body", b""))
        if self._body_bytes > self._limits.body_bytes_max:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, headers=_CLOSE)
        return message

    async def send(self, message: Message) -> None:
        """Sends the start or a part of the answer."""
        if message["type"] == "http.response.start":
            self._is_started = True
            if not self._deadline.expired():
                self._deadline.reschedule(None)
            self._connection.start_answer()
            headers = MutableHeaders(scope=message)
            headers.setdefault("Date", formatdate(usegmt=True))
            for name, value in SAFE_HEADERS.items():
                headers.setdefault(name, value)
        elif not message.get("more_body", False):
            self._is_complete = True
            self._connection.complete()
        await self._send(message)

    def _status_of_timeout(self) -> HTTPStatus:
        if self._is_reading:
            return HTTPStatus.REQUEST_TIMEOUT  # the client is slow: nothing to log
        logger.warning("request_timed_out after_s=%g", self._limits.answer_s_max)
        return HTTPStatus.SERVICE_UNAVAILABLE

    async def _end(self, scope: Scope, status: HTTPStatus) -> None:
        if not self._is_started:
            await _status_response(status)(scope, self.receive, self.send)
        elif not self._is_complete:
            self._connection.abort()
            await asyncio.sleep(LOST_S_MAX)  # cancelled; uvicorn logs nothing of a lost one


def _refusal(scope: Scope, names: frozenset[str], limits: Limits) -> ASGIApp | None:
    """The answer to a request that no application gets."""
    headers = Headers(scope=scope)
    # h11 limits a head only while it is incomplete.
    head_bytes = len(scope["raw_path"]) + len(scope["query_string"])
    head_bytes += sum(len(name) + len(value) for name, value in headers.raw)
    if head_bytes > limits.head_bytes_max:
        return _status_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    # Only HTTP/1.0 may leave it out, which no browser speaks.
    host = headers.get("host")
    if host is not None and not is_allowed_host(host, names):
        return _status_response(HTTPStatus.MISDIRECTED_REQUEST)
    if int(headers.get("content-length", "0")) > limits.body_bytes_max:
        return _status_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return None


def _status_response(status: HTTPStatus) -> PlainTextResponse:
    return PlainTextResponse(f"{status.phrase}\n", status, headers=_CLOSE)
