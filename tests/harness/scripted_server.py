"""A connection to a server of appends without a network: replies are lost as a script says.

    link = ScriptedLink(home, ["lost", "before", "answer"])
    log = RemoteLog(SETTINGS, open_connection=link.open)

    answer     the request is executed and answered; also when the script is over
    lost       it is executed, and the reply is lost
    before     it is lost before it is executed
    unserved   no server is subscribed
    refused    the server of NATS denies the request
    unreachable  no connection can be made
    down       the connection ends before there is an answer
    old        a server of the epoch before answers
    garbage    the reply cannot be understood

Invariant: a request is executed by the service that `eventlog serve` runs.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from eventlog.plumbing import (
    ALL,
    POLICY_HEADER,
    NatsConnection,
    StreamSettings,
    StreamUnavailable,
    encode_reply,
)
from eventlog.replica.engine import StreamError, StreamRefused
from eventlog.replica.nats_connection import NoResponder
from projections.replication.append_service import AppendService

SETTINGS = StreamSettings(name="main", urls=("nats://127.0.0.1:1",))


class ScriptedLink:
    """Opens connections to one service, which follow one script."""

    def __init__(self, home: Path, script: Iterable[str] = ()) -> None:
        self.service = AppendService(home, SETTINGS.name)
        self.script = list(script)
        self.requests: list[bytes] = []  # all that were sent
        self.opened = 0

    async def open(self, _settings: StreamSettings) -> NatsConnection:
        self.opened += 1
        if self.script[:1] == ["unreachable"]:
            del self.script[0]
            raise StreamUnavailable("there is no connection to NATS")
        return cast("NatsConnection", _Connection(self))


class _Connection:
    def __init__(self, link: ScriptedLink) -> None:
        self._link = link
        self.ended: asyncio.Future[StreamError] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        pass

    async def request(
        self, subject: str, data: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> bytes:
        assert subject == "eventlog.main.append"
        link = self._link
        step = link.script.pop(0) if link.script else "answer"
        if step in ("down", "unreachable"):
            error = StreamUnavailable("there is no connection")
            self.ended.set_result(error)
            raise error
        link.requests.append(data)
        if step == "unserved":
            raise NoResponder("nothing answers")
        if step == "refused":
            raise StreamRefused("the server refuses a request: permissions violation")
        if step == "before":
            raise StreamUnavailable("no answer")
        epoch = link.service.epoch
        if step == "old":
            link.service.epoch = epoch - 1
        reply = await link.service.reply(data, (headers or {}).get(POLICY_HEADER, ALL))
        link.service.epoch = epoch
        if step == "lost":
            raise StreamUnavailable("no answer")
        return b"garbage" if step == "garbage" else encode_reply(reply)
