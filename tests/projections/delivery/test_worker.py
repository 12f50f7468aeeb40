"""One run of delivery over a real log and a real alpine.db, with an Alpine that follows a script.

Invariant: whatever happens to the process or the file, a signal that Alpine does not have is sent
again, and nothing is lost but requests.
"""

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import EventLog, UnsafePath
from projections import Checkpoint, Pace, Projector
from projections.alpine.contract import Accepted, Answer, Duplicate
from projections.alpine.credentials import FixedKey
from projections.alpine.retry import Timing
from projections.delivery.ack_tracker import Ledger
from projections.delivery.dispatcher import State
from projections.delivery.job import Kept, Parcel, Park, parked_row
from projections.delivery.lease import SenderLock, lock_path
from projections.delivery.outbox import (
    DISCARD,
    DISCARDED,
    FAILING,
    REFUSED,
    REPLAY,
    RETRY,
    Outbox,
    Parked,
    Unsaved,
    is_delivering,
    outbox_path,
    read_outbox,
    read_parked,
    read_seq,
)
from projections.delivery.projection import AlpineConfig, AlpineProjection
from projections.delivery.requests import Done, carry_out
from projections.errors import ProjectionError, ProjectionStalled, SchemaTooNew
from projections.monitoring.status import alpine_status
from projections.queries.wait import DELIVERED, WaitTimeout, wait_async
from projections.queries.wait import Parked as IsParked
from tests.harness.deadline import PATIENCE_S, happens
from tests.harness.log_checks import bytes_of
from tests.harness.read_side import append
from tests.harness.scripted_alpine import AT_ONCE, BAD, FAILS, GONE, WRONG_KEY, Script, number_of
from tests.harness.signals import a_signal, closed, signals

CONFIG = AlpineConfig(url="http://127.0.0.1:9", key=FixedKey("key"))
DISABLED = AlpineConfig(url="", key=FixedKey(""), disabled="ALPINE_API_URL is not set")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def projection_of(
    script: Script,
    *,
    timing: Timing = AT_ONCE,
    config: AlpineConfig = CONFIG,
    died: Callable[[BaseException], object] | None = None,
) -> AlpineProjection:
    return AlpineProjection(config, timing=timing, make_client=lambda _: script, died=died)


def deliver(home: Path, script: Script, *, timing: Timing = AT_ONCE) -> None:
    """What `eventlog project alpine --once` does."""
    projector = Projector(home, projection_of(script, timing=timing), pace=Pace(once_stall_s=0.1))
    asyncio.run(projector.run(once=True))


def while_delivering(
    home: Path,
    script: Script,
    story: Callable[[Projector], Awaitable[object]],
    *,
    timing: Timing = AT_ONCE,
) -> None:
    """Tells a story while a daemon runs in the same loop."""

    async def run() -> None:
        projector = Projector(home, projection_of(script, timing=timing))
        task = asyncio.create_task(projector.run())
        try:
            await happens(lambda: projector.checkpoint is not None or task.done())
            await story(projector)
        finally:
            projector.stop()
            await asyncio.wait_for(task, PATIENCE_S)

    asyncio.run(run())


def status(home: Path) -> Mapping[str, Any]:
    return alpine_status(home)


def is_caught_up(home: Path) -> bool:
    found = read_outbox(outbox_path(home))
    with EventLog(home) as log:
        return found is not None and found[0].seq == log.last_seq


def parked_kinds(home: Path) -> dict[int, str]:
    return {row.seq: row.kind for row in read_parked(outbox_path(home))}


def order(home: Path, script: Script, what: str, *seqs: int) -> Done:
    """What a command does about it."""

    async def run() -> Done:
        return await carry_out(
            home, CONFIG, what, seqs, make_projection=lambda _: projection_of(script)
        )

    return asyncio.run(run())


# All is well


def test_what_is_in_the_log_is_delivered_once_and_the_checkpoint_follows(home: Path) -> None:
    append(home, *signals(50), *(closed(n) for n in range(1, 21)), a_signal(51))
    script = Script()
    deliver(home, script)
    assert sorted(script.sent) == list(range(1, 52))
    found = status(home)
    assert (found["checkpoint"], found["lag_entries"], found["lag_seconds"]) == (71, 0, 0.0)
    assert (found["delivered"], found["parked"], found["state"]) == (51, 0, "stopped")
    deliver(home, script)
    assert len(script.sent) == 51


