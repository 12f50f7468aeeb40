"""SignalTracker: exactly the interface of the old tracker, from threads and from asyncio."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it has no types
import pytest

from eventlog import EventLog, ForeignHome, HashMismatch, InvalidSignal, LogClosed, SignalConflict
from projections import SignalTracker
from tests.harness.command import python_dev
from tests.harness.daemon import ready
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import assert_valid_log, entries_in, tree_contents
from tests.harness.read_side import append
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import assert_caught_up, assert_is_fold, database_of, read_tables, seq_in

# As the contract lists them.
LATEST_KEYS = [
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "timestamp", "outcome", "profit_loss_pct"),
]
STATS_KEYS = ["total_signals", "wins", "losses", "win_rate", "average_return", "last_updated"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def tracker(home: Path) -> Iterator[SignalTracker]:
    with SignalTracker(home) as tracker:
        yield tracker


def old_signal(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A signal as old code creates it: no id, no asset_type, ints, a time without an offset."""
    signal = {
        "symbol": "AAPL",
        "action": "BUY",
        "entry_price": 100 + number,
        "target_price": 110 + number,
        "stop_price": 95,
        "confidence": 87,
        "strategy": "weighted_consensus_v6",
        "timestamp": f"2025-11-18T02:00:{number:02}",
    }
    return signal | changes


# -- the contract


def test_the_latest_signals_have_the_keys_and_values_of_the_contract(
    tracker: SignalTracker, home: Path
) -> None:
    first = tracker.log_signal(old_signal(1))
    second = tracker.log_signal(old_signal(2, symbol=" msft ", action="sell"))
    append(home, {**closed(1), "signal_id": first, "exit_price": 111})
    two, one = tracker.get_latest_signals()
    assert list(one) == LATEST_KEYS
    assert one == {
        "signal_id": first,
        "symbol": "AAPL",
        "action": "BUY",
        "entry_price": 101.0,
        "target_price": 111.0,
        "stop_price": 95.0,
        "confidence": 87.0,
        "strategy": "weighted_consensus_v6",
        "timestamp": "2025-11-18T02:00:01.000000+00:00",
        "outcome": "win",
        "profit_loss_pct": (111.0 - 101.0) / 101.0 * 100,
    }
    assert (two["signal_id"], two["symbol"], two["action"]) == (second, "MSFT", "SELL")
    assert (two["outcome"], two["profit_loss_pct"]) == (None, None)


def test_the_latest_signals_come_newest_first_by_their_timestamp(tracker: SignalTracker) -> None:
    ids = {n: tracker.log_signal(old_signal(n, symbol="AB"[n % 2])) for n in (3, 1, 12, 2, 11)}
    newest = [ids[n] for n in (12, 11, 3, 2, 1)]
    assert [row["signal_id"] for row in tracker.get_latest_signals()] == newest
    assert [row["signal_id"] for row in tracker.get_latest_signals(limit=2)] == newest[:2]
    assert [row["signal_id"] for row in tracker.get_latest_signals("A", limit=10)] == [
        *(ids[12], ids[2])
    ]
    assert [row["signal_id"] for row in tracker.get_latest_signals("b", 1)] == [ids[11]]
    assert tracker.get_latest_signals("none") == []


def test_ten_signals_are_returned_by_default(tracker: SignalTracker) -> None:
    for number in range(15):
        tracker.log_signal(old_signal(number))
    assert len(tracker.get_latest_signals()) == 10


def test_the_stats_have_the_keys_and_values_of_the_contract(
    tracker: SignalTracker, home: Path
) -> None:
    ids = [tracker.log_signal(old_signal(n, entry_price=100, target_price=110)) for n in range(6)]
    for signal_id, exit_price in zip(ids, (110, 120, 90, 100), strict=False):
        append(home, {"event": "closed", "signal_id": signal_id, "exit_price": exit_price})
    stats = tracker.get_stats()
    assert list(stats) == STATS_KEYS
    last_updated = stats.pop("last_updated")
    assert stats == {
        "total_signals": 6,
        "wins": 2,
        "losses": 1,
        "win_rate": 66.67,
        "average_return": 5.0,
    }
    assert last_updated == entries_in(home)[-1]["recorded_at"]


def test_before_the_first_signal_queries_work_and_nothing_is_created(home: Path) -> None:
    with SignalTracker(home) as tracker:
        assert tracker.get_latest_signals() == []
        stats = tracker.get_stats()
        assert list(stats) == STATS_KEYS
        assert list(stats.values()) == [0, 0, 0, 0.0, 0.0, None]
        tracker.flush_pending()
    assert not home.exists()


