"""The delivery worker with a real log and outbox, and an Alpine that follows a script.

Invariant: whatever happens to the process or the file, a signal that Alpine does not have is sent
again; the only cost is repeated requests.
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
from projections.alpine.contract import Duplicate, SendResult, Stored
from projections.alpine.credentials import FixedKey
from projections.alpine.retry import DeliveryTiming
from projections.delivery.ack_tracker import AckTracker
from projections.delivery.job import Job, KeepParked, Park, parked_row
from projections.delivery.lease import DeliveryLease, lock_path
from projections.delivery.outbox import (
    DISCARD,
    DISCARDED,
    FAILING,
    REFUSED,
    REPLAY,
    RETRY,
    Outbox,
    UnsavedChanges,
    is_delivering,
    outbox_path,
    read_outbox,
    read_parked,
    read_seq,
)
from projections.delivery.outbox_rows import ParkedSignal
from projections.delivery.projection import AlpineConfig, AlpineProjection
from projections.delivery.requests import RequestCounts, execute_request
from projections.delivery.state import DeliveryState
from projections.errors import ProjectionError, ProjectionStalled, SchemaTooNew
from projections.monitoring.status import alpine_status
from projections.queries.wait import DELIVERED, SignalParked, WaitTimeout, wait_async
from tests.harness.deadline import DEADLINE_S, until_async
from tests.harness.log_checks import tree_contents
from tests.harness.read_side import append
from tests.harness.scripted_alpine import (
    BAD_REQUEST,
    FAST_TIMING,
    SERVER_ERROR,
    UNREACHABLE,
    WRONG_KEY,
    ScriptedAlpine,
    number_of,
)
from tests.harness.signals import a_signal, closed, signals

CONFIG = AlpineConfig(url="http://127.0.0.1:9", key=FixedKey("key"))
DISABLED = AlpineConfig(url="", key=FixedKey(""), disabled="ALPINE_API_URL is not set")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def projection_of(
    script: ScriptedAlpine,
    *,
    timing: DeliveryTiming = FAST_TIMING,
    config: AlpineConfig = CONFIG,
) -> AlpineProjection:
    return AlpineProjection(config, timing=timing, make_client=lambda _: script)


def deliver(home: Path, script: ScriptedAlpine, *, timing: DeliveryTiming = FAST_TIMING) -> None:
    """Delivers as `eventlog project alpine --once` does."""
    projector = Projector(home, projection_of(script, timing=timing), pace=Pace(once_stall_s=0.1))
    asyncio.run(projector.run(once=True))


def while_delivering(
    home: Path,
    script: ScriptedAlpine,
    scenario: Callable[[Projector], Awaitable[object]],
    *,
    timing: DeliveryTiming = FAST_TIMING,
) -> None:
    """Runs a scenario beside a daemon in the same event loop."""

    async def run() -> None:
        projector = Projector(home, projection_of(script, timing=timing))
        task = asyncio.create_task(projector.run())
        try:
            await until_async(lambda: projector.checkpoint is not None or task.done())
            await scenario(projector)
        finally:
            projector.stop()
            await asyncio.wait_for(task, DEADLINE_S)

    asyncio.run(run())


def status(home: Path) -> Mapping[str, Any]:
    return alpine_status(home)


def is_caught_up(home: Path) -> bool:
    found = read_outbox(outbox_path(home))
    with EventLog(home) as log:
        return found is not None and found[0].seq == log.last_seq


def parked_kinds(home: Path) -> dict[int, str]:
    return {row.seq: row.kind for row in read_parked(outbox_path(home))}


def send_operator_request(
    home: Path, script: ScriptedAlpine, what: str, *seqs: int
) -> RequestCounts:
    """Executes an operator request as a command does."""

    async def run() -> RequestCounts:
        return await execute_request(
            home, CONFIG, what, seqs, make_projection=lambda _: projection_of(script)
        )

    return asyncio.run(run())


# Healthy server


def test_each_signal_is_delivered_once_and_the_checkpoint_follows(home: Path) -> None:
    append(home, *signals(50), *(closed(n) for n in range(1, 21)), a_signal(51))
    script = ScriptedAlpine()
    deliver(home, script)
    assert sorted(script.sent) == list(range(1, 52))
    found = status(home)
    assert (found["checkpoint"], found["lag_entries"], found["lag_seconds"]) == (71, 0, 0.0)
    assert (found["delivered"], found["parked"], found["state"]) == (51, 0, "stopped")
    deliver(home, script)
    assert len(script.sent) == 51


def test_a_daemon_delivers_new_signals(home: Path) -> None:
    append(home, a_signal(1))
    script = ScriptedAlpine()

    async def scenario(_: Projector) -> None:
        for number in range(2, 12):
            append(home, a_signal(number))
            await wait_async(home, number, DELIVERED, DEADLINE_S)
            assert number in script.sent
        assert status(home)["state"] == "delivering"

    while_delivering(home, script, scenario)
    assert status(home)["state"] == "stopped"


def test_lag_counts_unfinished_entries_above_the_checkpoint_too(home: Path) -> None:
    """Signal 5 does not pass: later entries, facts too, do not count as lag."""
    append(home, *signals(20), *(closed(n) for n in range(1, 11)))
    script = ScriptedAlpine(answer_to=lambda seq: UNREACHABLE if seq == 5 else Stored())
    slow = DeliveryTiming(probe_s_min=0.01, probe_s_max=0.01, tick_s=0.01)

    async def scenario(_: Projector) -> None:
        await until_async(lambda: status(home)["lag_entries"] == 1)
        found = status(home)
        assert (found["checkpoint"], found["delivered"]) == (4, 19)
        assert found["lag_seconds"] > 0
        with pytest.raises(WaitTimeout):
            await wait_async(home, 5, DELIVERED, 0.01)
        await wait_async(home, 6, DELIVERED, DEADLINE_S)
        await wait_async(home, 25, DELIVERED, DEADLINE_S)  # a fact
        script.answer_to = lambda _: Stored()
        await until_async(lambda: is_caught_up(home))

    while_delivering(home, script, scenario, timing=slow)
    assert status(home)["delivered"] == 20


def test_after_a_kill_only_unstored_deliveries_are_sent_again(home: Path) -> None:
    append(home, *signals(30))
    script = ScriptedAlpine(answer_to=lambda seq: UNREACHABLE if seq == 7 else Stored())

    async def killed() -> None:
        projector = Projector(home, projection_of(script))
        task = asyncio.create_task(projector.run())
        await until_async(lambda: status(home)["lag_entries"] == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(killed())
    again = ScriptedAlpine()
    deliver(home, again)
    assert again.sent == [7]
    assert status(home)["delivered"] == 30


def test_answers_received_before_the_stop_are_stored(home: Path) -> None:
    append(home, *signals(10))
    script, again = ScriptedAlpine(), ScriptedAlpine()

    async def scenario(projector: Projector) -> None:
        # At once after the last answer: before it would be stored by itself.
        while len(script.sent) < 10:  # noqa: ASYNC110  # the script has no event to wait for
            await asyncio.sleep(0)
        projector.stop()

    while_delivering(home, script, scenario)
    deliver(home, again)
    assert again.sent == []


def test_a_long_backlog_is_processed_in_bounded_batches(home: Path) -> None:
    append(home, *signals(4_000))
    script = ScriptedAlpine(answer_to=lambda _: UNREACHABLE)

    async def scenario(projector: Projector) -> None:
        await until_async(lambda: projector.stalled is not None)
        assert "Alpine takes nothing: waiting, no answer" in str(projector.stalled)
        assert projector.checkpoint is not None
        assert projector.checkpoint.seq < 3_000
        script.answer_to = lambda _: Stored()
        await until_async(lambda: is_caught_up(home))

    while_delivering(home, script, scenario)
    assert set(script.sent) == set(range(1, 4_001))


def test_a_once_run_during_an_outage_ends_with_the_error(home: Path) -> None:
    append(home, *signals(10))
    with pytest.raises(ProjectionStalled, match="10 signals are not delivered: waiting, no answer"):
        deliver(home, ScriptedAlpine(answer_to=lambda _: UNREACHABLE))
    append(home, *signals(3_000, start=11))
    with pytest.raises(ProjectionStalled, match="Alpine takes nothing: refused, 401"):
        deliver(home, ScriptedAlpine(answer_to=lambda _: WRONG_KEY))
    assert status(home)["last_error"] == WRONG_KEY.detail
    assert status(home)["lag_entries"] == 3_010


# Parked


def test_a_parked_signal_counts_as_done_and_keeps_its_reason(home: Path) -> None:
    append(home, *signals(10))
    answer_to: dict[int, SendResult] = {3: BAD_REQUEST, 5: SERVER_ERROR}
    once = DeliveryTiming(retry_policy=FAST_TIMING.retry_policy, probe_s_min=0.01)
    deliver(home, ScriptedAlpine(answer_to=lambda seq: answer_to.get(seq, Stored())), timing=once)
    found = status(home)
    assert (found["lag_entries"], found["delivered"]) == (0, 8)
    assert (found["parked"], found["failing"]) == (2, 1)
    refused, failing = read_parked(outbox_path(home))
    assert (refused.seq, refused.signal_id, refused.kind) == (3, "s-3", REFUSED)
    assert (refused.status, refused.body, refused.attempts) == (400, BAD_REQUEST.body, 1)
    assert (failing.kind, failing.status) == (FAILING, 500)
    assert failing.attempts >= 4
    assert refused.next_at is None
    assert failing.next_at == pytest.approx(failing.last_at + 60.0)
    assert failing.first_at <= failing.last_at <= time.time()
    for seq, reason in ((3, "is parked as refused"), (5, "is parked as failing")):
        with pytest.raises(SignalParked, match=reason):
            asyncio.run(wait_async(home, seq, DELIVERED))


def test_a_failing_signal_is_tried_again_by_itself_until_it_passes(home: Path) -> None:
    append(home, *signals(10))
    script = ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq == 5 else Stored())

    async def scenario(_: Projector) -> None:
        await until_async(lambda: Counter(script.sent)[5] > 8)
        [row] = read_parked(outbox_path(home))
        assert row.next_at is not None
        assert row.next_at - row.last_at == pytest.approx(FAST_TIMING.failing_s_max, abs=1e-3)
        script.answer_to = lambda _: Stored()
        await until_async(lambda: not parked_kinds(home))

    while_delivering(home, script, scenario)
    found = status(home)
    assert (found["delivered"], found["parked"], found["failing"]) == (10, 0, 0)


def test_a_refused_signal_is_retried_only_by_hand(home: Path) -> None:
    append(home, *signals(10))
    script = ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq in (4, 5, 6) else Stored())
    deliver(home, script)
    deliver(home, script)
    assert Counter(script.sent)[5] == 1
    script.answer_to = lambda seq: BAD_REQUEST if seq == 6 else Stored()
    done = send_operator_request(home, script, RETRY, 4, 6, 7, 99)
    assert done == RequestCounts(asked=4, stored=1, parked=1, gone=2)
    assert parked_kinds(home) == {5: REFUSED, 6: REFUSED}
    assert status(home)["delivered"] == 8
    [_, row] = read_parked(outbox_path(home))
    assert row.attempts == 2


def test_a_discarded_signal_is_not_retried_and_is_reported_as_discarded(home: Path) -> None:
    append(home, *signals(3))
    script = ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq == 2 else Stored())
    deliver(
        home, script, timing=DeliveryTiming(retry_policy=FAST_TIMING.retry_policy, probe_s_min=0.01)
    )
    assert send_operator_request(home, script, DISCARD, 2, 3) == RequestCounts(
        asked=2, discarded=1, gone=1
    )
    assert parked_kinds(home) == {}
    assert status(home)["parked"] == 0
    deliver(home, ScriptedAlpine())
    with pytest.raises(SignalParked, match=r"was parked and is discarded.*reconcile --replay"):
        asyncio.run(wait_async(home, 2, DELIVERED))
    assert send_operator_request(home, script, RETRY, 2) == RequestCounts(asked=1, gone=1)
    assert send_operator_request(home, ScriptedAlpine(), REPLAY, 2) == RequestCounts(
        asked=1, stored=1
    )
    asyncio.run(wait_async(home, 2, DELIVERED))


def test_a_running_daemon_executes_operator_requests(home: Path) -> None:
    append(home, *signals(10))
    script = ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq in (4, 5) else Stored())
    unused = ScriptedAlpine()

    async def scenario(_: Projector) -> None:
        await until_async(lambda: is_caught_up(home))

        async def request(what: str, *seqs: int) -> RequestCounts:
            return await execute_request(
                home, CONFIG, what, seqs, make_projection=lambda _: projection_of(unused)
            )

        assert await request(DISCARD, 4) == RequestCounts(asked=1, discarded=1)
        script.answer_to = lambda seq: Duplicate() if seq == 1 else Stored()
        assert await request(RETRY, 5, 4) == RequestCounts(asked=2, stored=1, gone=1)
        assert await request(REPLAY, 1, 2, 77) == RequestCounts(
            asked=3, stored=1, duplicate=1, gone=1
        )

    while_delivering(home, script, scenario)
    assert unused.sent == []
    assert Counter(script.sent)[2] == 2
    assert status(home)["delivered"] == 9  # of ten signals: one is discarded, none counts twice


def test_an_operator_request_survives_the_worker_and_is_executed_by_the_next(home: Path) -> None:
    append(home, *signals(5))
    deliver(home, ScriptedAlpine())
    script = ScriptedAlpine(answer_to=lambda _: UNREACHABLE)
    done = send_operator_request(home, script, REPLAY, 1, 2, 3)
    assert done == RequestCounts(asked=3, left=3)
    again = ScriptedAlpine()
    deliver(home, again)
    assert set(again.sent) == {1, 2, 3}


def test_operator_requests_in_progress_are_awaited(home: Path) -> None:
    """While a tick reads signals from the log, `drain` finds no request in the outbox and no job in
    the dispatcher: it must wait for that tick."""
    append(home, *signals(5))
    deliver(home, ScriptedAlpine())
    for _ in range(5):
        send_operator_request(
            home, ScriptedAlpine(answer_to=lambda _: UNREACHABLE), REPLAY, 1, 2, 3
        )
        again = ScriptedAlpine()
        deliver(home, again, timing=replace(FAST_TIMING, tick_s=0.0))
        assert set(again.sent) == {1, 2, 3}


def test_a_replay_of_what_is_still_on_its_way_sends_it_once(home: Path) -> None:
    append(home, *signals(5))
    script = ScriptedAlpine(answer_to=lambda _: UNREACHABLE)

    async def scenario(_: Projector) -> None:
        await until_async(lambda: len(set(script.sent)) == 5)
        with closing(Outbox(outbox_path(home))) as outbox:
            outbox.request("me", REPLAY, [1, 2])
            await asyncio.sleep(0.02)
            del script.sent[:]
            script.answer_to = lambda _: Stored()
            await until_async(lambda: outbox.outcomes("me") == {"stored": 2})

    while_delivering(home, script, scenario)
    sent = Counter(script.sent)  # nothing, where the requests that passed had begun before
    assert max(sent.values(), default=0) <= 2  # a probe may have begun before


def test_poison_messages_that_were_overtaken_before_a_restart_are_parked(home: Path) -> None:
    """H6: a kill amid their retries leaves only poison messages undelivered."""
    append(home, *signals(10))
    with pytest.raises(ProjectionStalled):
        deliver(
            home,
            ScriptedAlpine(answer_to=lambda seq: UNREACHABLE if seq in (2, 3, 10) else Stored()),
        )
    poisoned = ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq in (2, 3, 10) else Stored())
    deliver(home, poisoned, timing=replace(FAST_TIMING, once_s=60.0))
    assert parked_kinds(home) == dict.fromkeys((2, 3, 10), FAILING)


def test_completed_facts_and_parked_signals_overtake_no_signal(home: Path) -> None:
    append(home, *signals(6), closed(1), closed(2))
    with pytest.raises(ProjectionStalled):
        deliver(
            home, ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq == 6 else UNREACHABLE)
        )
    with pytest.raises(ProjectionStalled):
        deliver(home, ScriptedAlpine(answer_to=lambda _: SERVER_ERROR))
    assert FAILING not in parked_kinds(home).values()


def test_an_operator_request_read_while_the_file_was_locked_is_executed(home: Path) -> None:
    append(home, *signals(10))
    script = ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq in (4, 5) else Stored())

    async def scenario(_: Projector) -> None:
        await until_async(lambda: is_caught_up(home))
        script.answer_to = lambda _: Stored()
        with closing(Outbox(outbox_path(home))) as outbox:
            # One transaction, which lasts for longer than the sender waits to note the discard.
            outbox._db.execute("BEGIN IMMEDIATE")
            statement = "INSERT INTO asked(who, what, seq) VALUES ('me', ?, ?)"
            outbox._db.executemany(statement, [(RETRY, 5), (DISCARD, 4)])
            outbox._db.execute("COMMIT")
            outbox._db.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(0.1)
            outbox._db.execute("COMMIT")
            await until_async(lambda: outbox.outcomes("me") == {"stored": 1, "discarded": 1})

    while_delivering(home, script, scenario)


def test_a_replay_of_what_alpine_refuses_does_not_stop_the_others(home: Path) -> None:
    """Rejections of more than twenty parked signals must not stop new ones."""
    append(home, *signals(60))
    script = ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq % 2 else Stored())
    deliver(home, script)
    assert len(parked_kinds(home)) == 30
    assert send_operator_request(home, script, DISCARD, 1, 3) == RequestCounts(asked=2, discarded=2)

    async def scenario(_: Projector) -> None:
        done = await execute_request(home, CONFIG, REPLAY, range(1, 61))
        assert done == RequestCounts(asked=60, stored=30, parked=30)
        assert status(home)["state"] == "delivering"

    while_delivering(home, script, scenario, timing=replace(FAST_TIMING, slow_probe_s=1e6))
    assert len(parked_kinds(home)) == 28  # what was given up stays so


def test_more_than_a_thousand_operator_requests_are_executed(home: Path) -> None:
    append(home, *signals(2_500))
    deliver(home, ScriptedAlpine())
    script = ScriptedAlpine(answer_to=lambda _: Duplicate())
    assert send_operator_request(home, script, REPLAY, *range(1, 2_501)) == RequestCounts(
        asked=2_500, duplicate=2_500
    )
    assert sorted(script.sent) == list(range(1, 2_501))


def test_everything_rejected_parks_twenty_also_over_restarts_and_heals_by_hand(home: Path) -> None:
    """H6b."""
    append(home, *signals(60))
    script = ScriptedAlpine(answer_to=lambda _: BAD_REQUEST)
    slow = DeliveryTiming(slow_probe_s=1e6, key_poll_s=0.001, tick_s=0.001)
    for _ in range(3):
        with pytest.raises(ProjectionStalled, match="rejecting, 20 rejections in a row: 400"):
            deliver(home, script, timing=slow)
        assert len(parked_kinds(home)) == 20
        assert status(home)["lag_entries"] == 40

    async def scenario(projector: Projector) -> None:
        await until_async(lambda: status(home)["state"] == DeliveryState.REJECTING)
        script.answer_to = lambda _: Stored()
        seqs = list(parked_kinds(home))
        assert await execute_request(home, CONFIG, RETRY, seqs) == RequestCounts(
            asked=20, stored=20
        )
        await until_async(lambda: is_caught_up(home))

    while_delivering(home, script, scenario, timing=slow)
    found = status(home)
    assert (found["delivered"], found["parked"], found["lag_entries"]) == (60, 0, 0)


def test_an_incomplete_signal_is_parked_and_stops_nothing(home: Path) -> None:
    """Validation refuses such a signal; another program may have written the line."""
    append(home, *signals(3))
    script = ScriptedAlpine()

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
    deliver(home, ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq == 7 else Stored()))
    path = outbox_path(home)
    damage_file(path, harm)
    found = status(home)
    assert found["lag_entries"] in (0, 500) or "cannot be read" in found["problem"]
    script = ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq == 7 else Duplicate())
    deliver(home, script)
    assert set(script.sent) in (set(range(1, 501)), set())  # a flip may hit an unused byte
    assert parked_kinds(home) == {7: REFUSED}
    assert status(home)["lag_entries"] == 0


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def test_an_unknown_database_is_set_aside_with_its_tables(home: Path) -> None:
    append(home, *signals(3))
    change(outbox_path(home), "CREATE TABLE parked(a)", "INSERT INTO parked VALUES (7)")
    script = ScriptedAlpine()
    deliver(home, script)
    assert sorted(script.sent) == [1, 2, 3]
    [kept] = (home / "data").glob("alpine.db.damaged-*")
    with closing(sqlite3.connect(kept)) as theirs:
        assert theirs.execute("SELECT a FROM parked").fetchall() == [(7,)]


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_a_path_that_is_not_a_regular_file_is_refused_and_nothing_is_created(
    home: Path, kind: str
) -> None:
    """W13: a symbolic link may lead out of the home."""
    append(home, a_signal(1))
    path, elsewhere = outbox_path(home), home.parent / "elsewhere"
    if kind == "link":
        path.symlink_to(elsewhere)
    else:
        path.mkdir()
    with pytest.raises(UnsafePath, match="is not a regular file"):
        deliver(home, ScriptedAlpine())
    assert not elsewhere.exists()


def damage_file(path: Path, harm: str) -> None:
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
    script = ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq == 7 else Stored())

    async def scenario(_: Projector) -> None:
        await until_async(lambda: is_caught_up(home))
        path = outbox_path(home)
        for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            file.rename(f"{file}.away") if harm == "replaced" else file.unlink()
        # It reports at once that it does not know.
        await until_async(lambda: status(home)["state"] == "delivering")
        assert status(home)["lag_entries"] == 50
        await until_async(lambda: is_caught_up(home))  # by itself, although nothing comes
        await until_async(lambda: parked_kinds(home) == {7: REFUSED})
        append(home, a_signal(51))
        await until_async(lambda: is_caught_up(home))

    while_delivering(home, script, scenario)
    assert Counter(script.sent)[1] == 2
    assert status(home)["lag_entries"] == 0


@pytest.mark.slow
def test_while_the_file_cannot_be_written_delivery_goes_on_and_stores_it_later(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(30))
    script = ScriptedAlpine()

    async def scenario(_: Projector) -> None:
        await until_async(lambda: is_caught_up(home))
        with closing(sqlite3.connect(outbox_path(home), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # each write of ours fails after a while
            append(home, *signals(300, start=31))
            await until_async(lambda: len(script.sent) == 330)
            await until_async(lambda: "delivery_not_stored" in caplog.text)
            assert not is_caught_up(home)
            other.execute("ROLLBACK")
        await until_async(lambda: is_caught_up(home))

    while_delivering(home, script, scenario)
    assert caplog.text.count("delivery_not_stored") == 1
    assert "delivery_stored_again" in caplog.text
    assert max(Counter(script.sent).values()) == 1
    assert status(home)["delivered"] == 330


@pytest.mark.slow
def test_a_locked_outbox_stops_neither_delivery_nor_shutdown(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    append(home, *signals(10))
    script = ScriptedAlpine()
    with closing(sqlite3.connect(":memory:")) as nothing:
        other = nothing

        async def scenario(_: Projector) -> None:
            nonlocal other
            await until_async(lambda: is_caught_up(home))
            other = sqlite3.connect(outbox_path(home), isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            append(home, *signals(90, start=11))
            await until_async(lambda: len(script.sent) == 100)
            await until_async(lambda: "delivery_not_stored" in caplog.text)

        while_delivering(home, script, scenario)
        other.close()
    again = ScriptedAlpine()
    deliver(home, again)
    assert set(again.sent) == set(range(11, 101))  # they were not stored, and cost a request
    assert status(home)["delivered"] == 100


def test_a_newer_file_is_refused_and_left_alone(home: Path) -> None:
    append(home, a_signal(1))
    deliver(home, ScriptedAlpine())
    with closing(sqlite3.connect(outbox_path(home))) as other:
        other.execute("PRAGMA user_version = 2")
    before = outbox_path(home).read_bytes()
    with pytest.raises(SchemaTooNew):
        deliver(home, ScriptedAlpine())
    assert outbox_path(home).read_bytes() == before


def test_reading_from_outside_makes_and_changes_nothing(home: Path) -> None:
    append(home, *signals(5))
    found = status(home)
    assert (found["checkpoint"], found["lag_entries"], found["state"]) == (0, 5, "stopped")
    assert os.listdir(home / "data") == []
    deliver(home, ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq == 2 else Stored()))
    before = tree_contents(home)
    status(home)
    read_parked(outbox_path(home))
    read_seq(outbox_path(home), 1)
    is_delivering(home)
    assert tree_contents(home) == before


def test_files_are_for_their_owner_and_for_a_group_that_may_read_data(home: Path) -> None:
    append(home, a_signal(1))
    os.umask(0)
    try:
        deliver(home, ScriptedAlpine())
        assert outbox_path(home).stat().st_mode & 0o777 == 0o600
        assert lock_path(home).stat().st_mode & 0o777 == 0o600
        outbox_path(home).unlink()
        (home / "data").chmod(0o2750)
        deliver(home, ScriptedAlpine())
        assert outbox_path(home).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(0o022)


# The lease


def test_a_second_worker_waits_for_the_lease_and_takes_over(home: Path) -> None:
    append(home, *signals(5))
    first, second = ScriptedAlpine(), ScriptedAlpine()

    async def run() -> None:
        one = Projector(home, projection_of(first))
        two = Projector(home, projection_of(second))
        task_one = asyncio.create_task(one.run())
        await until_async(lambda: is_caught_up(home))
        task_two = asyncio.create_task(two.run())
        await until_async(lambda: two.stalled is not None)
        assert "another process delivers" in str(two.stalled)
        append(home, a_signal(6))
        await until_async(lambda: is_caught_up(home))
        assert second.sent == []
        one.stop()
        await task_one
        append(home, a_signal(7))
        await until_async(lambda: is_caught_up(home))
        two.stop()
        await task_two

    asyncio.run(run())
    assert (first.sent, second.sent) == ([1, 2, 3, 4, 5, 6], [7])


def test_deleting_the_lock_file_does_not_allow_a_second_worker(home: Path) -> None:
    """W9: the running worker goes on alone, and status reports it."""
    append(home, a_signal(1))
    old = DeliveryLease.take(home)
    assert old is not None
    assert DeliveryLease.take(home) is None
    lock_path(home).unlink()
    assert is_delivering(home)
    assert DeliveryLease.take(home) is None
    assert is_delivering(home)
    old.release()
    assert not is_delivering(home)
    new = DeliveryLease.take(home)
    assert new is not None
    assert DeliveryLease.take(home) is None
    new.release()
    assert not is_delivering(home)


def test_disabled_delivery_is_reported_and_leaves_the_lease_to_another_worker(home: Path) -> None:
    append(home, *signals(5))
    script = ScriptedAlpine()

    async def run() -> None:
        idle = Projector(home, AlpineProjection(DISABLED))
        task = asyncio.create_task(idle.run())
        await until_async(lambda: status(home)["state"] == "disabled")
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


def test_an_operator_request_is_refused_if_no_worker_delivers(home: Path) -> None:
    append(home, a_signal(1))
    with pytest.raises(ProjectionError, match="nothing is delivered: ALPINE_API_URL is not set"):
        asyncio.run(execute_request(home, DISABLED, REPLAY, [1]))
    script = ScriptedAlpine()
    deliver(home, script)
    assert script.sent == [1]  # and the request was cancelled


# P2: a task that dies


class Broken(ScriptedAlpine):
    """A client with a bug."""

    async def send(self, body: bytes) -> SendResult:
        if number_of(body) == 3:
            raise RuntimeError("a bug")
        return await super().send(body)


def test_a_bug_in_delivery_ends_the_projector_with_its_error(
    home: Path,
) -> None:
    append(home, *signals(2_000))
    with pytest.raises(RuntimeError, match="a bug"):
        deliver(home, Broken())
    assert DeliveryLease.take(home) is not None


def test_a_bug_while_idle_is_raised_to_the_waiting_caller(home: Path) -> None:
    """No batch comes that could raise it."""
    append(home, *signals(5))

    async def run() -> None:
        projector = Projector(home, projection_of(Broken()))
        with pytest.raises(RuntimeError, match="a bug"):
            await asyncio.wait_for(projector.run(), DEADLINE_S)

    asyncio.run(run())


# Units


@given(st.permutations(range(1, 30)), st.sets(st.integers(1, 29)))
def test_the_checkpoint_advances_only_over_a_contiguous_run_of_done_entries(
    finished: list[int], before: set[int]
) -> None:
    ack_tracker = AckTracker(Checkpoint(projection="alpine"), before)
    for seq in range(1, 30):
        ack_tracker.take(seq, f"chain {seq}")
    done = set(before)
    for seq in finished:
        assert ack_tracker.mark_done(seq) == (seq not in done)
        done.add(seq)
        ack_tracker.advance()
        expected = next(n for n in range(30) if n + 1 not in done)
        assert ack_tracker.checkpoint.seq == expected
        if expected:
            assert ack_tracker.checkpoint.chain == f"chain {expected}"
        assert ack_tracker.unsaved == {n for n in done if n > expected} - before
        assert ack_tracker.entries_tracked == 29 - expected
        assert all(ack_tracker.is_done(n) == (n in done) for n in range(1, 30))
        assert all(ack_tracker.is_in_flight(n) == (n not in done) for n in range(1, 30))
    assert not ack_tracker.is_in_flight(31)


def test_the_checkpoint_advances_over_an_accepted_gap() -> None:
    ack_tracker = AckTracker(Checkpoint(projection="alpine"))
    for seq in (1, 2, 7, 8):
        ack_tracker.take(seq, "")
        ack_tracker.mark_done(seq)
    ack_tracker.advance()
    assert ack_tracker.checkpoint.seq == 8


def test_the_interval_of_a_failing_signal_doubles_up_to_its_limit() -> None:
    timing = DeliveryTiming()
    job = Job(seq=1, signal_id="s-1", body=b"", attempts=1)
    outcome = Park(kind=FAILING, status=500, body="500")
    row: ParkedSignal | None = None
    intervals = []
    now_s = 1_000.0
    for _ in range(12):
        row = parked_row(job, outcome, row, now_s=now_s, timing=timing)
        assert row.next_at is not None
        intervals.append(row.next_at - row.last_at)
        now_s = row.next_at
    assert intervals[:4] == [60.0, 120.0, 240.0, 480.0]
    assert intervals[-1] == timing.failing_s_max
    assert row is not None
    assert (row.attempts, row.first_at) == (12, 1_000.0)
    kept = parked_row(
        job, KeepParked(kind=FAILING, status=None, body="gone"), row, now_s=now_s, timing=timing
    )
    assert (kept.kind, kept.status, kept.body) == (FAILING, 500, "500")
    refused = parked_row(
        job, Park(kind=REFUSED, status=400, body="400"), row, now_s=now_s, timing=timing
    )
    assert (refused.kind, refused.next_at) == (REFUSED, None)


def test_an_outbox_write_is_atomic(tmp_path: Path) -> None:
    path = tmp_path / "alpine.db"
    row = ParkedSignal(3, "s-3", FAILING, 500, "500", 4, 1.0, 2.0, 62.0)
    with closing(Outbox(path)) as outbox:
        changes = UnsavedChanges(park={3: row}, delivered=2)
        outbox.save(Checkpoint(projection="alpine", seq=2, chain="c"), {3, 5}, changes, 1)
        assert outbox.checkpoint().seq == 2
        assert outbox.done_above() == {3, 5}
        assert outbox.parked(3) == row
        assert outbox.due(61.0, 10) == []
        assert outbox.due(62.0, 10) == [row]
        broken = UnsavedChanges(park={4: row._replace(seq=4, body=None)})  # type: ignore[arg-type]
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


def test_uncollected_answers_to_operator_requests_expire(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / "alpine.db")) as outbox:
        outbox.request("me", RETRY, [1, 2])
        outbox.request("dead", RETRY, [3])
        first, second, third = outbox.open_requests()
        changes = UnsavedChanges(request_outcomes={first.id: "stored", third.id: "gone"})
        outbox.save(Checkpoint(projection="alpine"), set(), changes, 0)
        assert outbox.outcomes("me") == {"stored": 1, None: 1}
        outbox.delete_answered("me")
        assert outbox.outcomes("me") == {None: 1}
        assert outbox.outcomes("dead") == {"gone": 1}
        assert outbox.open_requests() == [second]
        outbox.cancel_requests("me")
        assert outbox.open_requests() == []