def test_a_daemon_delivers_what_comes(home: Path) -> None:
    append(home, a_signal(1))
    script = Script()

    async def story(_: Projector) -> None:
        for number in range(2, 12):
            append(home, a_signal(number))
            await wait_async(home, number, DELIVERED, PATIENCE_S)
            assert number in script.sent
        assert status(home)["state"] == "delivering"

    while_delivering(home, script, story)
    assert status(home)["state"] == "stopped"


def test_lag_counts_what_is_not_done_also_above_the_checkpoint(home: Path) -> None:
    """Signal 5 does not pass: what is behind it, facts too, is no lag."""
    append(home, *signals(20), *(closed(n) for n in range(1, 11)))
    script = Script(says=lambda seq: GONE if seq == 5 else Accepted())
    slow = Timing(probe_s_min=0.01, probe_s_max=0.01, tick_s=0.01)

    async def story(_: Projector) -> None:
        await happens(lambda: status(home)["lag_entries"] == 1)
        found = status(home)
        assert (found["checkpoint"], found["delivered"]) == (4, 19)
        assert found["lag_seconds"] > 0
        with pytest.raises(WaitTimeout):
            await wait_async(home, 5, DELIVERED, 0.01)
        await wait_async(home, 6, DELIVERED, PATIENCE_S)
        await wait_async(home, 25, DELIVERED, PATIENCE_S)  # a fact
        script.says = lambda _: Accepted()
        await happens(lambda: is_caught_up(home))

    while_delivering(home, script, story, timing=slow)
    assert status(home)["delivered"] == 20


