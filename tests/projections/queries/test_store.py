"""SignalStore, `signals` and `stats`: results are never stale, connections at most five."""

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog, ForeignHome
from projections import ProjectionError, SignalStore
from projections.queries.selection import ROW_COLUMNS
from tests.harness.command import eventlog, python_dev
from tests.harness.daemon import daemon
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import tree_contents
from tests.harness.read_side import append, project
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import database_of, raw_entries, read_tables, reading, seq_in


def at_minute(number: int, minute: int, **changes: Any) -> dict[str, Any]:
    return a_signal(number, timestamp=f"2025-11-18T02:{minute:02}:00Z", **changes)


def answer(*words: object, home: Path) -> Any:
    """The JSON that a command prints."""
    return json.loads(eventlog(*words, "--json", home=home).out)


def ids(rows: list[dict[str, object]]) -> list[object]:
    return [row["signal_id"] for row in rows]


# -- results


def test_the_latest_come_newest_first_of_one_symbol_or_of_all(home: Path) -> None:
    append(
        home,
        at_minute(1, 5),
        at_minute(2, 1, symbol="MSFT"),
        at_minute(3, 5),
        at_minute(4, 9, symbol="MSFT"),
        at_minute(5, 2),
    )
    project(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            assert ids(await store.latest()) == ["s-4", "s-3", "s-1", "s-5", "s-2"]
            assert ids(await store.latest(limit=2)) == ["s-4", "s-3"]
            assert ids(await store.latest("AAPL")) == ["s-3", "s-1", "s-5"]
            assert ids(await store.latest(" msft ", limit=1)) == ["s-4"]
            assert await store.latest("NONE") == []
            assert await store.latest(limit=0) == []
            assert await store.latest(limit=-3) == []
            assert tuple((await store.latest())[0]) == ROW_COLUMNS

    asyncio.run(run())


def test_a_row_is_what_the_table_holds_and_get_adds_the_further_keys(home: Path) -> None:
    note = {"deep": [1, 2.5, None, "ü"]}
    append(home, a_signal(1, note=note, regime="rising"), a_signal(2), closed(2))
    project(home)
    tables, _ = read_tables(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            found = {row["signal_id"]: list(row.values())[:18] for row in await store.latest()}
            assert found == {row[1]: row for row in tables.signals}
            one = await store.get("s-1")
            assert one is not None
            assert one["extra"] == {"note": note, "regime": "rising"}
            two = await store.get("s-2")
            assert two is not None
            assert (two["extra"], two["exit_price"]) == ({}, 161.0)
            assert await store.get("s-3") is None
            assert await store.get("' OR 1=1 --") is None

    asyncio.run(run())


def test_stats_are_those_of_the_trades_that_ended(home: Path) -> None:
    lives = [
        *signals(7),
        closed(1, outcome="win", profit_loss_pct=10.0),
        closed(2, outcome="win", profit_loss_pct=2.005),
        closed(3, outcome="loss", profit_loss_pct=-4.0),
        closed(4, outcome="expired", profit_loss_pct=0.0),
        {"event": "skipped", "signal_id": "s-5", "reason": "r"},
    ]
    append(home, *lives)
    project(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            stats = await store.stats()
            last_updated = stats.pop("last_updated")
            assert last_updated == read_tables(home)[0].lifecycle[-1][3]
            assert stats.pop("mean_holding_s") == pytest.approx(held_s(home), abs=0.01)
            assert stats == {
                "total_signals": 7,
                "open": 3,
                "wins": 2,
                "losses": 1,
                "breakevens": 0,
                "expired": 1,
                "win_rate": 66.67,
                "win_rate_low": pytest.approx(20.76596008),
                "win_rate_high": pytest.approx(93.85080553),
                "average_return": 2.0,
                "median_return": 1.0025,
                "profit_factor": pytest.approx(12.005 / 4),
                "best": 10.0,
                "worst": -4.0,
                "calibration": [
                    {"from": 80, "to": 90, "count": 3, "mean_confidence": 85.5, "win_rate": 200 / 3}
                ],
            }
            assert await store.count() == 7

    asyncio.run(run())


def held_s(home: Path) -> float:
    """The mean time from decision to close; all of these were decided and closed at once."""
    closes = [entry for entry in raw_entries(home) if entry.event == "closed"]
    closed_at = datetime.fromisoformat(closes[0].recorded_at)
    return (closed_at - datetime(2025, 11, 18, 2, tzinfo=UTC)).total_seconds()


def test_an_empty_table_has_answers_too(home: Path) -> None:
    append(home, {"event": "tick"})
    project(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            assert (await store.count(), await store.latest()) == (0, [])
            stats = await store.stats()
            assert (stats.pop("total_signals"), stats.pop("open")) == (0, 0)
            assert stats.pop("calibration") == []
            assert {key for key, value in stats.items() if value == 0} == {
                *("wins", "losses", "breakevens", "expired")
            }
            assert {value for value in stats.values() if value != 0} == {None}
            assert await store.stats(by="symbol") == []

    asyncio.run(run())


# -- never stale

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for number, line in enumerate(sys.stdin):
    db.execute("INSERT INTO signals(signal_id, symbol, action, entry_price, target_price,"
        " stop_price, confidence, strategy, asset_type, timestamp, sha256)"
        " VALUES (?, 'AAPL', 'BUY', 1, 2, 0.5, 50, 's', 't', '2030-01-01', 'h')", (f"x-{number}",))
    print(flush=True)
"""


@contextmanager
def writer(home: Path) -> Iterator[Callable[[], None]]:
    """Another process that commits one more row each time it is called."""
    words = [sys.executable, "-c", WRITER, str(database_of(home))]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def commit() -> None:
        stdin.write(b"\n")
        assert stdout.readline() == b"\n"

    try:
        yield commit
    finally:
        stdin.close()
        process.wait(DEADLINE_S)
        stdout.close()


def test_a_commit_of_another_process_is_seen_at_once(home: Path) -> None:
    append(home, *signals(3))
    project(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            with writer(home) as commit:
                for number in range(100):
                    assert await store.count() == 3 + number
                    assert len(await store.latest(limit=1000)) == 3 + number
                    assert (await store.get(f"x-{number}")) is None
                    commit()

    asyncio.run(run())


def test_a_query_during_commits_returns_nothing_older_than_its_start(
    home: Path,
) -> None:
    append(home, *signals(3))
    project(home)
    committed = 3

    async def run() -> None:
        nonlocal committed
        done = asyncio.Event()

        async def ask(store: SignalStore) -> int:
            asked = 0
            while not done.is_set():
                before = committed
                assert before <= await store.count()
                before = committed
                rows = await store.latest("AAPL", limit=10_000)
                assert before <= len(rows)
                asked += 1
            return asked

        async with SignalStore(home) as store:
            pending = [asyncio.create_task(ask(store)) for _ in range(12)]
            with writer(home) as commit:
                for _ in range(200):
                    await asyncio.to_thread(commit)
                    committed += 1
                    await asyncio.sleep(random.Random(committed).choice([0, 0.001]))
            done.set()
            assert min(await asyncio.gather(*pending)) > 0

    asyncio.run(run())


# -- the pool


def connections(home: Path) -> int:
    """The number of connections that this process has to the database."""
    paths = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # closed by a thread in between
            paths.append(os.readlink(f"/proc/self/fd/{fd}"))
    return paths.count(str(database_of(home)))


def test_there_are_never_more_than_five_connections(home: Path) -> None:
    """Queries of some thousand rows, slow enough to use all connections at once."""
    append(home, *signals(3_000))
    project(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            counts = range(2_960, 3_000)
            pending = [asyncio.create_task(store.latest(limit=n)) for n in counts]
            most = 0
            while not all(task.done() for task in pending):
                most = max(most, connections(home))
                await asyncio.sleep(0.0005)
            assert [len(task.result()) for task in pending] == list(counts)
            assert max(most, connections(home)) == 5
        assert connections(home) == 0

    asyncio.run(run())


CANCEL_STORM = """
import asyncio, random, sys
from projections import SignalStore

async def main():
    chance = random.Random(1)
    async with SignalStore(sys.argv[1]) as store:
        for _ in range(30):
            pending = [asyncio.create_task(store.latest(limit=n)) for n in range(1, 20)]
            for _ in range(chance.randint(0, 12)):
                await asyncio.sleep(0)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        assert await store.count() == 50
        assert len(await store.latest(limit=7)) == 7
    store = SignalStore(sys.argv[1])
    pending = asyncio.create_task(store.latest(limit=3))
    await asyncio.sleep(0)
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    await store.close()
    await store.close()

asyncio.run(main())
print("done")
"""


def test_cancelled_queries_leave_no_hanging_thread(home: Path) -> None:
    append(home, *signals(50))
    project(home)
    done = subprocess.run(
        python_dev(CANCEL_STORM, str(home)),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# -- the database is deleted or replaced


def test_a_replaced_database_is_detected_at_once(home: Path, tmp_path: Path) -> None:
    append(home, *signals(3))
    project(home)
    copy = tmp_path / "copy.db"
    with closing(reading(database_of(home))) as db, closing(sqlite3.connect(copy)) as out:
        db.backup(out)
    append(home, *signals(3, start=4))
    project(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            assert await store.count() == 6
            remove(home, "", "-wal", "-shm")
            with pytest.raises(ProjectionError, match="no database yet"):
                await store.count()
            shutil.copy(copy, database_of(home))
            assert await store.count() == 3
            project_elsewhere(home)
            assert await store.count() == 6
            assert ids(await store.latest(limit=1)) == ["s-6"]

    asyncio.run(run())


def remove(home: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        Path(f"{database_of(home)}{suffix}").unlink(missing_ok=True)


def project_elsewhere(home: Path) -> None:
    assert eventlog("project", "sqlite", "--once", home=home).code == 0


@pytest.mark.slow
def test_a_query_during_repeated_replacements_returns_a_complete_answer(
    home: Path, tmp_path: Path
) -> None:
    copies = []
    for count in (3, 6):
        append(home, *signals(3, start=count - 2))
        project(home)
        copies.append(tmp_path / f"copy-{count}.db")
        with closing(reading(database_of(home))) as db, closing(sqlite3.connect(copies[-1])) as out:
            db.backup(out)

    async def run() -> None:
        answered = asyncio.Event()
        async with SignalStore(home) as store:

            async def ask() -> None:
                for _ in range(60):
                    count = await store.count()
                    assert count in (3, 6)
                    assert len(await store.latest()) in (3, 6)
                    answered.set()

            pending = asyncio.gather(*(ask() for _ in range(4)))
            number = 0
            while not pending.done():
                number += 1
                shutil.copy(copies[number % 2], tmp_path / "next.db")
                (tmp_path / "next.db").replace(database_of(home))
                remove(home, "-wal", "-shm")
                await asyncio.sleep(0.01)
                # Replaced a few times in a row, also on a slow machine; then a read succeeds.
                if number % 5 == 0:
                    answered.clear()
                    answer = asyncio.ensure_future(answered.wait())
                    await asyncio.wait((answer, pending), return_when=asyncio.FIRST_COMPLETED)
                    answer.cancel()
            await pending

    asyncio.run(run())


def test_a_missing_database_is_reported_and_nothing_is_created(home: Path) -> None:
    append(home, a_signal(1))
    before = tree_contents(home)

    async def run() -> None:
        async with SignalStore(home) as store:
            for _ in range(2):
                with pytest.raises(ProjectionError, match="there is no database yet") as refusal:
                    await store.latest()
                assert refusal.value.where == str(database_of(home))
                assert "eventlog project sqlite" in refusal.value.do

    asyncio.run(run())
    for words in (("signals",), ("stats", "--json")):
        done = eventlog(*words, home=home)
        assert done.code == 3
        assert "no database yet" in done.err
    assert tree_contents(home) == before


def damaged_pages(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def damaged_head(path: Path) -> None:
    path.write_bytes(b"\xa5" * 100 + path.read_bytes()[100:])


def truncated(path: Path) -> None:
    os.truncate(path, 8192)


def without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE signals")


DAMAGE = [damaged_pages, damaged_head, truncated, without_a_table]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_database_is_reported_with_the_remedy(
    home: Path, damage: Callable[[Path], None]
) -> None:
    append(home, *signals(50))
    project(home)
    damage(database_of(home))

    async def run() -> None:
        async with SignalStore(home) as store:
            with pytest.raises(ProjectionError, match="cannot be read") as refusal:
                await store.latest()
            assert "again and again" not in refusal.value.what
            assert "rebuild-database" in refusal.value.do

    asyncio.run(run())
    for command in ("signals", "stats", "digest"):
        done = eventlog(command, home=home)
        assert (done.code, done.out) == (3, b"")
        assert done.err.startswith("error: the ")
        assert "cannot be read: " in done.err
        assert len(done.err.splitlines()) == 3, "what, where, do, and no traceback"
        assert "`eventlog rebuild-database` repairs" in done.err


def test_an_empty_database_is_none_yet(home: Path) -> None:
    """SQLite leaves such a file where a process died before the first table was there."""
    append(home, *signals(3))
    project(home)
    os.truncate(database_of(home), 0)
    for command in ("signals", "stats", "digest"):
        done = eventlog(command, home=home)
        assert (done.code, done.out) == (3, b"")
        assert done.err.startswith("error: there is no database yet\n")
        assert "`eventlog project sqlite --once` or `eventlog rebuild-database`" in done.err


def test_a_closed_store_refuses_queries_and_does_not_delay_exit(home: Path) -> None:
    """A connection left open would keep the process from ending."""
    append(home, *signals(3))
    project(home)
    program = f"""if True:
        import asyncio
        from projections import ProjectionError, SignalStore

        async def run():
            store = SignalStore({str(home)!r})
            print(await store.count())
            pending = asyncio.create_task(store.latest(limit=7))
            await asyncio.sleep(0)
            await store.close()
            await store.close()
            for question in (pending, store.count()):
                try:
                    await question
                except ProjectionError as error:
                    print(error.what)

        asyncio.run(run())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.splitlines() == ["3", "this store is closed", "this store is closed"]
    assert done.stderr == ""


def test_a_database_of_the_old_tracker_is_refused(home: Path) -> None:
    database_of(home).parent.mkdir(parents=True)
    with closing(sqlite3.connect(database_of(home))) as db:
        db.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, signal_id TEXT)")

    async def run() -> None:
        async with SignalStore(home) as store:
            with pytest.raises(ForeignHome):
                await store.count()

    asyncio.run(run())


# -- an account that may only read

READER = """
import asyncio, os, sys
from pathlib import Path
from projections import SignalStore

async def warm_up(home):  # it imports modules, which is impossible later
    async with SignalStore(home) as store:
        await store.latest()
        await store.stats()

async def main(home):
    async with SignalStore(home) as store:
        for line in sys.stdin:
            print(await store.count(), (await store.latest(limit=1))[0]["signal_id"], flush=True)

asyncio.run(warm_up(sys.argv[1]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    os.listdir(Path(sys.argv[2]) / "logs")
    sys.exit("this account may do too much")
except PermissionError:
    pass
asyncio.run(main(sys.argv[2]))
"""


def test_an_account_that_may_only_read_the_database_sees_each_commit_with_and_without_a_daemon(
    home: Path,
) -> None:
    if os.getuid() != 0:
        pytest.skip("becoming another account takes root: sudo tools/test")
    append(home, a_signal(0))
    project(home)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    there = folder / "home"
    try:
        with EventLog(there) as log:
            log.append_many(signals(3))
            there.chmod(0o711)
            os.chown(there / "data", 0, 65534)
            (there / "data").chmod(0o2750)
            project(there)
            read_as_another_account(home, there, log)
    finally:
        shutil.rmtree(folder)


def read_as_another_account(home: Path, there: Path, log: EventLog) -> None:
    words = [sys.executable, "-c", READER, str(home), str(there)]
    process = subprocess.Popen(
        words, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def printed() -> str:
        stdin.write(b"\n")
        return stdout.readline().decode().strip()

    try:
        assert printed() == "3 s-3"  # no writer: this account may not create -shm
        log.append(a_signal(4))
        project(there)  # opened, written and closed between two reads
        assert printed() == "4 s-4"
        with daemon(there, "sqlite") as d:
            for number in (5, 6, 7):
                log.append(a_signal(number))
                until(lambda n=number: seq_in(there) == n)  # type: ignore[misc]
                assert printed() == f"{number} s-{number}"
            d.stop()
        assert printed() == "7 s-7"
        with daemon(there, "sqlite") as d:
            log.append(a_signal(8))
            until(lambda: seq_in(there) == 8)
            d.process.kill()
            d.wait()
        assert printed() == "8 s-8"  # read from the WAL that the killed writer left
        project(there)
        assert printed() == "8 s-8"
    finally:
        stdin.close()
        process.wait(DEADLINE_S)
        stdout.close()
    assert process.returncode == 0


# -- commands


def test_signals_are_listed_for_people_and_for_machines(home: Path) -> None:
    append(home, at_minute(1, 1), at_minute(2, 2, symbol="MSFT"), closed(1))
    project(home)
    lines = eventlog("signals", home=home).out.decode().splitlines()
    assert lines[0].split()[:3] == ["timestamp", "symbol", "action"]
    assert [line.split()[1] for line in lines[1:]] == ["MSFT", "AAPL"]
    assert lines[1].index("BUY") == lines[2].index("BUY") == lines[0].index("action")
    assert "-" in lines[1].split()  # no outcome yet
    two, one = answer("signals", home=home)
    assert (two["signal_id"], one["signal_id"]) == ("s-2", "s-1")
    assert tuple(one) == ROW_COLUMNS
    only = answer("signals", "--symbol", "aapl", "--limit", 1, home=home)
    assert [row["signal_id"] for row in only] == ["s-1"]
    assert eventlog("signals", "--symbol", "X", "--json", home=home).out == b"[]\n"


def test_stats_are_shown_for_people_and_for_machines(home: Path) -> None:
    append(home, *signals(2), closed(1))
    project(home)
    found = answer("stats", home=home)
    assert list(found) == [
        *("total_signals", "open", "wins", "losses", "breakevens", "expired"),
        *("win_rate", "win_rate_low", "win_rate_high", "average_return", "median_return"),
        *("profit_factor", "best", "worst", "mean_holding_s", "calibration", "last_updated"),
    ]
    assert (found["total_signals"], found["wins"], found["win_rate"]) == (2, 1, 100.0)
    lines = eventlog("stats", home=home).out.decode().splitlines()
    assert [line.split()[0] for line in lines[:-3]] == [
        key.removesuffix("_s") for key in found if key != "calibration"
    ]
    assert "profit_factor    -" in lines  # without losses
    assert [line.split() for line in lines[-3:]] == [
        ["calibration"],
        ["from", "to", "count", "mean_confidence", "win_rate"],
        ["80", "90", "1", "85.5", "100"],
    ]


HOSTILE = [
    "'; DROP TABLE signals; --",
    '"><script>alert(1)</script>',
    "=HYPERLINK(0)",
    "../../etc/passwd",
    "%s%n{0}",
    "\u202etxt.exe",
    "ÄÖÜ-✓",
    "\U000e0041tag",
]


@pytest.mark.slow
def test_hostile_text_stays_data_and_is_shown_escaped(home: Path) -> None:
    items = [
        a_signal(
            number,
            signal_id=f"{number} {''.join(filter(str.isprintable, text))}",
            symbol=text.replace(" ", "")[:20],
            strategy=text,
            **{f"key {text}": f"\x1b[31m{text}\x00\r\n"},
        )
        for number, text in enumerate(HOSTILE)
    ]
    append(home, *items)
    project(home)
    assert len(read_tables(home)[0].signals) == len(HOSTILE)
    rows = answer("signals", "--limit", 100, home=home)
    assert [row["strategy"] for row in rows] == HOSTILE[::-1]
    assert [row["symbol"] for row in rows] == [item["symbol"].upper() for item in items[::-1]]
    out = eventlog("signals", "--limit", 100, home=home).out.decode()
    assert len(out.splitlines()) == 1 + len(HOSTILE)
    assert all(character.isprintable() for character in out.replace("\n", ""))
    for text in HOSTILE:
        found = answer("signals", "--symbol", text[:20], home=home)
        assert all(row["symbol"] == text[:20].strip().upper() for row in found)

    async def run() -> None:
        async with SignalStore(home) as store:
            for item in items:
                one = await store.get(item["signal_id"])
                assert one is not None
                (key,) = (key for key in item if key.startswith("key "))
                assert one["extra"] == {key: item[key]}

    asyncio.run(run())


def test_text_put_into_the_table_by_another_writer_is_shown_escaped(home: Path) -> None:
    append(home, a_signal(1))
    project(home)
    with closing(sqlite3.connect(database_of(home))) as db, db:
        db.execute("UPDATE signals SET strategy = ?", ("\x1b[2J\x1b]0;owned\x07\r\nnext",))
    done = eventlog("signals", home=home)
    assert done.code == 0
    assert b"\x1b" not in done.out
    assert len(done.out.splitlines()) == 2
    (row,) = answer("signals", home=home)
    assert row["strategy"].startswith("\x1b[2J")
