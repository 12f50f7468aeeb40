"""The engine on a real server: four verbs, compare-and-set, refusals in words."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

import pytest

from eventlog.plumbing import StreamEnd, StreamLine, StreamUnavailable, StreamUnfit, open_stream
from eventlog.replica import nats_stream
from eventlog.replica.engine import (
    StreamEngine,
    StreamForeign,
    StreamMissing,
    StreamRefused,
    StreamShort,
    WrongLastSequence,
)
from eventlog.replica.nats_stream import BATCH_LINES_MAX
from eventlog.replica.stream_rules import SEGMENT_HEADER
from tests.harness.nats import NatsServers, nats_server

T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServers]:
    with nats_server() as running:
        yield running


def lines(first: int, last: int, text: str = "line") -> list[StreamLine]:
    """Lines of ten to a segment; the engine does not look into them."""
    return [
        StreamLine(seq, (seq - 1) // 10 * 10 + 1, f"{text} {seq}\n".encode())
        for seq in range(first, last + 1)
    ]


def use(server: NatsServers, stream: str, work: Callable[[StreamEngine], Awaitable[T]]) -> T:
    async def run() -> T:
        engine = await open_stream(server.settings(stream))
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def append(server: NatsServers, stream: str, given: list[StreamLine]) -> list[int]:
    """Appends lines; returns the seqs that were acknowledged."""
    acknowledged: list[int] = []
    use(server, stream, lambda engine: engine.append(given, acknowledged.append))
    return acknowledged


def end_of(server: NatsServers, stream: str) -> StreamEnd:
    return use(server, stream, lambda engine: engine.last())


def test_what_is_appended_is_there_line_by_line(server: NatsServers) -> None:
    server.create_stream("verbs")
    created = end_of(server, "verbs").created
    assert created
    assert end_of(server, "verbs") == StreamEnd(created=created)
    count = 2 * BATCH_LINES_MAX + 1  # two atomic batches, and a single message
    given = lines(1, count)
    acknowledged = append(server, "verbs", given)
    assert acknowledged == [BATCH_LINES_MAX, 2 * BATCH_LINES_MAX, count]
    assert end_of(server, "verbs") == StreamEnd(count, given[-1].line, created=created)
    assert use(server, "verbs", lambda engine: engine.line(7)) == given[6].line
    with pytest.raises(StreamShort):
        use(server, "verbs", lambda engine: engine.line(count + 1))


def test_follow_gives_each_line_with_its_segment_as_it_comes(server: NatsServers) -> None:
    server.create_stream("follow")
    append(server, "follow", lines(1, 25))

    async def read(engine: StreamEngine) -> list[StreamLine]:
        found: list[StreamLine] = []
        async with aclosing(engine.follow(3)) as batches:
            async for batch in batches:
                found += batch
                if len(found) == 22:  # all that was there: more is appended by another connection
                    other = await open_stream(server.settings("follow"))
                    await other.append(lines(26, 30), lambda _: None)
                    await other.close()
                if len(found) == 27:
                    return found
        raise AssertionError("follow ended")

    assert use(server, "follow", read) == lines(4, 30)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_nothing_is_stored_behind_a_message_that_took_the_place_of_the_first_line(
    server: NatsServers, count: int
) -> None:
    stream = f"place-{count}"
    server.create_stream(stream)
    append(server, stream, lines(1, 5))
    append(server, stream, lines(6, 6, "foreign"))
    with pytest.raises(WrongLastSequence):
        append(server, stream, lines(6, 5 + count))
    assert server.messages(stream) == [
        line.line for line in [*lines(1, 5), *lines(6, 6, "foreign")]
    ]


def test_a_missing_stream_and_a_server_that_is_down_are_outages(server: NatsServers) -> None:
    for work in (
        lambda engine: engine.last(),
        lambda engine: engine.append(lines(1, 1), lambda _: None),
        lambda engine: engine.append(lines(1, 2), lambda _: None),
    ):
        with pytest.raises(StreamMissing, match="mirror create"):
            use(server, "nothing", work)
    with nats_server() as other:
        settings = other.settings("main")
    with pytest.raises(StreamUnavailable, match="EVENTLOG_NATS_MONITOR_URL"):
        asyncio.run(open_stream(settings))


def test_an_unfit_stream_is_refused_and_the_rule_is_named(server: NatsServers) -> None:
    server.create_stream("unfit", deny_purge=False, discard="old")
    with pytest.raises(StreamUnfit, match=r"discard is old.*deny_purge is false"):
        end_of(server, "unfit")


def test_a_server_that_does_not_sync_each_message_is_refused() -> None:
    with nats_server(sync_interval="2m") as lazy:
        lazy.create_stream("lazy")
        with pytest.raises(StreamUnfit, match="sync_interval of server n0 must be always"):
            end_of(lazy, "lazy")


PERMISSIONS = """
authorization {
  users: [
    { user: admin, password: a }
    { user: reader, password: r, permissions: { publish: "$JS.API.>", subscribe: "_INBOX.>" } }
  ]
}
"""


def test_a_refused_request_is_reported_at_once_and_in_words() -> None:
    with nats_server(extra=PERMISSIONS) as guarded:
        address = guarded.urls[0].removeprefix("nats://")
        guarded.login = "admin:a@"
        guarded.create_stream("main")

        async def publish(count: int) -> None:
            guarded.login = "reader:r@"
            engine = await open_stream(guarded.settings("main"))
            try:
                await engine.last()
                async with asyncio.timeout(1):  # a request that is not answered takes longer
                    await engine.append(lines(1, count), lambda _: None)
            finally:
                await engine.close()

        for count in (1, 5):
            with pytest.raises(StreamRefused, match="permissions violation for publish"):
                asyncio.run(publish(count))
        guarded.login = "reader:wrong@"
        with pytest.raises(StreamRefused, match="refuses the login") as refused:
            end_of(guarded, "main")
        assert address in str(refused.value)
        assert "wrong" not in str(refused.value)


def test_a_backlog_of_many_batches_is_followed_without_a_gap(
    server: NatsServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_stream, "FOLLOW_LINES_MAX", 3)
    server.create_stream("backlog")
    given = lines(1, 40)
    append(server, "backlog", given)

    async def follow(engine: StreamEngine) -> list[StreamLine]:
        found: list[StreamLine] = []
        async with aclosing(engine.follow(5)) as batches:
            async for batch in batches:
                assert len(batch) <= 3
                await asyncio.sleep(0.002)  # the others arrive meanwhile
                found += batch
                if len(found) == 35:
                    break
        return found

    assert use(server, "backlog", follow) == given[5:]


def test_a_message_without_a_segment_ends_the_following_in_words(server: NatsServers) -> None:
    server.create_stream("headers")
    for headers in ({}, {SEGMENT_HEADER: "first"}):
        server.publish("eventlog.headers.line", b"line\n", headers)

    async def follow(engine: StreamEngine) -> None:
        async with aclosing(engine.follow(1)) as batches:
            await anext(batches)

    with pytest.raises(StreamForeign, match="message 2 of the stream does not name its segment"):
        use(server, "headers", follow)
