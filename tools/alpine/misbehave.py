"""Misbehaviour for tests, ordered over HTTP at /_misbehave, and counters of requests.

    POST /_misbehave   {"fail": {"count": 3, "status": 429, "headers": {"Retry-After": "2"}}}
                       {"lose": 5}           store, then drop the connection without an answer
                       {"delay_s": 0.5}      delays every answer
                       {"poison": ["id"]}    500 for these signal_ids, for ever
                       {"reject": true}      400 for every signal
                       {"health_status": 503}
    GET  /_misbehave   the settings and the counters

A POST changes only the settings that it names. The path exists only with `--misbehave`.

Invariant: in_flight_max is at least the number of signal requests that were under way at one
moment.
"""

import asyncio
import json
from collections import Counter
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tools.alpine.asgi import (
    HEALTH_PATH,
    ClientGone,
    answer,
    key_is_right,
    read_body,
    refuse_size,
    replay,
)
from tools.alpine.server import SIGNAL_PATH

CONTROL_PATH = "/_misbehave"
SIGNALS_COUNTED_MAX = 200_000  # further ids are not counted one by one; a test sends far fewer


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Fail(_Settings):
    """The next `count` signals get this answer and are not stored."""

    count: int = Field(ge=0)
    status: int = Field(default=503, ge=300, le=599)
    headers: dict[str, str] = {}
    detail: str = "made to fail"


class Misbehaviour(_Settings):
    """The settings of the misbehaviour."""

    fail: Fail = Fail(count=0)
    lose: int = Field(default=0, ge=0)
    delay_s: float = Field(default=0.0, ge=0, le=600)
    poison: list[str] = []
    reject: bool = False
    health_status: int = Field(default=200, ge=200, le=599)


class Misbehaver:
    """Middleware before the whole backend: counts requests and misbehaves as ordered."""

    def __init__(self, app: ASGIApp, key: bytes, settings: Misbehaviour) -> None:
        self._app = app
        self._key = key
        self._settings = settings
        self._in_flight = 0
        self._in_flight_max = 0
        self._lost = 0
        self._answers: Counter[str] = Counter()  # status of an answer that was sent -> how many
        self._requests: Counter[str] = Counter()  # signal_id -> how many requests, failed ones too

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its head to the end of its answer."""
        path = scope["path"]
        if path == SIGNAL_PATH and scope["method"] == "POST":
            await self._count(scope, receive, send)
        elif path == CONTROL_PATH:
            await self._control(scope, receive, send)
        elif path == HEALTH_PATH and self._settings.health_status != 200:
            await answer(send, self._settings.health_status, {"status": "unhealthy"})
        else:
            await self._app(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._in_flight += 1
        self._in_flight_max = max(self._in_flight_max, self._in_flight)
        try:
            body = await read_body(receive)
            if body is None:
                await refuse_size(send)
            else:
                await self._signal(scope, body, receive, send)
        except ClientGone:
            pass  # no client is left to answer; a stored signal stays stored
        finally:
            self._in_flight -= 1

    async def _signal(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        signal_id = _signal_id(body)
        if signal_id in self._requests or len(self._requests) < SIGNALS_COUNTED_MAX:
            self._requests[signal_id] += 1
        settings = self._settings
        held: list[Message] = []  # the answer, until it is sent

        async def hold(message: Message) -> None:
            held.append(message)

        if settings.fail.count > 0:
            settings.fail.count -= 1
            failure = settings.fail
            await answer(hold, failure.status, {"detail": failure.detail}, failure.headers)
        elif signal_id in settings.poison:
            await answer(hold, 500, {"detail": "Internal server error"})
        elif settings.reject:
            await answer(hold, 400, {"detail": "Signal hash verification failed"})
        else:
            await self._app(scope, replay(body, receive), hold)
            if settings.lose > 0 and held[0]["status"] == 201:
                settings.lose -= 1
                self._lost += 1
                await _drop(receive, send)
        if settings.delay_s:
            await _wait_for_client(receive, settings.delay_s)
        self._answers[str(held[0]["status"])] += 1
        for message in held:
            await send(message)

    async def _control(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not key_is_right(scope, self._key):
            await answer(send, 401, {"detail": "Invalid or missing API key"})
            return
        if scope["method"] == "POST":
            try:
                wanted = Misbehaviour.model_validate_json(await read_body(receive) or b"")
            except ValidationError as error:
                await answer(send, 422, {"detail": str(error)})
                return
            for name in wanted.model_fields_set:
                setattr(self._settings, name, getattr(wanted, name))
        await answer(send, 200, self._report())

    def _report(self) -> dict[str, object]:
        return {
            "settings": self._settings.model_dump(),
            "requests": self._requests.total(),
            "in_flight": self._in_flight,
            "in_flight_max": self._in_flight_max,
            "lost": self._lost,
            "answers": dict(self._answers),
            "by_signal": dict(self._requests),
        }


def _signal_id(body: bytes) -> str:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(parsed.get("signal_id", "")) if isinstance(parsed, dict) else ""


async def _wait_for_client(receive: Receive, seconds: float) -> None:
    """Wait, but not after the client has gone: its request no longer counts as under way."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return
    raise ClientGone


async def _drop(receive: Receive, send: Send) -> NoReturn:
    """Close the connection in the middle of a request. Always raises ClientGone."""
    # ASGI has no message for this. uvicorn's `send` is a method of the object that owns the
    # connection, and nothing wraps it before this middleware.
    send.__self__.transport.abort()  # type: ignore[attr-defined]  # see above
    while (await receive())["type"] != "http.disconnect":
        pass  # returning earlier would make uvicorn report an answer that never came
    raise ClientGone
