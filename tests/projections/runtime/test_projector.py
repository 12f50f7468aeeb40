"""The daemon loop: rows are the fold of the log up to the checkpoint, however it was batched."""

import asyncio
import logging
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import Entry, EventLog, EventLogError, LogCorrupt, LogDiverged
from projections import Checkpoint, CheckpointMoved, Pace, ProjectionStalled, Projector
from projections.sqlite.projection import SqliteProjection
from tests.harness.command import eventlog
from tests.harness.deadline import DEADLINE_S, until, until_async
from tests.harness.histories import Item, histories
from tests.harness.plugins import plugins
from tests.harness.raw_log import RawLog, swap
from tests.harness.read_side import append, checkpoint_seq_of, project, running
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import (
    assert_caught_up,
    assert_is_fold,
    database_of,
    dump,
    raw_entries,
    read_tables,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


# -- fold(log) = table


@pytest.mark.slow
@settings(max_examples=25)
@given(
    histories(),
    st.lists(st.integers(1, 12), max_size=6),
    st.integers(1, 7),
    st.booleans(),
    st.integers(1, 8),
)
def test_the_table_is_the_fold_of_the_log_for_any_batches_and_restarts(
    history: list[Item], steps: list[int], batch_entries: int, again: bool, lines_in_segment: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        raw = RawLog(home)
        projection = SqliteProjection()

        async def catch_up() -> None:
            nonlocal projection
            projection = projection if again else SqliteProjection()
            pace = Pace(batch_entries=batch_entries)
            await Projector(home, projection, pace=pace).run(once=True)

        while history:
            count = steps.pop() if steps else len(history)
            raw.add(history[:count], lines_in_segment=lines_in_segment)
            history = history[count:]
            asyncio.run(catch_up())
            assert_caught_up(home)


@pytest.mark.slow
def test_with_writers_rotations_and_restarts_the_table_is_the_fold_of_the_log(
    home: Path,
) -> None:
    async def write(log: EventLog, start: int) -> None:
        for number in range(start, start + 150):
            await log.append_async(a_signal(number))
            if number % 3 == 0:
                fact = {"event": "executed", "signal_id": f"s-{number - 1}", "order_id": "o"}
                await log.append_async(fact)
            if number % 5 == 0:
                await log.append_async(closed(number - 2))
            if number % 7 == 0:  # not allowed, or of an unknown signal
                await log.append_async(closed(number - 5, exit_price=1.0))

    async def restart_again_and_again(done: asyncio.Event) -> None:
        for batch_entries in (1, 2, 1000, 3, 50, 7) * 100:
            seen: list[Checkpoint] = []
            pace = Pace(batch_entries=batch_entries)
            projector = Projector(home, SqliteProjection(), pace=pace, on_progress=seen.append)
            async with running(projector):
                await until_async(lambda seen=seen: len(seen) > 3 or done.is_set())  # type: ignore[misc]
            assert_is_fold(home)
            if done.is_set():
                return

    async def run() -> None:
        done = asyncio.Event()
        with EventLog(home, segment_bytes=5_000) as log:
            log.append(a_signal(0))
            projecting = asyncio.create_task(restart_again_and_again(done))
            await asyncio.gather(*(write(log, start) for start in (1, 1001, 2001)))
            done.set()
            await projecting

    asyncio.run(run())
    project(home)
    assert_caught_up(home)
    tables, _ = read_tables(home)
    assert len(tables.conflicts) > 10
    assert len(list((home / "logs").glob("*.jsonl"))) > 10


def test_a_lone_entry_is_projected_while_the_daemon_waits_for_more(home: Path) -> None:
    async def run() -> None:
        with EventLog(home) as log:
            await log.append_async(a_signal(1))
            projector = Projector(home, SqliteProjection())
            async with running(projector):
                for seq in range(1, 6):
                    await until_async(lambda seq=seq: checkpoint_seq_of(projector) == seq)  # type: ignore[misc]
                    assert assert_is_fold(home).seq == seq
                    await log.append_async(a_signal(seq + 1))

    asyncio.run(run())


# -- how batches are cut


def cuts(seen: Sequence[Checkpoint]) -> list[int]:
    return [checkpoint.seq for checkpoint in seen]


def test_under_load_batches_are_full_and_the_rest_is_committed_at_once(home: Path) -> None:
    append(home, *signals(120))
    seen: list[Checkpoint] = []
    pace = Pace(batch_entries=50)
    projector = Projector(home, SqliteProjection(), pace=pace, on_progress=seen.append)
    asyncio.run(projector.run(once=True))
    assert cuts(seen) == [0, 50, 100, 120]


def test_with_a_batch_timeout_a_batch_waits_until_it_is_full(home: Path) -> None:
    async def run() -> None:
        with EventLog(home) as log:
            await log.append_async(a_signal(1))
            seen: list[Checkpoint] = []
            pace = Pace(batch_entries=50, batch_timeout_s=3600)
            projector = Projector(home, SqliteProjection(), pace=pace, on_progress=seen.append)
            async with running(projector):
                for number in range(2, 121):
                    await log.append_async(a_signal(number))
                await until_async(lambda: checkpoint_seq_of(projector) == 100)
                await asyncio.sleep(0.2)
                assert cuts(seen) == [0, 50, 100]  # 20 are held
            assert cuts(seen) == [0, 50, 100, 120]  # and committed when it is asked to stop

    asyncio.run(run())
    assert_caught_up(home)


def test_with_a_batch_timeout_a_partial_batch_is_committed_after_it(home: Path) -> None:
    async def run() -> None:
        with EventLog(home) as log:
            await log.append_async(a_signal(1))
            seen: list[Checkpoint] = []
            pace = Pace(batch_entries=50, batch_timeout_s=1.0)
            projector = Projector(home, SqliteProjection(), pace=pace, on_progress=seen.append)
            async with running(projector):
                await until_async(lambda: checkpoint_seq_of(projector) == 1)
                for number in (2, 3, 4):
                    await log.append_async(a_signal(number))
                await until_async(lambda: checkpoint_seq_of(projector) == 4)
            assert len(seen) < 5  # a slow machine may cut once more

    asyncio.run(run())
    assert_caught_up(home)


def test_a_run_to_the_end_does_not_wait_for_a_batch_to_fill(home: Path) -> None:
    append(home, *signals(60))
    project(home, Pace(batch_entries=50, batch_timeout_s=3600))
    assert_caught_up(home)


def test_the_batches_of_the_old_tracker_can_be_configured(home: Path) -> None:
    append(home, *signals(60))
    words = ("project", "sqlite", "--once", "--batch-size", 50, "--batch-timeout", 5)
    assert eventlog(*words, home=home).code == 0
    assert_caught_up(home)


def test_once_ends_at_the_end_that_the_log_had_although_more_comes(home: Path) -> None:
    async def run() -> None:
        with EventLog(home) as log:
            await log.append_async(a_signal(1))
            done = False

            async def go_on() -> None:
                number = 2
                while not done:
                    await log.append_async(a_signal(number))
                    number += 1

            writing = asyncio.create_task(go_on())
            for _ in range(5):
                end = log.last_seq
                projector = Projector(home, SqliteProjection())
                await asyncio.wait_for(projector.run(once=True), DEADLINE_S)
                assert checkpoint_seq_of(projector) >= end
            done = True
            await writing

    asyncio.run(run())
    assert_is_fold(home)


def test_once_on_a_log_that_has_been_projected_changes_nothing(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    before = dump(database_of(home))
    project(home)
    assert dump(database_of(home)) == before


# -- the fence


def test_only_the_first_of_two_projectors_advances_a_shared_checkpoint(home: Path) -> None:
    executed = {"event": "executed", "signal_id": "s-1", "order_id": "o"}
    append(home, a_signal(1), executed, closed(7), a_signal(2))
    entries = raw_entries(home)

    async def run() -> None:
        first, second = SqliteProjection(), SqliteProjection()
        before = await first.open(home)
        assert await second.open(home) == before
        after = replace(before, seq=3, chain=entries[2].chain)
        await first.apply(entries[:3], before=before, after=after)
        tables = dump(database_of(home))
        with pytest.raises(CheckpointMoved):
            await second.apply(entries[:3], before=before, after=after)
        end = replace(before, seq=4, chain=entries[3].chain)
        with pytest.raises(CheckpointMoved):
            await second.apply(entries, before=before, after=end)
        assert dump(database_of(home)) == tables
        await first.close()
        await second.close()

    asyncio.run(run())
    project(home)
    assert_caught_up(home)


def test_a_checkpoint_of_another_chain_is_not_moved_on(home: Path) -> None:
    append(home, *signals(2))
    project(home)
    append(home, a_signal(3))
    tables = dump(database_of(home))
    last = raw_entries(home)[2]

    async def run() -> None:
        projection = SqliteProjection()
        before = await projection.open(home)
        other = replace(before, chain="f" * 64)
        try:
            with pytest.raises(CheckpointMoved):
                await projection.apply([last], before=other, after=replace(other, seq=3))
        finally:
            await projection.close()

    asyncio.run(run())
    assert dump(database_of(home)) == tables


def test_two_projectors_on_one_database_take_turns(home: Path) -> None:
    async def run() -> None:
        with EventLog(home) as log:
            await log.append_async(a_signal(0))
            two = [
                Projector(home, SqliteProjection(), pace=Pace(batch_entries=3)) for _ in range(2)
            ]
            async with running(two[0]) as first, running(two[1]) as second:
                for number in range(1, 100):
                    await log.append_async(a_signal(number))
                await until_async(
                    lambda: all(checkpoint_seq_of(projector) == 100 for projector in two)
                )
                assert not first.done()
                assert not second.done()

    asyncio.run(run())
    assert_caught_up(home)


@pytest.mark.slow
def test_another_projector_that_is_always_faster_does_not_end_a_daemon(home: Path) -> None:
    """A generator that queries its own writes after each of them moves the checkpoint itself."""

    async def run() -> None:
        with EventLog(home) as log:
            await log.append_async(a_signal(0))
            projector = Projector(home, SqliteProjection(), pace=Pace(batch_timeout_s=0.05))
            async with running(projector) as task:
                for number in range(1, 111):  # more often than it may be moved in vain
                    await log.append_async(a_signal(number))
                    await Projector(home, SqliteProjection()).run(once=True)
                await until_async(lambda: checkpoint_seq_of(projector) == log.last_seq)
                assert not task.done()

    asyncio.run(run())
    assert_caught_up(home)


# -- another log


def raw_home(folder: Path, *, count: int = 12, start: int = 1) -> tuple[Path, RawLog]:
    """A projected home whose log has neither lock record nor watermark."""
    home = folder / "raw"
    append(folder / "source", *signals(count, start=start))
    raw = RawLog(home)
    raw.add([(entry.event, entry.payload) for entry in raw_entries(folder / "source")])
    project(home)
    return home, raw


def assert_halts(home: Path, error: type[EventLogError] = LogDiverged) -> str:
    """Checks that the daemon stops with an error and leaves the table; returns the error text."""
    tables = dump(database_of(home))
    with pytest.raises(error) as refusal:
        project(home)
    done = eventlog("project", "sqlite", "--once", home=home)
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith("do:    ")
    assert dump(database_of(home)) == tables
    return str(refusal.value)


def test_a_log_shorter_than_the_table_is_refused(tmp_path: Path) -> None:
    home, raw = raw_home(tmp_path)
    raw.cut(7)
    message = assert_halts(home)
    assert "has applied seq 12, and this log does not reach so far" in message
    assert "rebuild-database" in message
    assert "checkpoint sqlite" in message


def test_a_log_that_lost_its_end_is_refused(home: Path) -> None:
    append(home, *signals(6))
    project(home)
    (segment,) = (home / "logs").glob("*.jsonl")
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:4]))
    # The watermark knows that it was durable.
    assert "entry 5 is missing" in assert_halts(home, LogCorrupt)