def test_a_signal_is_durable_when_its_id_is_returned(tracker: SignalTracker, home: Path) -> None:
    signal_id = tracker.log_signal(old_signal())
    (entry,) = assert_valid_log(home)
    assert entry["signal_id"] == signal_id
    assert not database_of(home).exists()  # log_signal does not build the table


# -- as tolerant as the old tracker

NINE_HOURS = timezone(timedelta(hours=9))
TIMES: dict[str, Any] = {
    "without an offset": "2025-11-18T02:00:00",
    "with microseconds": "2025-11-18T02:00:00.000000",
    "with a blank": "2025-11-18 02:00:00",
    "Z": "2025-11-18T02:00:00Z",
    "without seconds": "2025-11-18T02:00",
    "without seconds, with Z": "2025-11-18T02:00Z",
    "an offset without a colon": "2025-11-18T02:00:00+0000",
    "an offset of hours": "2025-11-17T21:00:00-05",
    "nanoseconds": "2025-11-18T02:00:00.000000999",
    "nanoseconds with Z": "2025-11-18T02:00:00.000000999Z",
    "compact": "20251118T020000Z",
    "a week": "2025-W47-2T02:00",
    "a comma": "2025-11-18T02:00:00,0",
    "seconds in the offset": "2025-11-18T02:00:30+00:00:30",
    "small letters": "2025-11-18t02:00:00z",
    "an offset": "2025-11-18T11:00:00+09:00",
    "naive": datetime(2025, 11, 18, 2),  # noqa: DTZ001  # as old code passes it
    "aware": datetime(2025, 11, 18, 2, tzinfo=UTC),
    "elsewhere": datetime(2025, 11, 18, 11, tzinfo=NINE_HOURS),
}


@pytest.mark.parametrize("given", TIMES.values(), ids=TIMES)
def test_a_time_without_an_offset_is_utc(tracker: SignalTracker, given: object) -> None:
    tracker.log_signal(old_signal(timestamp=given))
    (row,) = tracker.get_latest_signals()
    assert row["timestamp"] == "2025-11-18T02:00:00.000000+00:00"


def test_values_of_numpy_and_pandas_are_logged(tracker: SignalTracker, home: Path) -> None:
    times = (np.datetime64("2025-11-18T02:00:00"), pd.Timestamp("2025-11-18T02:00:00"))
    for number, time in enumerate(times):
        tracker.log_signal(
            old_signal(
                entry_price=np.float64(100.5),
                target_price=np.int64(110),
                stop_price=Decimal("95.1"),
                confidence=np.float32(87.5),
                timestamp=time,
                rank=np.int64(number),
            )
        )
    for number, entry in enumerate(entries_in(home)):
        numbers = [entry[key] for key in ("entry_price", "target_price", "stop_price")]
        assert numbers == [100.5, 110.0, 95.1]
        assert (entry["confidence"], entry["rank"]) == (87.5, number)
        assert entry["timestamp"] == "2025-11-18T02:00:00.000000+00:00"


@pytest.mark.parametrize("value", [None, ...])
@pytest.mark.parametrize("key", ["signal_id", "asset_type", "data_source", "timestamp"])
def test_optional_fields_may_be_none(
    tracker: SignalTracker, home: Path, key: str, value: object
) -> None:
    signal = old_signal(signal_id="mine", asset_type="stock", data_source="x")
    if value is None:
        signal[key] = None
    else:
        del signal[key]
    tracker.log_signal(signal)
    (entry,) = entries_in(home)
    assert entry[key]
    defaults = {"asset_type": "unknown", "data_source": "weighted_consensus"}
    assert entry[key] == defaults.get(key, entry[key])


def test_the_dict_of_the_caller_is_not_changed(tracker: SignalTracker) -> None:
    signal = old_signal(asset_type=None)
    before = dict(signal)
    tracker.log_signal(signal)
    assert signal == before