def test_after_a_kill_what_was_not_stored_is_sent_again_and_nothing_else(home: Path) -> None:
    append(home, *signals(30))
    script = Script(says=lambda seq: GONE if seq == 7 else Accepted())

    async def killed() -> None:
        projector = Projector(home, projection_of(script))
        task = asyncio.create_task(projector.run())
        await happens(lambda: status(home)["lag_entries"] == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(killed())
    again = Script()
    deliver(home, again)
    assert again.sent == [7]
    assert status(home)["delivered"] == 30


def test_what_was_answered_before_it_was_asked_to_stop_is_stored(home: Path) -> None:
    append(home, *signals(10))
    script, again = Script(), Script()

    async def story(projector: Projector) -> None:
        # At once after the last answer: before it would be stored by itself.
        while len(script.sent) < 10:  # noqa: ASYNC110  # what is looked at tells nobody
            await asyncio.sleep(0)
        projector.stop()

    while_delivering(home, script, story)
    deliver(home, again)
    assert again.sent == []


def test_a_long_backlog_is_taken_over_in_bounded_portions(home: Path) -> None:
    append(home, *signals(4_000))
    script = Script(says=lambda _: GONE)

    async def story(projector: Projector) -> None:
        await happens(lambda: projector.stalled is not None)
        assert "Alpine takes nothing: waiting, no answer" in str(projector.stalled)
        assert projector.checkpoint is not None
        assert projector.checkpoint.seq < 3_000
        script.says = lambda _: Accepted()
        await happens(lambda: is_caught_up(home))

    while_delivering(home, script, story)
    assert set(script.sent) == set(range(1, 4_001))


def test_once_in_an_outage_ends_with_what_is_wrong(home: Path) -> None:
    append(home, *signals(10))
    with pytest.raises(ProjectionStalled, match="10 signals are not delivered: waiting, no answer"):
        deliver(home, Script(says=lambda _: GONE))
    append(home, *signals(3_000, start=11))
    with pytest.raises(ProjectionStalled, match="Alpine takes nothing: refused, 401"):
        deliver(home, Script(says=lambda _: WRONG_KEY))
    assert status(home)["last_error"] == WRONG_KEY.detail
    assert status(home)["lag_entries"] == 3_010


# Parked


def test_what_is_parked_counts_as_done_and_is_kept_with_its_reason(home: Path) -> None:
    append(home, *signals(10))
    says: dict[int, Answer] = {3: BAD, 5: FAILS}
    once = Timing(patience=AT_ONCE.patience, probe_s_min=0.01)
    deliver(home, Script(says=lambda seq: says.get(seq, Accepted())), timing=once)
    found = status(home)
    assert (found["lag_entries"], found["delivered"]) == (0, 8)
    assert (found["parked"], found["failing"]) == (2, 1)
    refused, failing = read_parked(outbox_path(home))
    assert (refused.seq, refused.signal_id, refused.kind) == (3, "s-3", REFUSED)
    assert (refused.status, refused.body, refused.attempts) == (400, BAD.body, 1)
    assert (failing.kind, failing.status) == (FAILING, 500)
    assert failing.attempts >= 4
    assert refused.next_at is None
    assert failing.next_at == pytest.approx(failing.last_at + 60.0)
    assert failing.first_at <= failing.last_at <= time.time()
    for seq, reason in ((3, "is parked as refused"), (5, "is parked as failing")):
        with pytest.raises(IsParked, match=reason):
            asyncio.run(wait_async(home, seq, DELIVERED))


def test_a_failing_signal_is_tried_again_by_itself_until_it_passes(home: Path) -> None:
    append(home, *signals(10))
    script = Script(says=lambda seq: FAILS if seq == 5 else Accepted())

    async def story(_: Projector) -> None:
        await happens(lambda: Counter(script.sent)[5] > 8)
        [row] = read_parked(outbox_path(home))
        assert row.next_at is not None
        assert row.next_at - row.last_at == pytest.approx(AT_ONCE.failing_s_max, abs=1e-3)
        script.says = lambda _: Accepted()
        await happens(lambda: not parked_kinds(home))

    while_delivering(home, script, story)
    found = status(home)
    assert (found["delivered"], found["parked"], found["failing"]) == (10, 0, 0)


def test_a_refused_signal_is_retried_only_by_hand(home: Path) -> None:
    append(home, *signals(10))
    script = Script(says=lambda seq: BAD if seq in (4, 5, 6) else Accepted())
    deliver(home, script)
    deliver(home, script)
    assert Counter(script.sent)[5] == 1
    script.says = lambda seq: BAD if seq == 6 else Accepted()
    done = order(home, script, RETRY, 4, 6, 7, 99)
    assert done == Done(asked=4, stored=1, parked=1, gone=2)
    assert parked_kinds(home) == {5: REFUSED, 6: REFUSED}
    assert status(home)["delivered"] == 8
    [_, row] = read_parked(outbox_path(home))
    assert row.attempts == 2


def test_what_is_discarded_is_not_tried_again_and_says_so(home: Path) -> None:
    append(home, *signals(3))
    script = Script(says=lambda seq: FAILS if seq == 2 else Accepted())
    deliver(home, script, timing=Timing(patience=AT_ONCE.patience, probe_s_min=0.01))
    assert order(home, script, DISCARD, 2, 3) == Done(asked=2, discarded=1, gone=1)
    assert parked_kinds(home) == {}
    assert status(home)["parked"] == 0
    deliver(home, Script())
    with pytest.raises(IsParked, match=r"was parked and is discarded.*reconcile --replay"):
        asyncio.run(wait_async(home, 2, DELIVERED))
    assert order(home, script, RETRY, 2) == Done(asked=1, gone=1)
    assert order(home, Script(), REPLAY, 2) == Done(asked=1, stored=1)
    asyncio.run(wait_async(home, 2, DELIVERED))


def test_a_running_daemon_does_what_a_command_asks_for(home: Path) -> None:
    append(home, *signals(10))
    script = Script(says=lambda seq: BAD if seq in (4, 5) else Accepted())
    nobody = Script()

    async def story(_: Projector) -> None:
        await happens(lambda: is_caught_up(home))

        async def ask(what: str, *seqs: int) -> Done:
            return await carry_out(
                home, CONFIG, what, seqs, make_projection=lambda _: projection_of(nobody)
            )

        assert await ask(DISCARD, 4) == Done(asked=1, discarded=1)
        script.says = lambda seq: Duplicate() if seq == 1 else Accepted()
        assert await ask(RETRY, 5, 4) == Done(asked=2, stored=1, gone=1)
        assert await ask(REPLAY, 1, 2, 77) == Done(asked=3, stored=1, duplicate=1, gone=1)

    while_delivering(home, script, story)
    assert nobody.sent == []
    assert Counter(script.sent)[2] == 2
    assert status(home)["delivered"] == 9  # of ten signals: one is discarded, none counts twice


def test_an_order_outlives_the_sender_and_is_done_by_the_next(home: Path) -> None:
    append(home, *signals(5))
    deliver(home, Script())
    script = Script(says=lambda _: GONE)
    done = order(home, script, REPLAY, 1, 2, 3)
    assert done == Done(asked=3, left=3)
    again = Script()
    deliver(home, again)
    assert set(again.sent) == {1, 2, 3}


def test_orders_that_were_begun_a_moment_ago_are_waited_for(home: Path) -> None:
    """While the signals of one look are read from the log, the look of who wants the end finds no
    more: what was asked for is then neither waiting nor on its way."""
    append(home, *signals(5))
    deliver(home, Script())
    for _ in range(5):
        order(home, Script(says=lambda _: GONE), REPLAY, 1, 2, 3)
        again = Script()
        deliver(home, again, timing=replace(AT_ONCE, tick_s=0.0))
        assert set(again.sent) == {1, 2, 3}


def test_a_replay_of_what_is_still_on_its_way_sends_it_once(home: Path) -> None:
    append(home, *signals(5))
    script = Script(says=lambda _: GONE)

    async def story(_: Projector) -> None:
        await happens(lambda: len(set(script.sent)) == 5)
        with closing(Outbox(outbox_path(home))) as outbox:
            outbox.ask("me", REPLAY, [1, 2])
            await asyncio.sleep(0.02)
            del script.sent[:]
            script.says = lambda _: Accepted()
            await happens(lambda: outbox.outcomes("me") == {"stored": 2})

    while_delivering(home, script, story)
    sent = Counter(script.sent)  # nothing, where the requests that passed had begun before
    assert max(sent.values(), default=0) <= 2  # a probe may have begun before


def test_those_to_blame_that_were_overtaken_before_a_restart_are_parked(home: Path) -> None:
    """H6: a kill in the middle of their retries leaves a few poisoned ones, and nothing else."""
    append(home, *signals(10))
    with pytest.raises(ProjectionStalled):
        deliver(home, Script(says=lambda seq: GONE if seq in (2, 3, 10) else Accepted()))
    poisoned = Script(says=lambda seq: FAILS if seq in (2, 3, 10) else Accepted())
    deliver(home, poisoned, timing=replace(AT_ONCE, once_s=60.0))
    assert parked_kinds(home) == dict.fromkeys((2, 3, 10), FAILING)


def test_facts_that_are_done_and_what_is_parked_overtake_no_signal(home: Path) -> None:
    append(home, *signals(6), closed(1), closed(2))
    with pytest.raises(ProjectionStalled):
        deliver(home, Script(says=lambda seq: BAD if seq == 6 else GONE))
    with pytest.raises(ProjectionStalled):
        deliver(home, Script(says=lambda _: FAILS))
    assert FAILING not in parked_kinds(home).values()


def test_an_order_that_was_read_while_the_file_was_locked_is_done_all_the_same(home: Path) -> None:
    append(home, *signals(10))
    script = Script(says=lambda seq: BAD if seq in (4, 5) else Accepted())

    async def story(_: Projector) -> None:
        await happens(lambda: is_caught_up(home))
        script.says = lambda _: Accepted()
        with closing(Outbox(outbox_path(home))) as outbox:
            # One transaction, which lasts for longer than the sender waits to note the discard.
            outbox._db.execute("BEGIN IMMEDIATE")
            statement = "INSERT INTO asked(who, what, seq) VALUES ('me', ?, ?)"
            outbox._db.executemany(statement, [(RETRY, 5), (DISCARD, 4)])
            outbox._db.execute("COMMIT")
            outbox._db.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.1)
            outbox._db.execute("COMMIT")
            await happens(lambda: outbox.outcomes("me") == {"stored": 1, "discarded": 1})

    while_delivering(home, script, story)


