"""`verify --stream`: each line of the log is compared with the stream, on a real server."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from eventlog import EventLog
from eventlog.plumbing import (
    ReplicaLog,
    ReplicaState,
    StreamEnd,
    StreamEngine,
    StreamLine,
    open_stream,
    read_mirror_record,
)
from eventlog.replica.compare import StreamComparison, compare
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in
from tests.harness.mirrors import mirror_once
from tests.harness.nats import NatsServers
from tests.harness.signals import signals


def fill(home: Path, entries: int, *, start: int = 1) -> None:
    with EventLog(home) as log:
        log.append_many(signals(entries, start=start))


def compared(home: Path, server: NatsServers, stream: str) -> StreamComparison:
    async def run() -> StreamComparison:
        engine = await open_stream(server.settings(stream))
        try:
            record = read_mirror_record(home)
            return await compare(engine, home, acked=record.acked if record else 0)
        finally:
            await engine.close()

    return asyncio.run(run())


def replace_stream(server: NatsServers, stream: str, lines: list[bytes]) -> None:
    """Creates the stream again, with these messages."""
    server.delete_stream(stream)
    server.create_stream(stream)
    for line in lines:
        server.publish(f"eventlog.{stream}.line", line, {"Eventlog-Segment": "1"})


def nothing(home: Path, server: NatsServers, stream: str) -> None:
    pass


def lag(home: Path, server: NatsServers, stream: str) -> None:
    fill(home, 4, start=11)


def lost_lines(home: Path, server: NatsServers, stream: str) -> None:
    replace_stream(server, stream, lines_in(home)[:6])


def another_line(home: Path, server: NatsServers, stream: str) -> None:
    other = home.with_name("other")
    with EventLog(other) as log:
        log.append_many(signals(10))
    replace_stream(server, stream, lines_in(home)[:6] + lines_in(other)[6:])


def another_segment(home: Path, server: NatsServers, stream: str) -> None:
    server.delete_stream(stream)
    server.create_stream(stream)
    for seq, line in enumerate(lines_in(home), start=1):
        segment = "7" if seq >= 7 else "1"
        server.publish(f"eventlog.{stream}.line", line, {"Eventlog-Segment": segment})


def no_line(home: Path, server: NatsServers, stream: str) -> None:
    replace_stream(server, stream, [*lines_in(home)[:6], b"hello", *lines_in(home)[7:]])


def no_line_at_the_end(home: Path, server: NatsServers, stream: str) -> None:
    server.publish(f"eventlog.{stream}.line", b"hello")


def shorter_log(home: Path, server: NatsServers, stream: str) -> None:
    (segment,) = (home / "logs").glob("*.jsonl")
    segment.write_bytes(b"".join(lines_in(home)[:8]))
    for name in (".lock", ".durable"):
        (home / "logs" / name).unlink()


def replica_that_lags(home: Path, server: NatsServers, stream: str) -> None:
    shorter_log(home, server, stream)
    replica = ReplicaLog.open(home)
    replica.begin(ReplicaState(stream=stream), replica.catch_up())
    replica.close()


def hole(home: Path, server: NatsServers, stream: str) -> None:
    server.delete_stream(stream)
    server.create_stream(stream, deny_delete=False)
    for line in lines_in(home):
        server.publish(f"eventlog.{stream}.line", line, {"Eventlog-Segment": "1"})
    server.request(f"STREAM.MSG.DELETE.EVENTLOG_{stream}", {"seq": 4})
    config = server.request(f"STREAM.INFO.EVENTLOG_{stream}")["config"]
    server.request(f"STREAM.UPDATE.EVENTLOG_{stream}", config | {"deny_delete": True})


def accepted_gap(home: Path, server: NatsServers, stream: str) -> None:
    damaged_log(home, server, stream)
    assert eventlog("repair", "--accept", home=home).code == 0


def damaged_log(home: Path, server: NatsServers, stream: str) -> None:
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = lines_in(home)
    segment.write_bytes(b"".join([*lines[:4], b"x" * len(lines[4]), *lines[5:]]))


Change = Callable[[Path, NatsServers, str], None]
# What happens to a log of ten lines or its stream; whether that is a fault, the lines that are the
# same, and words of the report.
CHANGES: list[tuple[Change, bool, int, str]] = [
    (nothing, True, 10, "10 lines are the same, and it ends with the log"),
    (lag, True, 10, "it ends at seq 10, 4 before the log"),
    (lost_lines, False, 6, "ends at seq 6: lines are missing that it had acknowledged, up to 10"),
    (another_line, False, 6, "DIFFERS at seq 7: the log has the chain"),
    (another_segment, False, 6, "segment that begins at seq 1, the stream in one that begins at 7"),
    (no_line, False, 6, "DIFFERS at seq 7: the log has the chain"),
    (no_line_at_the_end, False, 0, "message 11 of the stream does not name its segment"),
    (shorter_log, False, 8, "ends at seq 10, beyond the log, which ends at 8"),
    (replica_that_lags, True, 8, "it ends at seq 10, and this replica at 8"),
    (hole, False, 0, "ends at 10 and holds 9 messages"),
    (accepted_gap, True, 9, "9 lines are the same"),
    (damaged_log, True, 4, "the lines after the damage of the log were not compared"),
]


@pytest.mark.parametrize(
    ("change", "ok", "same", "words"), CHANGES, ids=[change[0].__name__ for change in CHANGES]
)
def test_each_line_of_the_log_is_compared_with_the_stream(
    home: Path, server: NatsServers, stream: str, change: Change, ok: bool, same: int, words: str
) -> None:
    fill(home, 10)
    mirror_once(home, server.settings(stream))
    change(home, server, stream)
    before = lines_in(home), server.messages(stream) if change is not hole else []
    found = compared(home, server, stream)
    assert (found.ok, found.compared) == (ok, same)
    assert words in found.to_text(stream)
    if "DIFFERS" in words:
        own = json.loads(lines_in(home)[6])["chain"]
        there = json.loads(server.messages(stream)[6])["chain"] if change is another_line else None
        assert (found.seq, found.chain, found.stream_chain) == (7, own, there)
        assert f"the log has the chain {own}" in found.to_text(stream)
    # It has changed neither of them.
    assert before == (lines_in(home), server.messages(stream) if change is not hole else [])


class _BusyStream:
    """The stream of a log that grows, and is mirrored, while the stream's end is read."""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def last(self) -> StreamEnd:
        await asyncio.to_thread(fill, self._home, 3, start=11)
        return StreamEnd(13, lines_in(self._home)[-1], 3, 3)

    async def follow(self, _after: int) -> AsyncGenerator[Sequence[StreamLine], None]:
        yield [StreamLine(seq, 1, line) for seq, line in enumerate(lines_in(self._home), start=1)]