def test_additional_keys_are_kept(tracker: SignalTracker, home: Path) -> None:
    tracker.log_signal(old_signal(reasoning="because", generation_latency_ms=3))
    (entry,) = entries_in(home)
    assert (entry["reasoning"], entry["generation_latency_ms"]) == ("because", 3)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"entry_price": -1}, InvalidSignal),
        ({"confidence": 0.85}, InvalidSignal),
        ({"timestamp": "yesterday"}, InvalidSignal),
        ({"timestamp": "0001-01-01T00:00:00+01:00"}, InvalidSignal),
        ({"symbol": None}, InvalidSignal),
        ({"sha256": "0" * 64, "signal_id": "x", "asset_type": "unknown"}, InvalidSignal),
    ],
)
def test_an_invalid_signal_is_refused_and_nothing_is_written(
    tracker: SignalTracker, home: Path, changes: Mapping[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises((kind, HashMismatch)):
        tracker.log_signal(old_signal(**changes))
    assert not home.exists()


def test_a_retry_with_its_own_id_is_the_same_signal(tracker: SignalTracker, home: Path) -> None:
    signal = old_signal(signal_id="mine")
    assert tracker.log_signal(signal) == tracker.log_signal(dict(signal)) == "mine"
    assert len(entries_in(home)) == 1
    with pytest.raises(SignalConflict):
        tracker.log_signal(old_signal(signal_id="mine", entry_price=1))


# -- the home


def test_the_home_is_given_or_from_the_environment_or_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, env, given = (tmp_path / name for name in ("here", "env", "given"))
    here.mkdir()
    monkeypatch.chdir(here)
    with SignalTracker() as tracker:
        tracker.log_signal(old_signal(1))
    monkeypatch.setenv("EVENTLOG_HOME", "")
    with SignalTracker() as tracker:
        tracker.log_signal(old_signal(2))
    monkeypatch.setenv("EVENTLOG_HOME", str(env))
    with SignalTracker() as tracker:
        monkeypatch.chdir("/")  # it does not move with the process
        tracker.log_signal(old_signal(3))
        assert len(tracker.get_latest_signals()) == 1
    with SignalTracker(home=str(given)) as tracker:
        tracker.log_signal(old_signal(4))
    assert [len(entries_in(home)) for home in (here, env, given)] == [2, 1, 1]


@pytest.mark.parametrize("what", ["signals.log", "signals.db"])
def test_a_home_of_the_old_tracker_is_refused_and_left_alone(home: Path, what: str) -> None:
    (home / "logs").mkdir(parents=True)
    (home / "data").mkdir()
    if what == "signals.log":
        (home / "logs" / what).write_text("{}\n")
    else:
        with closing(sqlite3.connect(home / "data" / what)) as db:
            db.execute("CREATE TABLE signals (id INTEGER PRIMARY KEY, signal_id TEXT)")
    before = tree_contents(home)
    with pytest.raises(ForeignHome, match="import-legacy"):
        SignalTracker(home)
    assert tree_contents(home) == before


# -- reads its own writes


@pytest.mark.slow
def test_it_reads_its_own_writes_without_a_daemon(tracker: SignalTracker) -> None:
    for number in range(30):
        signal_id = tracker.log_signal(old_signal(number))
        assert tracker.get_latest_signals(limit=1)[0]["signal_id"] == signal_id
        assert tracker.get_stats()["total_signals"] == number + 1


def test_it_reads_its_own_writes_with_a_daemon(tracker: SignalTracker, home: Path) -> None:
    tracker.log_signal(old_signal(0))
    with ready(home, "sqlite") as d:
        for number in range(1, 40):
            signal_id = tracker.log_signal(old_signal(number))
            assert tracker.get_latest_signals(limit=1)[0]["signal_id"] == signal_id
        until(lambda: seq_in(home) == 40)
        assert d.stop() == 0
        assert all(" INFO " in line for line in d.err.splitlines()), d.err
    assert_caught_up(home)


def test_flush_pending_brings_the_table_up_to_the_log(tracker: SignalTracker, home: Path) -> None:
    append(home, *signals(7))
    tracker.flush_pending()
    assert_caught_up(home)
    append(home, *signals(3, start=8))
    asyncio.run(tracker.flush_pending_async())
    assert_caught_up(home)
    tracker.flush_pending()
    assert_caught_up(home)


# -- threads and asyncio


def test_threads_and_tasks_share_one_tracker(tracker: SignalTracker, home: Path) -> None:
    returned: list[str] = []
    problems: list[BaseException] = []

    def in_a_thread(start: int) -> None:
        try:
            for number in range(start, start + 15):
                returned.append(tracker.log_signal(a_signal(number)))
                if number % 5 == 0:
                    found = tracker.get_latest_signals(limit=10_000)
                    assert f"s-{number}" in {row["signal_id"] for row in found}
                    tracker.flush_pending()
        except BaseException as error:  # noqa: BLE001  # reported by the test
            problems.append(error)

    async def in_tasks(start: int) -> None:
        async def one(number: int) -> None:
            returned.append(await tracker.log_signal_async(a_signal(number)))
            if number % 5 == 0:
                await tracker.flush_pending_async()
                assert seq_in(home) >= 1

        await asyncio.gather(*(one(number) for number in range(start, start + 25)))

    threads = [threading.Thread(target=in_a_thread, args=(1000 * n,)) for n in range(1, 5)]
    # Event loops in several threads at once, as a server with workers has them.
    threads += [
        threading.Thread(target=lambda n=n: asyncio.run(in_tasks(1000 * n))) for n in range(5, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert not problems
    assert len(returned) == len(set(returned)) == 4 * 15 + 2 * 25
    assert {entry["signal_id"] for entry in assert_valid_log(home)} == set(returned)
    assert tracker.get_stats()["total_signals"] == len(returned)
    assert_caught_up(home)


def test_the_blocking_calls_work_inside_a_coroutine_too(tracker: SignalTracker) -> None:
    """Old code calls them there, and blocks its loop for a moment, as before."""

    async def run() -> None:
        signal_id = await tracker.log_signal_async(old_signal(1))
        assert tracker.get_latest_signals()[0]["signal_id"] == signal_id
        other = tracker.log_signal(old_signal(2))
        tracker.flush_pending()
        assert tracker.get_latest_signals()[0]["signal_id"] == other
        assert tracker.get_stats()["total_signals"] == 2

    asyncio.run(run())
    asyncio.run(run_again(tracker))


async def run_again(tracker: SignalTracker) -> None:
    await tracker.log_signal_async(old_signal(3))
    await tracker.flush_pending_async()


def test_a_cancelled_flush_does_no_harm(tracker: SignalTracker, home: Path) -> None:
    append(home, *signals(200))

    async def run() -> None:
        for turns in range(6):
            flushing = asyncio.create_task(tracker.flush_pending_async())
            for _ in range(turns):
                await asyncio.sleep(0)
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
        await tracker.flush_pending_async()

    asyncio.run(run())
    assert_caught_up(home)


def test_closing_during_queries_answers_or_refuses_them_and_never_hangs(home: Path) -> None:
    append(home, *signals(300))
    for _ in range(5):
        tracker = SignalTracker(home)
        answers: list[int] = []

        def query(tracker: SignalTracker = tracker, answers: list[int] = answers) -> None:
            answers.append(len(tracker.get_latest_signals(limit=1000)))

        threads = [threading.Thread(target=query) for _ in range(8)]
        for thread in threads:
            thread.start()
        tracker.close()
        tracker.close()
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        assert answers == [300] * 8
        tracker.close()
    assert_is_fold(home)


def test_after_close_nothing_is_logged(home: Path) -> None:
    tracker = SignalTracker(home)
    tracker.log_signal(old_signal(1))
    tracker.close()
    with pytest.raises(LogClosed):
        tracker.log_signal(old_signal(2))
    assert len(entries_in(home)) == 1


# -- processes


def script(text: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python_dev(text, *words),
        cwd=CHECKOUT,
        env={**os.environ, "EVENTLOG_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


OLD_CODE = '''
"""A generator written for the old tracker; only the import line is different."""
import asyncio
from datetime import datetime

from projections import SignalTracker


class Generator:
    def __init__(self):
        self.tracker = SignalTracker()

    def make(self, symbol, price, action="BUY"):
        return {
            "symbol": symbol,
            "action": action,
            "entry_price": price,
            "target_price": round(price * 1.05, 2),
            "stop_price": round(price * 0.97, 2),
            "confidence": 88.5,
            "strategy": "weighted_consensus_v6",
            "timestamp": datetime(2025, 11, 18, 2, 30).isoformat(),
            "regime": "TRENDING",
            "sources_count": 4,
        }

    async def cycle(self):
        ids = [
            await self.tracker.log_signal_async(self.make(symbol, price))
            for symbol, price in [("AAPL", 150), ("MSFT", 410.25), ("BTC-USD", 91000)]
        ]
        await self.tracker.flush_pending_async()
        return ids


generator = Generator()
ids = asyncio.run(generator.cycle())
assert len(set(ids)) == 3 and all(isinstance(signal_id, str) for signal_id in ids)
ids.append(generator.tracker.log_signal(generator.make("AAPL", 151, action="SELL")))
generator.tracker.flush_pending()
latest = generator.tracker.get_latest_signals("AAPL", limit=10)
assert {signal["signal_id"] for signal in latest} == {ids[0], ids[3]}
assert latest[0].get("outcome") is None
stats = generator.tracker.get_stats()
print(f"{stats['total_signals']} signals, win rate {stats['win_rate']:.1f}%")
generator.tracker.close()
'''


def test_code_written_for_the_old_tracker_keeps_working(home: Path) -> None:
    done = script(OLD_CODE, home)
    assert (done.returncode, done.stdout) == (0, "4 signals, win rate 0.0%\n")
    # Its one SELL has the target and the stop of a BUY.
    assert done.stderr == "item_warning kind=wrong_side field=target_price seq=4\n"
    assert len(assert_valid_log(home)) == 4
    assert_caught_up(home)


EXITS = {
    "after a call": "tracker.log_signal(signal)",
    "after a flush": "tracker.log_signal(signal); tracker.flush_pending()",
    "after a query": "tracker.log_signal(signal); tracker.get_latest_signals()",
    "with a thread that continues": """
import threading, time
def query():
    time.sleep(0.3)  # the main thread has ended
    for _ in range(20):
        tracker.get_latest_signals()
    tracker.flush_pending()
tracker.log_signal(signal)
threading.Thread(target=query).start()
""",
    "with a flush that is not awaited": """
import asyncio
async def main():
    await tracker.log_signal_async(signal)
    task = asyncio.create_task(tracker.flush_pending_async())
    await asyncio.sleep(0)
asyncio.run(main())
""",
    "by an exception": "tracker.log_signal(signal); tracker.get_stats(); sys.exit(0)",
}


@pytest.mark.parametrize("how", EXITS.values(), ids=EXITS)
def test_an_interpreter_that_ends_without_close_does_not_hang(home: Path, how: str) -> None:
    signal = old_signal()
    text = "import sys\nfrom projections import SignalTracker\ntracker = SignalTracker()\n"
    done = script(f"{text}signal = {signal!r}\n{how}\n", home)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(assert_valid_log(home)) == 1
    if database_of(home).exists():
        assert len(read_tables(home)[0].signals) in (0, 1)


FORK = """
import os, sys
from eventlog import LogClosed
from projections import ProjectionError, SignalTracker
tracker = SignalTracker()
signal = dict(eval(sys.argv[1]))
tracker.log_signal({**signal, "signal_id": "parent"})
tracker.flush_pending()
pid = os.fork()
if pid == 0:
    code = 0
    for call in (lambda: tracker.log_signal(signal), tracker.flush_pending, tracker.get_stats):
        try:
            call()
            code = 1
        except (LogClosed, ProjectionError):
            pass
    tracker.close()
    with SignalTracker() as own:
        own.log_signal({**signal, "signal_id": "child"})
        code |= own.get_stats()["total_signals"] != 2
    os._exit(code)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert tracker.get_stats()["total_signals"] == 2
tracker.close()
sys.exit(code)
"""


def test_a_forked_child_is_refused_with_the_remedy_and_does_not_hang(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, repr(old_signal())],
        cwd=CHECKOUT,
        env={**os.environ, "EVENTLOG_HOME": str(home)},
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0
    assert [entry["signal_id"] for entry in assert_valid_log(home)] == ["parent", "child"]


def test_several_processes_use_trackers_on_one_home(home: Path) -> None:
    text = (
        "import sys\nfrom projections import SignalTracker\n"
        "with SignalTracker() as tracker:\n"
        "    for number in range(12):\n"
        "        mine = tracker.log_signal({**eval(sys.argv[1]), 'strategy': sys.argv[2]})\n"
        "        rows = tracker.get_latest_signals(limit=1000)\n"
        "        assert mine in {row['signal_id'] for row in rows}\n"
    )
    words = [sys.executable, "-c", text, repr(old_signal())]
    env = {**os.environ, "EVENTLOG_HOME": str(home)}
    started = [subprocess.Popen([*words, str(n)], cwd=CHECKOUT, env=env) for n in range(3)]
    assert [process.wait(DEADLINE_S) for process in started] == [0, 0, 0]
    assert len(assert_valid_log(home)) == 36
    with EventLog(home) as log:
        assert log.last_seq == 36
    assert assert_is_fold(home).seq >= 34