def test_a_replay_of_what_alpine_refuses_does_not_stop_the_others(home: Path) -> None:
    """Twenty and more that are parked are refused again: that says nothing about new ones."""
    append(home, *signals(60))
    script = Script(says=lambda seq: BAD if seq % 2 else Accepted())
    deliver(home, script)
    assert len(parked_kinds(home)) == 30
    assert order(home, script, DISCARD, 1, 3) == Done(asked=2, discarded=2)

    async def story(_: Projector) -> None:
        done = await carry_out(home, CONFIG, REPLAY, range(1, 61))
        assert done == Done(asked=60, stored=30, parked=30)
        assert status(home)["state"] == "delivering"

    while_delivering(home, script, story, timing=replace(AT_ONCE, slow_probe_s=1e6))
    assert len(parked_kinds(home)) == 28  # what was given up stays so


def test_a_thousand_orders_and_more_are_done(home: Path) -> None:
    append(home, *signals(2_500))
    deliver(home, Script())
    script = Script(says=lambda _: Duplicate())
    assert order(home, script, REPLAY, *range(1, 2_501)) == Done(asked=2_500, duplicate=2_500)
    assert sorted(script.sent) == list(range(1, 2_501))


def test_everything_rejected_parks_twenty_also_over_restarts_and_heals_by_hand(home: Path) -> None:
    """H6b."""
    append(home, *signals(60))
    script = Script(says=lambda _: BAD)
    slow = Timing(slow_probe_s=1e6, key_poll_s=0.001, tick_s=0.001)
    for _ in range(3):
        with pytest.raises(ProjectionStalled, match="rejecting, 20 rejections in a row: 400"):
            deliver(home, script, timing=slow)
        assert len(parked_kinds(home)) == 20
        assert status(home)["lag_entries"] == 40

    async def story(projector: Projector) -> None:
        await happens(lambda: status(home)["state"] == State.REJECTING)
        script.says = lambda _: Accepted()
        seqs = list(parked_kinds(home))
        assert await carry_out(home, CONFIG, RETRY, seqs) == Done(asked=20, stored=20)
        await happens(lambda: is_caught_up(home))

    while_delivering(home, script, story, timing=slow)
    found = status(home)
    assert (found["delivered"], found["parked"], found["lag_entries"]) == (60, 0, 0)