def test_what_is_appended_and_mirrored_while_the_end_is_read_is_no_fault(home: Path) -> None:
    fill(home, 10)
    found = asyncio.run(compare(cast(StreamEngine, _BusyStream(home)), home))
    assert (found.problem, found.compared, found.last_seq) == (None, 13, 13)


def test_what_was_verified_is_reported_also_where_no_server_answers(home: Path) -> None:
    fill(home, 10)
    env = {"EVENTLOG_STREAM": "main", "EVENTLOG_NATS_URL": "nats://127.0.0.1:9"}
    done = eventlog("verify", "--stream", "--json", home=home, env=env)
    found = json.loads(done.out)
    assert (done.code, found["ok"], found["stream"]["ok"]) == (3, True, None)
    assert found["stream"]["problem"] in done.err
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = lines_in(home)
    segment.write_bytes(b"".join([*lines[:4], b"x" * len(lines[4]), *lines[5:]]))
    done = eventlog("verify", "--stream", "--json", home=home, env=env)
    found = json.loads(done.out)
    assert (done.code, found["ok"], found["stream"]["ok"]) == (1, False, None)
    assert found["stream"]["problem"] in done.err


@pytest.mark.slow
def test_the_command_reports_as_verify_does_and_has_its_exit_codes(
    home: Path, server: NatsServers, stream: str
) -> None:
    entries = 600
    fill(home, entries)
    env = server.env(stream)
    mirror_once(home, server.settings(stream))
    done = eventlog("verify", "--stream", home=home, env=env)
    assert (done.code, done.out.splitlines()[-1]) == (
        0,
        b"EVENTLOG_%b: %b lines are the same, and it ends with the log"
        % (stream.encode(), f"{entries:,}".encode()),
    )
    other = home.with_name("other")
    shutil.copytree(home, other, symlinks=True)
    fill(home, 1, start=entries + 1)
    mirror_once(home, server.settings(stream))
    fill(other, 1, start=entries + 2)
    done = eventlog("verify", "--stream", "--json", home=other, env=env)
    found = json.loads(done.out)
    assert (done.code, found["ok"]) == (1, True)
    assert (found["stream"]["name"], found["stream"]["ok"]) == (f"EVENTLOG_{stream}", False)
    assert (found["stream"]["compared"], found["stream"]["seq"]) == (entries, entries + 1)
    assert "stream" not in json.loads(eventlog("verify", "--json", home=other).out)
    unset = eventlog("verify", "--stream", home=other)
    assert (unset.code, "EVENTLOG_STREAM is not set" in unset.err) == (3, True)