def test_a_rewritten_log_is_refused(tmp_path: Path) -> None:
    home, raw = raw_home(tmp_path)
    payload = {**raw_entries(home)[8].payload, "note": "edited"}
    history = [(entry.event, entry.payload) for entry in raw_entries(home)]
    history[8] = ("signal", payload)
    raw.cut(0)
    raw.add(history)
    message = assert_halts(home)
    assert "has another entry there" in message


def test_another_log_is_refused(tmp_path: Path) -> None:
    home, _ = raw_home(tmp_path)
    other = tmp_path / "other"
    append(other, *signals(30, start=100))
    swap(home, other)
    assert "has another entry there" in assert_halts(home)


def test_a_missing_log_is_reported(home: Path) -> None:
    append(home, *signals(2))
    project(home)
    tables = dump(database_of(home))
    shutil.rmtree(home / "logs")
    done = eventlog("project", "sqlite", "--once", home=home)
    assert done.code == 3
    assert "there is no log at this home" in done.err
    assert dump(database_of(home)) == tables


def test_a_bit_that_turned_in_the_last_entry_is_found_by_the_checkpoint(tmp_path: Path) -> None:
    home, _ = raw_home(tmp_path)
    segment = max((home / "logs").glob("*.jsonl"))
    data = bytearray(segment.read_bytes())
    data[-200] ^= 1
    segment.write_bytes(data)
    assert "seq 12" in assert_halts(home)


