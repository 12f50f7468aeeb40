"""The mirror on a real server: message N is line N; a stream of another log gets nothing."""

import asyncio
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError, LogDiverged
from eventlog.plumbing import (
    FENCED,
    MIRRORING,
    SHORT,
    UNFIT,
    WAITING,
    Promoted,
    StreamForeign,
    StreamShort,
    StreamUnfit,
)
from projections import ProjectionStalled
from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import until, until_async
from tests.harness.log_checks import lines_in
from tests.harness.losses import lose_entry
from tests.harness.mirrors import mirror_once, mirroring, record_of
from tests.harness.nats import NatsServers, nats_server
from tests.harness.promotions import promote_alone
from tests.harness.read_side import append
from tests.harness.signals import a_signal, signals


def seqs_of_segments(home: Path) -> list[int]:
    return [int(path.stem) for path in sorted((home / "logs").glob("*.jsonl"))]


def fill(home: Path, entries: int, *, start: int = 1) -> None:
    with EventLog(home) as log:
        log.append_many(signals(entries, start=start))


def test_message_n_is_line_n_byte_for_byte_with_the_segment_that_holds_it(
    home: Path, server: NatsServers, stream: str
) -> None:
    with EventLog(home, segment_bytes=3000) as log:
        for number in range(40):
            log.append(a_signal(number))
    for batch_entries in (7, 1000):
        mirror_once(home, server.settings(stream), batch_entries=batch_entries)
        assert server.messages(stream) == lines_in(home)
        starts = seqs_of_segments(home)
        assert len(starts) > 3
        assert server.segments(stream) == [
            max(start for start in starts if start <= seq) for seq in range(1, 41)
        ]
        server.delete_stream(stream)
        server.create_stream(stream)


def test_it_goes_on_where_the_stream_ends_and_an_empty_record_is_no_loss(
    home: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 20)
    assert mirror_once(home, server.settings(stream)).seq == 20
    (home / "data" / "mirror.json").unlink()
    fill(home, 10, start=21)
    assert mirror_once(home, server.settings(stream)).seq == 30
    assert server.messages(stream) == lines_in(home)
    assert (record_of(home).acked, record_of(home).lost_acked) == (30, 0)


def test_a_line_is_published_while_it_runs_and_a_stream_created_again_is_refilled(
    home: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 5)

    async def run() -> None:
        async with mirroring(home, server.settings(stream)) as mirror:
            await until_async(lambda: mirror.seq == 5)
            await asyncio.to_thread(append, home, a_signal(6))
            await until_async(lambda: mirror.seq == 6)
            await asyncio.to_thread(server.delete_stream, stream)
            await until_async(lambda: mirror.state == WAITING)
            assert mirror.failures == []  # an outage is no failure
            await asyncio.to_thread(server.create_stream, stream)
            await until_async(lambda: (record_of(home).acked, record_of(home).lost_acked) == (6, 6))
            assert mirror.state == MIRRORING

    asyncio.run(run())
    assert server.messages(stream) == lines_in(home)
    mirror_once(home, server.settings(stream))
    assert record_of(home).lost_acked == 6  # remembered across restarts


def cut_log(home: Path, entries: int) -> None:
    """Restores the log to its first lines, as an older backup would."""
    (segment,) = (home / "logs").glob("*.jsonl")
    segment.write_bytes(b"".join(lines_in(home)[:entries]))
    for name in (".lock", ".durable"):
        (home / "logs" / name).unlink()


def ahead(home: Path, server: NatsServers, stream: str) -> None:
    cut_log(home, 8)


def diverged(home: Path, server: NatsServers, stream: str) -> None:
    cut_log(home, 8)
    fill(home, 5, start=100)


def of_another_log(home: Path, server: NatsServers, stream: str) -> None:
    shutil.rmtree(home / "logs")
    fill(home, 30)


def foreign_message(home: Path, server: NatsServers, stream: str) -> None:
    server.publish(f"eventlog.{stream}.line", b"hello")


def line_of_another_seq(home: Path, server: NatsServers, stream: str) -> None:
    server.publish(f"eventlog.{stream}.line", lines_in(home)[3])


def hole(home: Path, server: NatsServers, stream: str) -> None:
    loosen(server, stream)
    server.request(f"STREAM.MSG.DELETE.EVENTLOG_{stream}", {"seq": 4})
    tighten(server, stream)


def purged(home: Path, server: NatsServers, stream: str) -> None:
    loosen(server, stream)
    server.request(f"STREAM.PURGE.EVENTLOG_{stream}")
    tighten(server, stream)


def loosen(server: NatsServers, stream: str) -> None:
    """Replaces the stream by one with the same lines that allows to delete them."""
    messages = server.messages(stream)
    server.delete_stream(stream)
    server.create_stream(stream, deny_delete=False, deny_purge=False)
    for line in messages:
        server.publish(f"eventlog.{stream}.line", line)


