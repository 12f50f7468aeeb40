"""A stream whose answers a test determines: a client of a plain server that acts as JetStream.

    async with scripted_stream() as stream:
        stream.lose_acks = 1        the next append is stored, and not answered
        stream.refuse = 1           the next append is refused, although its sequence is right
        stream.messages.pop()       what was acknowledged is lost
        stream.replicas = 1         it was updated to have one server
        stream.created = "..."      it was deleted and created again
        stream.heard_s = 60         its leader has lost the others, and does not know it yet

It keeps the order and the compare-and-set of JetStream, with its error codes, and stores an atomic
batch whole or not at all.

Invariant: a message is stored only behind the sequence that it expects.
"""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from eventlog.plumbing import StreamEngine, StreamSettings
from eventlog.replica.nats_stream import NatsStream, Patience
from eventlog.replica.stream_rules import stream_config
from tests.harness.nats import nats_server

NAME = "scripted"
PATIENCE = Patience(request_s_max=0.2, ack_s_max=0.2)


class ScriptedStream:
    """The messages of a stream, and what it does with the next requests."""

    def __init__(self, url: str) -> None:
        self.settings = StreamSettings(name=NAME, urls=(url,))
        self.messages: list[bytes] = []
        self.appends = 0  # requests to append, refused ones included
        self.lose_acks = 0
        self.refuse = 0
        self.is_silent = False
        self.replicas = 3
        self.created = "2026-01-02T03:04:05Z"
        self.heard_s = 0.5  # since its leader has heard of the other servers
        self.recovers: list[bytes] = []  # given back with each look at its state, one at a time
        self._batches: dict[str, list[Msg]] = {}

    async def open_engine(self, settings: StreamSettings) -> StreamEngine:
        """The engine of the product, with little patience."""
        return await NatsStream.connect(settings, PATIENCE)

    async def answer(self, client: Client, message: Msg) -> None:
        """Answers a request, or does not."""
        if message.subject == self.settings.subject:
            found = self._append(message)
        elif ".STREAM.INFO." in message.subject:
            found = self._info()
        else:
            seq = json.loads(message.data)["seq"]
            data = base64.b64encode(self.messages[seq - 1]).decode()
            found = {"message": {"seq": seq, "data": data}}
        if found is not None and message.reply and not self.is_silent:
            await client.publish(message.reply, json.dumps(found).encode())

    def _info(self) -> dict[str, object]:
        if self.recovers:
            self.messages.append(self.recovers.pop(0))
        count = len(self.messages)
        config = stream_config(self.settings, replicas=3) | {"num_replicas": self.replicas}
        state = {"messages": count, "first_seq": min(1, count), "last_seq": count}
        heard_ns = int(self.heard_s * 1e9)
        replicas = [{"current": current, "active": heard_ns} for current in (True, False)]
        return {
            "config": config,
            "created": self.created,
            "state": state,
            "cluster": {"replicas": replicas},
        }

    def _append(self, message: Msg) -> dict[str, object] | None:
        headers = message.headers or {}
        batch_id = headers.get("Nats-Batch-Id", "")
        waiting = self._batches.setdefault(batch_id, [])
        waiting.append(message)
        if batch_id and "Nats-Batch-Commit" not in headers:
            return None
        del self._batches[batch_id]
        self.appends += 1
        expected = int((waiting[0].headers or {})["Nats-Expected-Last-Sequence"])
        if self.refuse > 0 or expected != len(self.messages):
            self.refuse -= 1
            text = f"wrong last sequence: {len(self.messages) + 1}"
            return {"error": {"code": 400, "err_code": 10071, "description": text}}
        self.messages += [each.data for each in waiting]
        if self.lose_acks > 0:
            self.lose_acks -= 1
            return None
        return {"stream": self.settings.stream, "seq": len(self.messages)}


@asynccontextmanager
async def scripted_stream() -> AsyncIterator[ScriptedStream]:
    """A scripted stream that answers while the block runs."""
    with nats_server(sync_interval="") as server:
        client = await nats.connect(server.urls[0])
        stream = ScriptedStream(server.urls[0])

        async def take(message: Msg) -> None:
            await stream.answer(client, message)

        await client.subscribe("$JS.API.>", cb=take)
        await client.subscribe(stream.settings.subject, cb=take)
        await client.flush()
        try:
            yield stream
        finally:
            await client.close()