def test_a_log_that_is_replaced_under_a_running_daemon_ends_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    append(home, *signals(5))
    append(tmp_path / "other", *signals(9, start=50))

    async def run() -> None:
        projector = Projector(home, SqliteProjection())
        task = asyncio.create_task(projector.run())
        await until_async(lambda: checkpoint_seq_of(projector) == 5)
        swap(home, tmp_path / "other")
        with pytest.raises((LogDiverged, LogCorrupt)):
            await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(run())
    tables, point = read_tables(home)
    assert point.seq == 5
    assert [row[1] for row in tables.signals] == [f"s-{n}" for n in range(1, 6)]


def test_damage_ends_it_after_the_valid_entries(home: Path) -> None:
    append(home, *signals(9))
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b"momentum", b"Momentum")
    segment.write_bytes(b"".join(lines))
    with pytest.raises(LogCorrupt) as refusal:
        project(home)
    assert refusal.value.seq == 6
    tables, point = read_tables(home)
    assert point.seq == 5
    assert len(tables.signals) == 5


# -- batches that stall


class Stalling:
    """A projection whose first tries at each batch stall for a passing reason."""

    name = "stalling"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.left = failures
        self.applied: list[int] = []
        self.opened = 0

    async def open(self, home: Path) -> Checkpoint:
        self.opened += 1
        if self.opened == 1:
            raise ProjectionStalled("not yet open")
        return Checkpoint(projection=self.name)

    async def apply(
        self, entries: Sequence[Entry], *, before: Checkpoint, after: Checkpoint
    ) -> None:
        if self.left:
            self.left -= 1
            raise ProjectionStalled("not now")
        self.left = self.failures
        self.applied += [entry.seq for entry in entries]

    async def status(self) -> Mapping[str, object]:
        return {}

    async def close(self) -> None:
        pass