def tighten(server: NatsServers, stream: str) -> None:
    config = server.request(f"STREAM.INFO.EVENTLOG_{stream}")["config"]
    answer = server.request(
        f"STREAM.UPDATE.EVENTLOG_{stream}", config | {"deny_delete": True, "deny_purge": True}
    )
    assert "error" not in answer, answer


def unfit(home: Path, server: NatsServers, stream: str) -> None:
    server.delete_stream(stream)
    server.create_stream(stream, discard="old", metadata={})


Damage = Callable[[Path, NatsServers, str], None]
# What happens to a stream or to a log of ten lines, the error, the state, and words of the reason.
DAMAGES: list[tuple[Damage, type[EventLogError], str, str]] = [
    (ahead, LogDiverged, FENCED, "the stream ends at seq 10, and this log at 8"),
    (diverged, LogDiverged, FENCED, "another home continues the stream"),
    (of_another_log, LogDiverged, FENCED, "at seq 10 the stream holds another line"),
    (foreign_message, StreamForeign, FENCED, "message 11 of the stream does not start like"),
    (line_of_another_seq, StreamForeign, FENCED, "message 11 of the stream is entry 4"),
    (hole, StreamShort, SHORT, "ends at 10 and holds 9 messages"),
    (purged, StreamShort, SHORT, "holds 0 messages"),
    (unfit, StreamUnfit, UNFIT, "discard is old and must be new.*num_replicas is 1"),
]


@pytest.mark.parametrize(
    ("damage", "error", "state", "words"), DAMAGES, ids=[d[0].__name__ for d in DAMAGES]
)
def test_a_stream_that_is_not_a_part_of_the_log_gets_nothing(
    home: Path,
    server: NatsServers,
    stream: str,
    damage: Damage,
    error: type[EventLogError],
    state: str,
    words: str,
) -> None:
    fill(home, 10)
    mirror_once(home, server.settings(stream))
    damage(home, server, stream)
    before = server.request(f"STREAM.INFO.EVENTLOG_{stream}")["state"]
    for _ in range(2):
        with pytest.raises(error, match=words):
            mirror_once(home, server.settings(stream))
        assert record_of(home).state == state
        assert words.split(".*")[0] in (record_of(home).last_error or "")
    assert server.request(f"STREAM.INFO.EVENTLOG_{stream}")["state"] == before
    assert record_of(home).lost_acked == 0
    # A stream that never held a line of this log, and one that is ahead, block no appends.
    assert (home / "logs/.fenced").exists() == (damage is diverged)


def test_a_mirror_that_runs_is_fenced_once_another_home_continues_the_stream(
    home: Path, tmp_path: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 5)
    other = tmp_path / "other"

    async def run() -> None:
        async with mirroring(home, server.settings(stream)) as mirror:
            await until_async(lambda: mirror.seq == 5)
            shutil.copytree(home, other, symlinks=True)
            fill(other, 1, start=50)
            await asyncio.to_thread(mirror_once, other, server.settings(stream))
            # Many lines at once, while the mirror may not have noticed: none may get in behind it.
            await asyncio.to_thread(fill, home, 30, start=100)
            await until_async(lambda: mirror.supervisor.failure is not None)
            await until_async(lambda: mirror.state == FENCED)

    asyncio.run(run())
    assert server.messages(stream) == lines_in(other)
    assert record_of(home).acked == 5  # a line of another home is none of this log


def test_a_newer_primary_is_not_fenced_by_a_stream_that_an_older_one_has_filled_again(
    home: Path, tmp_path: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 5)
    older = tmp_path / "older"
    shutil.copytree(home, older, symlinks=True)
    fill(older, 2, start=50)
    assert promote_alone(home) == Promoted(6, 2)
    mirror_once(home, server.settings(stream))
    server.delete_stream(stream)
    server.create_stream(stream)
    mirror_once(older, server.settings(stream))
    with pytest.raises(LogDiverged, match=r"a promotion \(epoch 2\) that the stream does not"):
        mirror_once(home, server.settings(stream))
    assert not (home / "logs/.fenced").exists()
    assert record_of(home).state == FENCED
    # The promotion was acknowledged, and is replicated no more.
    assert (record_of(home).acked, record_of(home).lost_acked) == (5, 1)
    assert server.messages(stream) == lines_in(older)


def test_two_mirrors_of_one_home_do_no_harm(home: Path, server: NatsServers, stream: str) -> None:
    fill(home, 10)

    async def run() -> None:
        settings = server.settings(stream)
        async with mirroring(home, settings) as one, mirroring(home, settings) as two:
            for start in range(11, 411, 40):
                await asyncio.to_thread(fill, home, 40, start=start)
            await until_async(lambda: one.seq == two.seq == 410)
            assert one.failures == two.failures == []

    asyncio.run(run())
    assert server.messages(stream) == lines_in(home)
    assert record_of(home).lost_acked == 0


