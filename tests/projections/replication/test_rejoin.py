"""Rejoin on a scripted stream: nothing is lost, whatever it finds and wherever it is killed."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from errno import ENOSPC
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError, LogFenced, LogIsReplica
from eventlog.append.dry_run import DryRun
from eventlog.clock import now_recorded
from eventlog.plumbing import (
    Fork,
    Promoted,
    ReplicaLog,
    ReplicaState,
    StreamEngine,
    StreamSettings,
    cut_log,
    fence_home,
    fence_state,
    find_fork,
    own_chain,
    replica_state,
)
from eventlog.repair.repair import repair
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from projections.cli.replication.discard import discard_beyond, stopped_projections
from projections.errors import ProjectionError
from projections.replication import failover
from projections.replication.failover import Rejoined, promote, rejoin
from projections.replication.follow_record import FollowFigures, FollowRecord
from projections.run_directory import run_file_name, run_lock
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import assert_valid_log, lines_in, segment_contents, segments_in
from tests.harness.promotions import promote_on
from tests.harness.read_side import project
from tests.harness.scripted_consumers import ScriptedConsumers, stream_lines
from tests.harness.signals import a_signal, signals

SETTINGS = StreamSettings(name="main", urls=("nats://127.0.0.1:9",))
FORK = 8  # the last entry that both logs have
Killed = KeyboardInterrupt


class Pair:
    """An old primary, and a new one that was promoted without its last entries."""

    def __init__(self, directory: Path, *, own: int = 7) -> None:
        self.old, self.new = directory / "old", directory / "new"
        with EventLog(self.old, segment_bytes=1500) as log:
            log.append_many(signals(5))
            log.append_many(signals(3, start=6))
            self.stream = ScriptedConsumers(stream_lines(self.old))
            for number in range(own):
                log.append(a_signal(FORK + 1 + number))
        assert promote_on(self.stream, self.new) == Promoted(FORK + 1, 2)
        with EventLog(self.new) as log:
            log.append_many(signals(2, start=50))
        self.stream.add(stream_lines(self.new)[FORK + 1 :])
        self.before = lines_in(self.old)

    async def open_engine(self, _settings: StreamSettings) -> StreamEngine:
        return await self.stream.open()

    def rejoin(self, discard: Callable[[int], Sequence[str]] = lambda _: ()) -> Rejoined:
        return rejoin(self.old, SETTINGS, discard=discard, open_engine=self.open_engine)

    def fence(self) -> None:
        """What the mirror of the old primary does."""

        async def run() -> None:
            end = await self.stream.last()
            fork = await find_fork(self.stream, str(self.old), end)
            assert (fork.seq, fork.is_left_behind) == (FORK, True)
            fence_home(self.old, "main", fork)

        asyncio.run(run())

    def require_rejoined(self, aside: Sequence[str] = ("forked-9.aside",)) -> None:
        assert segment_contents(self.old) == segment_contents(self.new)
        assert (fence_state(self.old), replica_state(self.old)) == (
            None,
            ReplicaState(stream="main", epoch=2, primary="b"),
        )
        found = sorted(path.name for path in (self.old / "logs").glob("*forked*"))
        assert found == list(aside)
        if aside:
            kept = (self.old / "logs/forked-9.aside").read_bytes()
            assert kept == b"".join(self.before[FORK:])
        assert_valid_log(self.old)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    found = Pair(tmp_path)
    assert len(segments_in(found.old)) > 2
    return found


def test_the_lines_behind_the_fork_are_set_aside_and_the_home_is_the_new_primarys(
    pair: Pair,
) -> None:
    found = pair.rejoin()
    assert found.fence is not None
    assert (found.fence.seq, found.fence.primary, found.fence.epoch) == (FORK, "b", 2)
    assert (found.entries, found.last_seq) == (7, FORK + 3)
    assert found.aside == (str(pair.old / "logs/forked-9.aside"),)
    pair.require_rejoined()
    again = pair.rejoin()  # a replica already: it follows, and still names the file
    assert (again.fence, again.aside) == (None, found.aside)


def test_an_old_primary_that_had_nothing_of_its_own_sets_nothing_aside(tmp_path: Path) -> None:
    pair = Pair(tmp_path, own=0)
    pair.fence()
    found = pair.rejoin()
    assert (found.entries, found.aside) == (0, ())
    pair.require_rejoined(())


def test_a_fork_within_a_compressed_segment_is_cut(pair: Pair) -> None:
    from eventlog import compress_log

    compress_log(pair.old)
    assert len(list((pair.old / "logs").glob("*.zst"))) > 2
    assert pair.rejoin().entries == 7
    assert not set((pair.old / "logs").glob("*.zst")) & {
        Path(f"{path}.zst") for path in segments_in(pair.old)
    }
    with EventLog(pair.old) as log, EventLog(pair.new) as other:
        assert list(log.read()) == list(other.read())


def test_an_aside_file_is_never_replaced(pair: Pair) -> None:
    (pair.old / "logs/forked-9.aside").write_bytes(b"of another failover\n")
    found = pair.rejoin()
    assert [Path(path).name for path in found.aside] == ["forked-9.aside", "forked-9.aside.1"]
    assert (pair.old / "logs/forked-9.aside").read_bytes() == b"of another failover\n"
    kept = (pair.old / "logs/forked-9.aside.1").read_bytes()
    assert kept == b"".join(pair.before[FORK:])


def test_a_full_disk_cuts_nothing_and_keeps_no_part_of_an_aside_file(pair: Pair) -> None:
    pair.fence()
    fork = asyncio.run(find_fork(pair.stream, str(pair.old), asyncio.run(pair.stream.last())))
    disk = FaultDisk()
    disk.fail("pwrite", path=".forked-9.aside.new", error=ENOSPC)
    chain = own_chain(str(pair.old), fork.seq)
    with pytest.raises(EventLogError, match=r"could not be cut: No space left.*nothing is lost"):
        cut_log(pair.old, fork.seq, chain, ReplicaState(stream="main"), disk=disk)
    assert not list((pair.old / "logs").glob("*forked*"))
    assert lines_in(pair.old) == pair.before
    pair.rejoin()
    pair.require_rejoined()


def test_a_stream_that_an_older_primary_has_filled_again_cuts_no_newer_promotion(
    pair: Pair, tmp_path: Path
) -> None:
    pair.stream = ScriptedConsumers(stream_lines(pair.old))  # created again: the old one was first
    newer = lines_in(pair.new)

    def fork() -> Fork:
        return asyncio.run(find_fork(pair.stream, str(pair.new), asyncio.run(pair.stream.last())))

    assert (fork().seq, fork().is_left_behind, fork().is_stream_older) == (FORK, False, True)
    with pytest.raises(ProjectionError, match=r"after seq 8 .* a promotion \(epoch 2\)"):
        rejoin(pair.new, SETTINGS, discard=lambda _: (), open_engine=pair.open_engine)
    assert (lines_in(pair.new), fence_state(pair.new)) == (newer, None)
    # A person who promotes a replica of that stream decides for it.
    assert promote_on(pair.stream, tmp_path / "third", host="c") == Promoted(16, 2)
    assert (fork().stream_epoch, fork().is_left_behind) == (2, True)


def test_every_way_to_append_raises_while_the_home_is_fenced_and_after_it_has_rejoined(
    pair: Pair,
) -> None:
    with EventLog(pair.old) as handle:
        handle.append(a_signal(15))  # not known here yet
        pair.before = lines_in(pair.old)
        pair.fence()

        def require(kind: type[EventLogError]) -> None:
            with pytest.raises(kind):
                handle.append(a_signal(16))
            with pytest.raises(kind):
                handle.append(a_signal(15))  # no receipt for a retry either
            with pytest.raises(kind):
                handle.append(a_signal(16), timeout_s=60.0)
            with pytest.raises(kind):
                handle.append_many(signals(3, start=16))
            (result,) = handle.append_each([a_signal(16)])
            assert isinstance(result, kind)
            with pytest.raises(kind):
                asyncio.run(handle.append_async(a_signal(16)))
            with pytest.raises(kind):
                DryRun(RealDisk(), home_at(pair.old), now_recorded, 100)

        require(LogFenced)
        with pytest.raises(
            LogFenced, match=r"b \(epoch 2\) was promoted.*after seq 8.*run `eventlog rejoin`"
        ):
            handle.append(a_signal(16))
        assert lines_in(pair.old) == pair.before
        pair.rejoin()
        require(LogIsReplica)
    pair.require_rejoined()


STEPS = ["fence_home", "discard", "cut_log", "own_chain", "Follower", "aside_paths", "end_fence"]


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_is_run_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, step: str, is_done: bool
) -> None:
    discarded: list[int] = []

    def discard(seq: int) -> Sequence[str]:
        discarded.append(seq)
        return ()

    def discard_and_die(seq: int) -> Sequence[str]:
        discard(seq)
        raise Killed

    if step != "discard":
        real = getattr(failover, step)

        def die(*args: object, **named: object) -> object:
            if is_done:
                real(*args, **named)
            raise Killed

        monkeypatch.setattr(failover, step, die)
    with pytest.raises(Killed):
        pair.rejoin(discard_and_die if step == "discard" else discard)
    monkeypatch.undo()
    is_over = step == "end_fence" and is_done
    if step == "fence_home" and not is_done:  # the home is not fenced, and takes appends
        with EventLog(pair.old) as log:
            log.append(a_signal(99))
        pair.before = lines_in(pair.old)
    else:
        with pytest.raises((LogFenced, LogIsReplica)), EventLog(pair.old) as log:
            log.append(a_signal(99))
    found = pair.rejoin(discard)
    assert (found.fence is None) == is_over
    assert set(discarded) == {FORK}
    pair.require_rejoined()
    assert found.aside == (str(pair.old / "logs/forked-9.aside"),)


def test_a_log_that_was_restored_to_an_older_state_becomes_a_replica_of_its_stream(
    pair: Pair,
) -> None:
    older = pair.new.with_name("older")
    replica = ReplicaLog.open(older)
    replica.begin(ReplicaState(stream="main"), replica.catch_up())
    replica.write(pair.stream.lines[: FORK + 2])
    replica.close()
    (older / "logs/.replica").unlink()  # as after `restore`
    found = rejoin(older, SETTINGS, discard=lambda _: (), open_engine=pair.open_engine)
    assert (found.entries, found.aside, found.last_seq) == (0, (), FORK + 3)
    assert segment_contents(older) == segment_contents(pair.new)
    assert replica_state(older) == ReplicaState(stream="main", epoch=2, primary="b")


# -- what is refused


def test_the_primary_of_the_stream_is_left_alone(pair: Pair) -> None:
    before = segment_contents(pair.new)
    with pytest.raises(ProjectionError, match=r"with a line of this log.*may be the primary"):
        rejoin(pair.new, SETTINGS, discard=lambda _: (), open_engine=pair.open_engine)
    with EventLog(pair.new) as log:
        log.append(a_signal(60))  # which the mirror has not published yet
    with pytest.raises(ProjectionError, match="may be the primary"):
        rejoin(pair.new, SETTINGS, discard=lambda _: (), open_engine=pair.open_engine)
    assert (fence_state(pair.new), replica_state(pair.new)) == (None, None)
    assert segment_contents(pair.new) != before


def test_a_stream_of_another_log_changes_nothing(pair: Pair, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with EventLog(other) as log:
        log.append(a_signal(1))
    before = segment_contents(other)
    with pytest.raises(ProjectionError, match=r"no line in common.*check EVENTLOG_STREAM"):
        rejoin(other, SETTINGS, discard=lambda _: (), open_engine=pair.open_engine)
    assert (fence_state(other), segment_contents(other)) == (None, before)


def test_a_fenced_home_is_neither_followed_into_nor_promoted(pair: Pair) -> None:
    from projections.replication.follow import follow

    pair.fence()
    with pytest.raises(ProjectionError, match=r"is fenced: b.*run `eventlog rejoin`"):
        follow(pair.old, SETTINGS, once=True, from_backup=True, notify_socket=None)
    with pytest.raises(ProjectionError, match=r"is fenced: b.*run `eventlog rejoin` first"):
        promote(pair.old, SETTINGS, host="a", open_engine=pair.open_engine)


def test_a_running_daemon_is_named(pair: Pair) -> None:
    lock = run_lock(pair.old, run_file_name("sqlite"))
    assert lock.try_take()
    with (
        pytest.raises(ProjectionError, match=r"a process runs the projection sqlite.*stop"),
        stopped_projections(pair.old),
    ):
        pass
    lock.drop()
    record = FollowRecord(pair.old)  # held until it is closed
    with pytest.raises(ProjectionError, match="another process follows"):
        pair.rejoin()
    record.close(FollowFigures())
    assert lines_in(pair.old) == pair.before


def test_accepted_damage_behind_the_fork_is_not_cut(pair: Pair) -> None:
    segment = segments_in(pair.old)[-1]
    data = segment.read_bytes()
    segment.write_bytes(data[:100] + b"x" + data[101:])
    repair(pair.old, accept=True, now="2025-11-18T02:00:00.000000Z", lock_timeout_s=1.0)
    before = segment_contents(pair.old)
    with pytest.raises(EventLogError, match=r"accepted damage after the fork.*new home"):
        pair.rejoin()
    assert segment_contents(pair.old) == before


# -- projections


def test_projections_behind_the_fork_are_discarded_and_others_are_kept(pair: Pair) -> None:
    project(pair.old)
    outbox = pair.old / "data/alpine.db"
    with closing(sqlite3.connect(outbox)) as db:
        db.execute("CREATE TABLE checkpoint(seq)")
        db.execute("CREATE TABLE done(seq)")
        db.execute("CREATE TABLE parked(seq)")
        db.execute("INSERT INTO checkpoint VALUES (3)")
        db.commit()
    assert discard_beyond(pair.old, len(pair.before)) == []
    (done,) = discard_beyond(pair.old, FORK)
    assert done == "discarded the table: `eventlog project` builds it again"
    assert not list((pair.old / "data").glob("signals.db*"))
    with closing(sqlite3.connect(outbox)) as db:
        db.execute("INSERT INTO done VALUES (?)", (FORK + 1,))  # delivered out of order
        db.commit()
    (done,) = discard_beyond(pair.old, FORK)
    assert done.endswith("data/alpine.db.forked-9")
    assert [path.name for path in (pair.old / "data").glob("alpine*")] == ["alpine.db.forked-9"]
