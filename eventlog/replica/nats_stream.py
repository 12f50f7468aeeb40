"""NatsStream: the engine on NATS JetStream.

Several lines are appended as one atomic batch: the server stores all of them or none. Single
messages one after the other, each with the sequence that it must follow, would not do. Where
another writer's message has taken the place of the first one, the server refuses that one and
stores the others behind the foreign message, since the sequence fits.

After any error the caller closes the stream and opens it again.

Invariant: a line is appended only behind the sequence that it follows in the log.
"""

import asyncio
import base64
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from eventlog.replica.answers import answered_error, unfit_error
from eventlog.replica.batches import batches
from eventlog.replica.engine import (
    StreamEnd,
    StreamForeign,
    StreamLine,
    StreamMissing,
    StreamShort,
    StreamUnavailable,
    line_bytes,
)
from eventlog.replica.monitors import check_monitors
from eventlog.replica.nats_connection import Message, NatsConnection, NoResponder, Subscription
from eventlog.replica.stream_rules import (
    EXPECTED_LAST_SEQUENCE,
    REPLICAS_MIN,
    SEGMENT_HEADER,
    StreamSettings,
    broken_rules,
    is_single,
    replicas_of,
    stream_config,
)

logger = logging.getLogger(__name__)

INBOX = "_INBOX.stream"  # where answers and lines come: an account needs no other
CREATE_S_MAX = 10.0
BATCH_LINES_MAX = 500  # a server takes up to 1,000; twice as many gain nothing
BATCH_BYTES_MAX = 1 << 20  # for lines of the largest size: a server holds a batch in memory
FOLLOW_LINES_MAX = 2000
# A leader that is cut off learns of it after ten seconds. The others may elect another one when
# they have not heard of it for four, and only then can the stream grow beyond what it knows.
HEARD_S_MAX = 3.5
HEARTBEAT_S = 1.0
SILENCE_S_MAX = 3 * HEARTBEAT_S  # of a consumer that sends heartbeats
CONSUMER_IDLE_S = 30  # then the server removes a consumer without subscriber


class Patience(NamedTuple):
    """How long the server may take to answer."""

    request_s_max: float  # about the state of a stream
    ack_s_max: float  # to acknowledge a batch


# A leader knows its state from memory. A slow disk syncs a few hundred messages a second.
PATIENCE = Patience(request_s_max=3.0, ack_s_max=5.0)