def test_what_is_no_whole_signal_is_parked_and_stops_nothing(home: Path) -> None:
    """The door lets none through; a log may have been written by something else."""
    append(home, *signals(3))
    script = Script()

    async def run() -> None:
        projection = projection_of(script)
        before = await projection.open(home)
        with EventLog(home) as log:
            entries = list(log.read())
        del entries[1].payload["symbol"]
        after = Checkpoint(projection="alpine", seq=3, chain=entries[-1].chain)
        await projection.apply(entries, before=before, after=after)
        await projection.drain()
        await projection.close()

    asyncio.run(run())
    [row] = read_parked(outbox_path(home))
    assert (row.seq, row.kind, row.status) == (2, REFUSED, None)
    assert "'symbol' is missing" in row.body
    assert sorted(script.sent) == [1, 3]


# The file


@pytest.mark.parametrize(
    "harm",
    [
        *("deleted", "truncated", "flipped", "emptied", "no database"),
        *("foreign", "foreign of our version", "other columns", "no checkpoint"),
    ],
)
def test_a_file_that_was_lost_while_down_costs_requests_and_nothing_else(
    home: Path, harm: str
) -> None:
    append(home, *signals(500))
    deliver(home, Script(says=lambda seq: BAD if seq == 7 else Accepted()))
    path = outbox_path(home)
    harm_file(path, harm)
    found = status(home)
    assert found["lag_entries"] in (0, 500) or "cannot be read" in found["problem"]
    script = Script(says=lambda seq: BAD if seq == 7 else Duplicate())
    deliver(home, script)
    assert set(script.sent) in (set(range(1, 501)), set())  # a flip may hit what nobody reads
    assert parked_kinds(home) == {7: REFUSED}
    assert status(home)["lag_entries"] == 0


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def test_a_database_of_somebody_else_is_kept_aside_with_its_tables(home: Path) -> None:
    append(home, *signals(3))
    change(outbox_path(home), "CREATE TABLE parked(a)", "INSERT INTO parked VALUES (7)")
    script = Script()
    deliver(home, script)
    assert sorted(script.sent) == [1, 2, 3]
    [kept] = (home / "data").glob("alpine.db.damaged-*")
    with closing(sqlite3.connect(kept)) as theirs:
        assert theirs.execute("SELECT a FROM parked").fetchall() == [(7,)]


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_regular_file_is_refused_and_nothing_is_made(home: Path, kind: str) -> None:
    """W13: a link may lead out of the home."""
    append(home, a_signal(1))
    path, elsewhere = outbox_path(home), home.parent / "elsewhere"
    if kind == "link":
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
    with pytest.raises(UnsafePath, match="no regular file stands"):
        deliver(home, Script())
    assert not elsewhere.exists()