def test_a_stalled_batch_is_retried_and_nothing_is_skipped(home: Path) -> None:
    append(home, *signals(6))
    projection = Stalling(failures=2)
    asyncio.run(Projector(home, projection, pace=Pace(batch_entries=3)).run(once=True))
    assert projection.applied == [1, 2, 3, 4, 5, 6]


def test_a_stalled_daemon_logs_it_and_can_be_stopped(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(1))

    async def run() -> None:
        projector = Projector(home, Stalling(failures=10**9))
        async with running(projector):
            await until_async(lambda: projector.stalled == "not now")
        assert checkpoint_seq_of(projector) == 0

    asyncio.run(run())
    assert "stalled projection=stalling not yet open" in caplog.text
    assert caplog.text.count("not now") == 1  # not once a try


def test_the_end_of_a_stall_is_logged_once_at_the_level_of_its_beginning(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(1))
    with caplog.at_level(logging.INFO):
        asyncio.run(Projector(home, Stalling(failures=0)).run(once=True))
    found = [(r.levelno, r.getMessage().split()[0]) for r in caplog.records]
    stalls = [(level, event) for level, event in found if "stall" in event]
    assert stalls == [(logging.WARNING, "stalled"), (logging.WARNING, "stall_ended")]


def test_cancelled_at_any_moment_it_leaves_no_connection_open(home: Path) -> None:
    """An open connection has a thread, which keeps the interpreter from exiting."""
    append(home, *signals(3))
    before = set(threading.enumerate())

    async def run() -> None:
        for turns in range(60):
            running = asyncio.create_task(Projector(home, SqliteProjection()).run(once=True))
            for turn in range(turns):
                await asyncio.sleep(0.0005 if turn % 10 == 9 else 0)
            running.cancel()
            await asyncio.wait([running])

    asyncio.run(run())
    until(lambda: set(threading.enumerate()) <= before, "the end of each connection's thread")
    project(home)
    assert_caught_up(home)


def test_a_run_to_the_end_raises_what_stalled_it(home: Path) -> None:
    append(home, *signals(1))
    projector = Projector(home, Stalling(failures=10**9), pace=Pace(once_stall_s=0.3))
    with pytest.raises(ProjectionStalled, match="not now"):
        asyncio.run(projector.run(once=True))