class NatsStream:
    """A connection to one stream. Implements `StreamEngine`."""

    def __init__(
        self, settings: StreamSettings, patience: Patience, connection: NatsConnection
    ) -> None:
        self._settings = settings
        self._patience = patience
        self._connection = connection

    @classmethod
    async def connect(cls, settings: StreamSettings, patience: Patience = PATIENCE) -> "NatsStream":
        """Connects. Raises StreamUnavailable, StreamRefused, and StreamUnfit by the monitor."""
        await check_monitors(settings)
        return cls(settings, patience, await NatsConnection.connect(settings, INBOX))

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def last(self) -> StreamEnd:
        """The end of the stream, as its leader has it. Raises StreamUnfit, StreamShort.

        A leader that a majority may have left raises StreamUnavailable.
        """
        found = await self._api(f"STREAM.INFO.{self._settings.stream}")
        broken = broken_rules(found["config"], self._settings)
        if broken:
            error, replicas = unfit_error(broken, self._settings), replicas_of(found["config"])
            error.replicas = replicas if replicas < REPLICAS_MIN else None
            raise error
        peers = found.get("cluster", {}).get("replicas") or ()
        self._require_majority(peers)
        state = found["state"]
        seq, first, count = state["last_seq"], state["first_seq"], state["messages"]
        if seq and (first != 1 or count != seq):
            raise StreamShort(
                f"the stream ends at {seq} and holds {count} messages, from {first} on: some were "
                "removed from it",
                where=self._settings.where,
                do="create a stream of another name, and set EVENTLOG_STREAM to it",
            )
        line = await self.line(seq) if seq else b""
        return StreamEnd(
            seq,
            line,
            replicas_of(found["config"]),
            1 + sum(bool(peer.get("current")) for peer in peers),
            str(found.get("created", "")),
        )

    def _require_majority(self, peers: Sequence[Mapping[str, Any]]) -> None:
        """Raises StreamUnavailable where the leader that answered may be one no more."""
        servers = 1 + len(peers)
        heard = 1 + sum(
            not peer.get("offline") and peer.get("active", 0) < HEARD_S_MAX * 1e9 for peer in peers
        )
        if heard <= servers // 2:
            raise StreamUnavailable(
                f"its leader has heard of {heard} of {servers} servers within {HEARD_S_MAX:g} s",
                where=self._settings.where,
                do="wait: a majority must reach each other, and this is tried again",
            )

    async def line(self, seq: int) -> bytes:
        """The line of that seq, from the leader. Raises StreamShort."""
        found = await self._api(f"STREAM.MSG.GET.{self._settings.stream}", {"seq": seq})
        return base64.b64decode(found["message"].get("data", ""))

    async def create(self, *, replicas: int) -> bool:
        """Creates the stream by the rules; False where one that meets them is there already.

        Raises StreamUnfit where there is another one.
        """
        info = f"STREAM.INFO.{self._settings.stream}"
        is_new = False
        try:
            found = await self._api(info)
        except StreamMissing:
            verb, config = "STREAM.CREATE", stream_config(self._settings, replicas=replicas)
            await self._api(f"{verb}.{self._settings.stream}", config, timeout_s=CREATE_S_MAX)
            is_new, found = True, await self._api(info)
        broken = broken_rules(found["config"], self._settings)
        if found["config"].get("num_replicas", 1) != replicas:
            broken.append(f"num_replicas is {found['config'].get('num_replicas', 1)}")
        elif replicas >= REPLICAS_MIN and is_single(found["config"]):
            broken.append("it was created with --allow-single: its lines never count as replicated")
        if broken:
            raise unfit_error(broken, self._settings)
        return is_new

    async def append(
        self, lines: Sequence[StreamLine], on_acknowledged: Callable[[int], object]
    ) -> None:
        """Appends consecutive lines behind the stream's last message; see `StreamEngine`."""
        for batch in batches(
            lines, line_bytes, count_max=BATCH_LINES_MAX, bytes_max=BATCH_BYTES_MAX
        ):
            await self._append_batch(batch)
            on_acknowledged(batch[-1].seq)

    async def _append_batch(self, batch: Sequence[StreamLine]) -> None:
        batch_id = secrets.token_hex(8)
        for index, (seq, segment, line) in enumerate(batch, start=1):
            headers = {SEGMENT_HEADER: str(segment)}
            if index == 1:
                headers[EXPECTED_LAST_SEQUENCE] = str(seq - 1)
            if len(batch) > 1:
                headers["Nats-Batch-Id"] = batch_id
                headers["Nats-Batch-Sequence"] = str(index)
            if index < len(batch):
                await self._connection.publish(self._settings.subject, line, headers)
                continue
            if len(batch) > 1:
                headers["Nats-Batch-Commit"] = "1"
            answer = await self._request(
                self._settings.subject, line, headers, self._patience.ack_s_max
            )
            if answer.get("seq") != seq:
                raise StreamShort(
                    f"line {seq} was stored as message {answer.get('seq')}",
                    where=self._settings.where,
                    do="create a stream of another name, and set EVENTLOG_STREAM to it",
                )

    async def follow(self, after: int) -> AsyncGenerator[Sequence[StreamLine], None]:
        """The lines after a seq, by a consumer of its own; see `StreamEngine`."""
        messages: asyncio.Queue[Message] = asyncio.Queue()
        inbox = self._connection.new_inbox()
        subscription = await self._subscribe(inbox, messages)
        try:
            await self._create_consumer(inbox, after + 1)
            while True:
                lines = [*self._next_lines(await self._received(messages), after, messages)]
                if lines:
                    after = lines[-1].seq
                    yield lines
        finally:
            with suppress(Exception):  # the connection is lost: the server removes it by itself
                await subscription.unsubscribe()

    async def _subscribe(self, inbox: str, messages: "asyncio.Queue[Message]") -> Subscription:
        async def take(message: Message) -> None:
            headers = message.headers or {}
            if headers.get("Status") == "100":  # a heartbeat, or a request of the flow control
                for reply in (message.reply, headers.get("Nats-Consumer-Stalled")):
                    if reply:
                        await self._connection.publish(reply)
            messages.put_nowait(message)

        return await self._connection.subscribe(inbox, take)

    async def _create_consumer(self, inbox: str, start_seq: int) -> None:
        stream = self._settings.stream
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start_seq,
            "ack_policy": "none",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            "inactive_threshold": CONSUMER_IDLE_S * 1_000_000_000,
            "num_replicas": 1,
            "mem_storage": True,
        }
        body = {"stream_name": stream, "config": config}
        await self._api(f"CONSUMER.CREATE.{stream}", body)

    async def _received(self, messages: "asyncio.Queue[Message]") -> Message:
        receiving = asyncio.ensure_future(messages.get())
        ended = self._connection.ended
        waited: set[asyncio.Future[Any]] = {receiving, ended}
        await asyncio.wait(waited, timeout=SILENCE_S_MAX, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            return receiving.result()
        receiving.cancel()
        if ended.done():
            raise ended.result()
        raise StreamUnavailable(
            "the server sends neither lines nor heartbeats",
            where=self._settings.where,
            do="wait: the stream is read again from the last line",
        )

    def _next_lines(
        self, message: Message, after: int, messages: "asyncio.Queue[Message]"
    ) -> Iterator[StreamLine]:
        """The lines of this message and of those that wait; at most FOLLOW_LINES_MAX.

        A consumer whose server died begins again at its start: what is known is passed over.
        """
        for number in range(1, FOLLOW_LINES_MAX + 1):
            headers = message.headers or {}
            if headers.get("Status") is None:
                seq = _stream_seq(message.reply)
                if seq > after + 1:
                    raise StreamUnavailable(
                        f"message {seq} came after message {after}",
                        where=self._settings.where,
                        do="wait: the stream is read again from the last line",
                    )
                if seq == after + 1:
                    after = seq
                    yield StreamLine(seq, self._segment_of(seq, headers), message.data)
            if messages.empty() or number == FOLLOW_LINES_MAX:
                return
            message = messages.get_nowait()

    def _segment_of(self, seq: int, headers: Mapping[str, str]) -> int:
        text = headers.get(SEGMENT_HEADER, "")
        if not (text.isascii() and text.isdigit()):
            raise StreamForeign(
                f"message {seq} of the stream does not name its segment",
                where=self._settings.where,
                do="find out what else publishes to the stream",
            )
        return int(text)

    async def _api(
        self, verb: str, body: object = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        timeout_s = timeout_s or self._patience.request_s_max
        data = b"" if body is None else json.dumps(body).encode()
        return await self._request(f"$JS.API.{verb}", data, None, timeout_s)

    async def _request(
        self, subject: str, data: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> dict[str, Any]:
        """The JSON object with which the server answers. Raises the errors of the engine."""
        try:
            answer = json.loads(await self._connection.request(subject, data, headers, timeout_s))
        except NoResponder as error:
            raise StreamMissing(
                "no server answers for the stream: it does not exist, or JetStream is off",
                where=self._settings.where,
                do="create it with `eventlog mirror create`, or wait until the servers are up",
            ) from error
        except ValueError as error:
            raise StreamUnavailable(
                f"the answer cannot be understood: {error}", where=self._settings.where
            ) from error
        if "error" in answer:
            raise answered_error(answer["error"], self._settings)
        return dict(answer)


def _stream_seq(reply: str) -> int:
    """The stream's sequence in the reply subject of a delivered message.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>. ...`, or with a domain and an account
    before the stream.
    """
    parts = reply.split(".")
    return int(parts[5] if len(parts) == 9 else parts[7])