def harm_file(path: Path, harm: str) -> None:
    data = bytearray(path.read_bytes())
    match harm:
        case "deleted":
            path.unlink()
        case "truncated":
            os.truncate(path, len(data) // 2)
        case "flipped":
            for at in range(100, len(data), 97):
                data[at] ^= 0xFF
            path.write_bytes(data)
        case "emptied":
            os.truncate(path, 0)
        case "no checkpoint":
            change(path, "DELETE FROM checkpoint")
        case "foreign" | "foreign of our version" | "other columns":
            path.unlink()
            table = "checkpoint" if harm == "other columns" else "theirs"
            version = 0 if harm == "foreign" else 1
            change(path, f"CREATE TABLE {table}(a)", f"PRAGMA user_version = {version}")
        case _:
            path.write_bytes(b"no database at all " * 1_000)


@pytest.mark.parametrize("harm", ["deleted", "replaced"])
def test_a_file_that_is_lost_under_a_running_daemon_costs_requests_and_nothing_else(
    home: Path, harm: str
) -> None:
    append(home, *signals(50))
    script = Script(says=lambda seq: BAD if seq == 7 else Accepted())

    async def story(_: Projector) -> None:
        await happens(lambda: is_caught_up(home))
        path = outbox_path(home)
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            file.rename(f"{file}.away") if harm == "replaced" else file.unlink()
        # It tells the truth at once: that it does not know.
        await happens(lambda: status(home)["state"] == "delivering")
        assert status(home)["lag_entries"] == 50
        await happens(lambda: is_caught_up(home))  # by itself, although nothing comes
        await happens(lambda: parked_kinds(home) == {7: REFUSED})
        append(home, a_signal(51))
        await happens(lambda: is_caught_up(home))

    while_delivering(home, script, story)
    assert Counter(script.sent)[1] == 2
    assert status(home)["lag_entries"] == 0


def test_while_the_file_cannot_be_written_delivery_goes_on_and_stores_it_later(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(30))
    script = Script()

    async def story(_: Projector) -> None:
        await happens(lambda: is_caught_up(home))
        with closing(sqlite3.connect(outbox_path(home), isolation_level=None)) as other:
            other.execute(
                "CREATE TRIGGER full BEFORE UPDATE ON checkpoint BEGIN "
                "SELECT RAISE(FAIL, 'database or disk is full'); END"
            )
            append(home, *signals(300, start=31))
            await happens(lambda: len(script.sent) == 330)
            await happens(lambda: "delivery_not_stored" in caplog.text)
            assert not is_caught_up(home)
            other.execute("DROP TRIGGER full")
        await happens(lambda: is_caught_up(home))

    while_delivering(home, script, story)
    assert caplog.text.count("delivery_not_stored") == 1
    assert "delivery_stored_again" in caplog.text
    assert max(Counter(script.sent).values()) == 1
    assert status(home)["delivered"] == 330


@pytest.mark.slow
def test_somebody_who_keeps_the_file_locked_stops_neither_delivery_nor_its_end(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(10))
    script = Script()
    with closing(sqlite3.connect(":memory:")) as nothing:
        other = nothing

        async def story(_: Projector) -> None:
            nonlocal other
            await happens(lambda: is_caught_up(home))
            other = sqlite3.connect(outbox_path(home), isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            append(home, *signals(90, start=11))
            await happens(lambda: len(script.sent) == 100)
            await happens(lambda: "delivery_not_stored" in caplog.text)

        while_delivering(home, script, story)
        other.close()
    again = Script()
    deliver(home, again)
    assert set(again.sent) == set(range(11, 101))  # they were not stored, and cost a request
    assert status(home)["delivered"] == 100


def test_a_newer_file_is_refused_and_left_alone(home: Path) -> None:
    append(home, a_signal(1))
    deliver(home, Script())
    with closing(sqlite3.connect(outbox_path(home))) as other:
        other.execute("PRAGMA user_version = 2")
    before = outbox_path(home).read_bytes()
    with pytest.raises(SchemaTooNew):
        deliver(home, Script())
    assert outbox_path(home).read_bytes() == before


def test_reading_from_outside_makes_and_changes_nothing(home: Path) -> None:
    append(home, *signals(5))
    found = status(home)
    assert (found["checkpoint"], found["lag_entries"], found["state"]) == (0, 5, "stopped")
    assert os.listdir(home / "data") == []
    deliver(home, Script(says=lambda seq: BAD if seq == 2 else Accepted()))
    before = bytes_of(home)
    status(home)
    read_parked(outbox_path(home))
    read_seq(outbox_path(home), 1)
    is_delivering(home)
    assert bytes_of(home) == before


def test_files_are_for_their_owner_and_for_a_group_that_may_read_data(home: Path) -> None:
    append(home, a_signal(1))
    os.umask(0)
    try:
        deliver(home, Script())
        assert outbox_path(home).stat().st_mode & 0o777 == 0o600
        assert lock_path(home).stat().st_mode & 0o777 == 0o600
        outbox_path(home).unlink()
        (home / "data").chmod(0o2750)
        deliver(home, Script())
        assert outbox_path(home).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(0o022)


# Who sends


def test_a_second_sender_stands_by_and_takes_over(home: Path) -> None:
    append(home, *signals(5))
    first, second = Script(), Script()

    async def run() -> None:
        one = Projector(home, projection_of(first))
        two = Projector(home, projection_of(second))
        task_one = asyncio.create_task(one.run())
        await happens(lambda: is_caught_up(home))
        task_two = asyncio.create_task(two.run())
        await happens(lambda: two.stalled is not None)
        assert "another process delivers" in str(two.stalled)
        append(home, a_signal(6))
        await happens(lambda: is_caught_up(home))
        assert second.sent == []
        one.stop()
        await task_one
        append(home, a_signal(7))
        await happens(lambda: is_caught_up(home))
        two.stop()
        await task_two

    asyncio.run(run())
    assert (first.sent, second.sent) == ([1, 2, 3, 4, 5, 6], [7])


def test_whoever_deletes_the_lock_file_lets_no_second_sender_in(home: Path) -> None:
    """W9: the one that runs goes on alone, and status sees it."""
    append(home, a_signal(1))
    old = SenderLock.take(home)
    assert old is not None
    assert SenderLock.take(home) is None
    lock_path(home).unlink()
    assert is_delivering(home)
    assert SenderLock.take(home) is None
    assert is_delivering(home)
    old.release()
    assert not is_delivering(home)
    new = SenderLock.take(home)
    assert new is not None
    assert SenderLock.take(home) is None
    new.release()
    assert not is_delivering(home)


def test_disabled_it_says_so_passes_all_by_and_lets_another_send(home: Path) -> None:
    append(home, *signals(5))
    script = Script()

    async def run() -> None:
        idle = Projector(home, AlpineProjection(DISABLED))
        task = asyncio.create_task(idle.run())
        await happens(lambda: status(home)["state"] == "disabled")
        found = status(home)
        assert (found["last_error"], found["lag_entries"]) == ("ALPINE_API_URL is not set", 5)
        await Projector(home, projection_of(script)).run(once=True)
        assert status(home)["state"] == "stopped"
        idle.stop()
        await task

    asyncio.run(run())
    assert len(script.sent) == 5
    asyncio.run(Projector(home, AlpineProjection(DISABLED)).run(once=True))
    assert status(home)["lag_entries"] == 0
    assert status(home)["state"] == "stopped"


def test_where_delivery_is_disabled_and_nobody_else_sends_an_order_is_refused(home: Path) -> None:
    append(home, a_signal(1))
    with pytest.raises(ProjectionError, match="nothing is delivered: ALPINE_API_URL is not set"):
        asyncio.run(carry_out(home, DISABLED, REPLAY, [1]))
    script = Script()
    deliver(home, script)
    assert script.sent == [1]  # and the order is withdrawn


# P2: a task that dies


class Broken(Script):
    """A client with a bug."""

    async def send(self, body: bytes) -> Answer:
        if number_of(body) == 3:
            raise RuntimeError("a bug")
        return await super().send(body)


def test_a_bug_in_delivery_ends_the_projector_and_says_which(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(2_000))
    with pytest.raises(RuntimeError, match="a bug"):
        deliver(home, Broken())
    assert "delivery_died error=a bug" in caplog.text
    assert SenderLock.take(home) is not None


def test_a_bug_while_nothing_comes_is_told_to_whoever_asked_for_that(home: Path) -> None:
    append(home, *signals(5))
    died: list[BaseException] = []

    async def run() -> None:
        projector = Projector(home, projection_of(Broken(), died=died.append))
        task = asyncio.create_task(projector.run())
        await happens(lambda: died)
        append(home, a_signal(6))
        with pytest.raises(RuntimeError, match="a bug"):
            await task

    asyncio.run(run())
    assert [str(error) for error in died] == ["a bug"]


# Units


@given(st.permutations(range(1, 30)), st.sets(st.integers(1, 29)))
def test_the_checkpoint_passes_only_what_is_done_without_a_gap(
    finished: list[int], before: set[int]
) -> None:
    ledger = Ledger(Checkpoint(projection="alpine"), before)
    for seq in range(1, 30):
        ledger.take(seq, f"chain {seq}")
    done = set(before)
    for seq in finished:
        assert ledger.finish(seq) == (seq not in done)
        done.add(seq)
        ledger.move_on()
        expected = next(n for n in range(30) if n + 1 not in done)
        assert ledger.checkpoint.seq == expected
        if expected:
            assert ledger.checkpoint.chain == f"chain {expected}"
        assert ledger.unsaved == {n for n in done if n > expected} - before
        assert ledger.span == 29 - expected
        assert all(ledger.is_done(n) == (n in done) for n in range(1, 30))
        assert all(ledger.is_under_way(n) == (n not in done) for n in range(1, 30))
    assert not ledger.is_under_way(31)


def test_a_gap_that_somebody_accepted_is_no_gap_for_the_checkpoint() -> None:
    ledger = Ledger(Checkpoint(projection="alpine"))
    for seq in (1, 2, 7, 8):
        ledger.take(seq, "")
        ledger.finish(seq)
    ledger.move_on()
    assert ledger.checkpoint.seq == 8


def test_the_interval_of_a_failing_signal_doubles_up_to_its_limit() -> None:
    timing = Timing()
    parcel = Parcel(seq=1, signal_id="s-1", body=b"", attempts=1)
    outcome = Park(kind=FAILING, status=500, body="500")
    row: Parked | None = None
    intervals = []
    now_s = 1_000.0
    for _ in range(12):
        row = parked_row(parcel, outcome, row, now_s=now_s, timing=timing)
        assert row.next_at is not None
        intervals.append(row.next_at - row.last_at)
        now_s = row.next_at
    assert intervals[:4] == [60.0, 120.0, 240.0, 480.0]
    assert intervals[-1] == timing.failing_s_max
    assert row is not None
    assert (row.attempts, row.first_at) == (12, 1_000.0)
    kept = parked_row(
        parcel, Kept(kind=FAILING, status=None, body="gone"), row, now_s=now_s, timing=timing
    )
    assert (kept.kind, kept.status, kept.body) == (FAILING, 500, "500")
    refused = parked_row(
        parcel, Park(kind=REFUSED, status=400, body="400"), row, now_s=now_s, timing=timing
    )
    assert (refused.kind, refused.next_at) == (REFUSED, None)


def test_what_is_saved_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "alpine.db"
    row = Parked(3, "s-3", FAILING, 500, "500", 4, 1.0, 2.0, 62.0)
    with closing(Outbox(path)) as outbox:
        changes = Unsaved(park={3: row}, delivered=2)
        outbox.save(Checkpoint(projection="alpine", seq=2, chain="c"), {3, 5}, changes, 1)
        assert outbox.checkpoint().seq == 2
        assert outbox.done_above() == {3, 5}
        assert outbox.parked(3) == row
        assert outbox.due(61.0, 10) == []
        assert outbox.due(62.0, 10) == [row]
        broken = Unsaved(park={4: row._replace(seq=4, body=None)})  # type: ignore[arg-type]
        with pytest.raises(sqlite3.IntegrityError):
            outbox.save(Checkpoint(projection="alpine", seq=9, chain="d"), {11}, broken, 0)
        assert outbox.checkpoint().seq == 2
        assert outbox.done_above() == {3, 5}
        assert outbox.discard(3)
        assert not outbox.discard(3)
    found = read_outbox(path)
    assert found is not None
    assert found[2]["delivered"] == 2
    assert read_seq(path, 3) == (True, row._replace(kind=DISCARDED, next_at=None))
    assert read_seq(path, 2) == (True, None)
    assert read_seq(path, 4) == (False, None)


def test_answers_that_nobody_came_for_are_forgotten_in_the_end(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / "alpine.db")) as outbox:
        outbox.ask("me", RETRY, [1, 2])
        outbox.ask("dead", RETRY, [3])
        first, second, third = outbox.asked()
        changes = Unsaved(answered={first.id: "stored", third.id: "gone"})
        outbox.save(Checkpoint(projection="alpine"), set(), changes, 0)
        assert outbox.outcomes("me") == {"stored": 1, None: 1}
        outbox.forget("me")
        assert outbox.outcomes("me") == {None: 1}
        assert outbox.outcomes("dead") == {"gone": 1}
        assert outbox.asked() == [second]
        outbox.withdraw("me")
        assert outbox.asked() == []