# -- a third party's projection

COUNTER = '''
import json
import os
from projections import Checkpoint, CheckpointMoved


class Counter:
    """Counts the signals of each symbol in a file of its own."""

    name = "counter"

    async def open(self, home):
        self.path = home / "data" / "counter.json"
        self.stored = {"seq": 0, "chain": "0" * 64, "counts": {}}
        if self.path.exists():
            self.stored = json.loads(self.path.read_text())
        return Checkpoint(projection=self.name, seq=self.stored["seq"], chain=self.stored["chain"])

    async def apply(self, entries, *, before, after):
        if self.stored["seq"] != before.seq:
            raise CheckpointMoved("another daemon was here")
        for entry in entries:
            if entry.event == "signal":
                symbol = entry.payload["symbol"]
                self.stored["counts"][symbol] = self.stored["counts"].get(symbol, 0) + 1
        self.stored.update(seq=after.seq, chain=after.chain)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.stored))
        os.replace(new, self.path)

    async def status(self):
        return {"symbols": len(self.stored["counts"])}

    async def close(self):
        pass
'''

BROKEN = """
class Broken:
    name = "broken"

    async def open(self, home):
        raise RuntimeError("a mistake of the projection")
"""


def test_a_third_party_projection_runs_by_its_name(home: Path, tmp_path: Path) -> None:
    env = plugins(tmp_path / "site", counter=COUNTER)
    append(home, *signals(7), a_signal(8, symbol="MSFT"), segment_bytes=1000)
    assert eventlog("project", "counter", "--once", home=home, env=env).err == ""
    append(home, a_signal(9, symbol="MSFT"))
    assert eventlog("project", "counter", "sqlite", "--once", home=home, env=env).code == 0
    text = (home / "data" / "counter.json").read_text()
    assert '"counts": {"AAPL": 7, "MSFT": 2}' in text
    assert_caught_up(home)
    (found,) = eventlog("status", "--json", home=home, env=env).answers
    assert found["projections"]["counter"] == {
        "checkpoint": 9,
        "lag_entries": 0,
        "lag_seconds": 0.0,
        "symbols": 2,
        "daemon": {"state": "stopped", "pid": None, "since": None, "reason": None},
    }


@pytest.mark.slow
def test_a_failing_third_party_projection_is_named_and_stops_no_other_command(
    home: Path, tmp_path: Path
) -> None:
    env = plugins(tmp_path / "site", broken=BROKEN)
    append(home, *signals(3))
    done = eventlog("project", "broken", "--once", home=home, env=env)
    assert done.code == 3
    assert "the projection 'broken' failed: RuntimeError: a mistake of the projection" in done.err
    assert eventlog("project", "sqlite", "--once", home=home, env=env).code == 0
    done = eventlog("status", "--json", home=home, env=env)
    assert done.code == 0
    found = done.answers[0]["projections"]
    assert found["sqlite"]["checkpoint"] == 3
    assert "a mistake of the projection" in found["broken"]["problem"]


def test_a_projection_that_cannot_be_loaded_is_named_with_the_reason(
    home: Path, tmp_path: Path
) -> None:
    env = plugins(tmp_path / "site", bad="raise RuntimeError('cannot be imported')")
    append(home, *signals(3))
    for name in ("bad", "all"):
        done = eventlog("project", name, "--once", home=home, env=env)
        assert done.code == 3
        reason = "the projection 'bad' failed: RuntimeError: cannot be imported"
        assert done.err.count(reason) == 1
    assert_caught_up(home)


def test_a_home_without_a_log_is_reported_and_nothing_is_created(home: Path) -> None:
    done = eventlog("project", "sqlite", "--once", home=home)
    assert (done.code, home.exists()) == (3, False)


# -- an end of the log that was accepted as lost


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_once_ends_at_the_last_entry_where_those_behind_it_were_lost(home: Path, lost: int) -> None:
    append(home, *signals(5))
    segment = home / "logs" / "00000000000000000001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(
        b"".join(lines[: 5 - lost] + [b"x" + line[1:] for line in lines[5 - lost :]])
    )
    eventlog("repair", "--accept", home=home)
    for last_seq in (5 - lost, 6):
        projector = Projector(home, SqliteProjection())
        asyncio.run(asyncio.wait_for(projector.run(once=True), DEADLINE_S))
        assert max(checkpoint_seq_of(projector), 0) == last_seq
        append(home, a_signal(6))