@pytest.mark.slow
def test_a_log_that_has_lost_a_line_is_mirrored_only_by_a_stream_that_holds_it(
    home: Path, tmp_path: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 5)
    mirror_once(home, server.settings(stream))
    backup = tmp_path / "backup"
    shutil.copytree(home, backup, symlinks=True)
    lines = lose_entry(home, 3)
    fill(home, 1, start=6)
    assert mirror_once(home, server.settings(stream)).seq == 6
    assert server.messages(stream)[:5] == lines
    # Another stream gets not even the lines before the gap.
    server.create_stream(f"{stream}-b")
    for _ in range(2):
        with pytest.raises(StreamUnfit, match=r"the log has lost entry 3.*repair --from"):
            mirror_once(home, server.settings(f"{stream}-b"))
        assert record_of(home).state == UNFIT
    assert server.messages(f"{stream}-b") == []
    done = eventlog("doctor", "--json", home=home, env=server.env(f"{stream}-b"))
    assert b"the log has lost entry 3" in done.out
    # The advice: the line from a copy that has it, or the lines in a log of their own.
    new = tmp_path / "new"
    (kept := tmp_path / "kept").write_bytes(eventlog("cat", home=home).out)
    moved = eventlog("append", "--stored", "--skip-invalid", kept, home=new)
    assert (moved.code, len(lines_in(new))) == (0, 5)
    assert eventlog("repair", "--from", backup, home=home).code == 0
    mirror_once(home, server.settings(f"{stream}-b"))
    assert server.messages(f"{stream}-b") == server.messages(stream) == lines_in(home)


def test_a_log_that_has_lost_the_last_line_of_its_stream_is_not_fenced(
    home: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 4)
    mirror_once(home, server.settings(stream))
    fill(home, 2, start=5)
    lose_entry(home, 4)
    with pytest.raises(StreamUnfit, match="the log has lost entry 4"):
        mirror_once(home, server.settings(stream))
    assert (record_of(home).state, (home / "logs/.fenced").exists()) == (UNFIT, False)


def test_once_without_a_server_is_an_error_also_where_nothing_is_left(
    home: Path, server: NatsServers, stream: str
) -> None:
    with nats_server() as gone:
        gone.create_stream(stream)
        fill(home, 5)
        mirror_once(home, gone.settings(stream))
    for _ in range(2):
        with pytest.raises(ProjectionStalled):
            mirror_once(home, gone.settings(stream))
        assert record_of(home).state == WAITING
        assert record_of(home).acked == 5
        fill(home, 1, start=6)


@pytest.mark.slow
def test_a_daemon_killed_in_the_middle_loses_and_repeats_nothing(
    home: Path, server: NatsServers, stream: str
) -> None:
    fill(home, 2000)
    env = server.env(stream)

    def last_seq() -> int:
        return int(server.request(f"STREAM.INFO.EVENTLOG_{stream}")["state"]["last_seq"])

    seen = 0
    for _ in range(2):
        with daemon(home, "mirror", "--batch-size", 5, env=env) as d:
            until(lambda before=seen: last_seq() > before)  # type: ignore[misc]
            d.send(signal.SIGKILL)
            d.wait()
        seen = last_seq()
        assert seen < 2000, "the kill came too late"
    with daemon(home, "mirror", env=env):
        until(lambda: last_seq() == 2000)
    assert server.messages(stream) == lines_in(home)


@pytest.mark.slow
def test_the_commands_create_publish_and_report(home: Path, server: NatsServers) -> None:
    env = server.env("commands")
    fill(home, 3)
    unset = eventlog("project", "mirror", "--once", home=home)
    assert (unset.code, "EVENTLOG_STREAM is not set" in unset.err) == (3, True)
    assert eventlog("status", home=home).out.find(b"mirror:") == -1
    alone = eventlog("mirror", "create", home=home, env=env)
    assert (alone.code, "--replicas 1 --allow-single" in alone.err) == (3, True)
    refused = eventlog("mirror", "create", "--replicas", 1, home=home, env=env)
    assert (refused.code, "--allow-single" in refused.err) == (2, True)
    single = ("mirror", "create", "--replicas", 1, "--allow-single")
    created = eventlog(*single, home=home, env=env)
    assert (created.code, created.out.endswith(b": created, replicas 1\n")) == (0, True)
    assert b"exists and meets the rules" in eventlog(*single, home=home, env=env).out
    server.create_stream("other", max_age=10**15)
    other = eventlog(*single, home=home, env=server.env("other"))
    assert (other.code, "max_age is 1000000000000000" in other.err) == (3, True)
    done = eventlog("project", "all", "--once", home=home, env=env)
    assert (done.code, done.out) == (0, b"")
    assert server.messages("commands") == lines_in(home)
    waited = eventlog("wait", 3, "--for", "replicated", home=home)
    assert (waited.code, "so no entry counts as replicated" in waited.err) == (1, True)
    (found,) = eventlog("status", "--json", home=home).answers
    mirror = found["projections"]["mirror"]
    assert mirror.pop("daemon")["state"] == "stopped"
    assert mirror == {
        "stream": "EVENTLOG_commands",
        "checkpoint": 3,
        "lag_entries": 0,
        "lag_seconds": 0.0,
        "state": "mirroring",
        "replicas": 1,
        "replicas_current": 1,
        "lost_acked": 0,
        "last_error": None,
    }
