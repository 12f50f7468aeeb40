"""tools/bench: the runner computes and reports correctly, and a target runs."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, closing
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no type information
import pytest

from eventlog import EventLog
from eventlog.format.line import CHAIN_START, decode, next_chain, parse_header, stored_chain
from tests.harness.requirements import CHECKOUT, needs_tool
from tools.benchmarks import report, targets, trading_log
from tools.benchmarks.aggregates import SavedAggregates
from tools.benchmarks.peer_libraries import Callers
from tools.benchmarks.peer_table import PEERS, Peer, PeerResult, chosen_peers, measure_peer
from tools.benchmarks.producers import PRODUCERS
from tools.benchmarks.runner import (
    FDATASYNC_MIN_MS,
    SAMPLE_COUNT_MAX,
    SAMPLE_COUNT_MIN,
    Bench,
    NotMeasured,
    Result,
    Rounds,
    Target,
    count_for,
    measure,
)
from tools.benchmarks.signals import Signals, ready_lines, sha256_of

FAST_DISK_MS = FDATASYNC_MIN_MS / 2
USUAL_DISK_MS = FDATASYNC_MIN_MS * 2


def a_target(**changed: object) -> Target:
    given: dict[str, object] = {
        "id": "B0",
        "what": "this",
        "peer": "that",
        "unit": "/s",
        "mark": 0.7,
        "goal": 0.85,
        "run": lambda bench: Rounds(ours=(1.0,) * 5, peer=(2.0,) * 5),
    }
    return Target(**(given | changed))  # type: ignore[arg-type]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.benchmarks", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_both_sides_run_in_each_round_and_take_turns_at_being_first(tmp_path: Path) -> None:
    order: list[str] = []
    figures = iter(range(1, 100))

    def ours() -> float:
        order.append("ours")
        return next(figures)

    def peer() -> float:
        order.append("peer")
        return next(figures)

    rounds = Bench(dir=tmp_path).alternate(ours, peer, rounds=3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert rounds == Rounds(ours=(1, 4, 5), peer=(2, 3, 6))


@pytest.mark.parametrize("quick", [False, True])
def test_a_run_has_at_least_five_rounds(tmp_path: Path, quick: bool) -> None:
    rounds = Bench(dir=tmp_path, quick=quick).alternate(lambda: 1.0, lambda: 1.0)
    assert len(rounds.ours) == len(rounds.peer) >= 5


def test_a_side_against_itself_is_measured_as_often_as_any(tmp_path: Path) -> None:
    def side() -> float:
        return 1.0

    assert Bench(dir=tmp_path).alternate(side, side, rounds=5).ours == (1.0,) * 5


def test_a_sample_has_as_many_operations_as_fill_its_time(tmp_path: Path) -> None:
    counts: list[int] = []

    def work(count: int) -> float:
        counts.append(count)
        return count / 10_000  # a side that does 10,000 a second

    bench = Bench(dir=tmp_path)
    rate = bench.rate(work)
    assert rate() == pytest.approx(10_000)
    assert counts[-1] == pytest.approx(10_000 * bench.sample_s, rel=0.01)
    assert bench.rate(work, step=1_000)() == pytest.approx(10_000)
    assert counts[-1] % 1_000 == 0


def test_a_sample_is_smaller_when_the_machine_becomes_slower(tmp_path: Path) -> None:
    speed, took_s = 100_000.0, 0.0

    def work(count: int) -> float:
        nonlocal took_s
        took_s = count / speed
        return took_s

    bench = Bench(dir=tmp_path)
    rate = bench.rate(work)
    speed = 1_000.0
    rate()
    assert took_s > 10 * bench.sample_s
    rate()
    assert took_s == pytest.approx(bench.sample_s, rel=0.01)


def test_a_sample_has_a_minimum_and_a_maximum_of_operations() -> None:
    assert count_for(1, 60.0, 0.5) == SAMPLE_COUNT_MIN
    assert count_for(1_000, 0.0, 0.5) == SAMPLE_COUNT_MAX


def test_a_result_is_the_median_of_the_ratios_of_all_rounds() -> None:
    # The machine was ten times slower in two rounds, and one side was disturbed in another.
    rounds = Rounds(ours=(80, 8, 7, 1, 90), peer=(100, 10, 10, 90, 100))
    result = Result(target=a_target(), rounds=rounds)
    assert (result.ours, result.peer, result.ratio) == (8, 90, 0.8)
    assert rounds.ratio_half == (0.7, 0.8)
    assert result.verdict == "mark"


@pytest.mark.parametrize(
    ("better", "of", "ours", "verdict"),
    [
        ("higher", "ratio", 17.0, "goal"),
        ("higher", "ratio", 14.0, "mark"),
        ("higher", "ratio", 13.9, "missed"),
        ("lower", "ratio", 13.9, "goal"),
        ("lower", "ratio", 17.1, "missed"),
        ("higher", "ours", 0.8, "mark"),
        ("lower", "ours", 0.8, "goal"),
    ],
)
def test_a_bound_holds_a_ratio_or_a_figure_from_above_or_below(
    better: str, of: str, ours: float, verdict: str
) -> None:
    bounds = {"mark": 0.7, "goal": 0.85} if better == "higher" else {"mark": 0.85, "goal": 0.8}
    target = a_target(better=better, of=of, **bounds)
    rounds = Rounds(ours=(ours,) * 5, peer=(20.0,) * 5)
    assert Result(target=target, rounds=rounds).verdict == verdict


def test_a_target_that_cannot_be_measured_is_a_row_with_the_reason(tmp_path: Path) -> None:
    def missing(_: Bench) -> Rounds:
        raise NotMeasured("nats-server is not installed")

    result = measure(a_target(run=missing), Bench(dir=tmp_path), lambda: USUAL_DISK_MS)
    assert result.verdict == "not measured"
    assert "B0: nats-server is not installed" in report.table([result], {})


def test_the_disk_is_rated_by_the_lower_of_its_times_before_and_after(tmp_path: Path) -> None:
    times_ms = iter([0.4, 0.1])
    assert measure(a_target(), Bench(dir=tmp_path), lambda: next(times_ms)).fdatasync_ms == 0.1


def test_append_targets_are_informative_only_on_a_disk_that_syncs_fast() -> None:
    rounds = Rounds(ours=(1.0,) * 5, peer=(1.0,) * 5)
    appends = a_target(about_appends=True)
    fast = Result(target=appends, rounds=rounds, fdatasync_ms=FAST_DISK_MS)
    usual = Result(target=appends, rounds=rounds, fdatasync_ms=USUAL_DISK_MS)
    other = Result(target=a_target(), rounds=rounds, fdatasync_ms=FAST_DISK_MS)
    assert "(goal) informative" in report.table([fast], {})
    assert "informative" not in report.table([usual], {})
    assert "(goal)" not in report.table([other], {})


def test_each_target_is_listed_once_and_each_goal_is_stricter_than_its_target() -> None:
    names = [target.id for target in targets.TARGETS]
    assert len(names) == len(set(names))
    for target in targets.TARGETS:
        assert target.reaches(target.goal, target.mark), target.id


def test_targets_and_goals_are_the_agreed_ones() -> None:
    """A changed bound must be changed here too, so that none is relaxed by accident."""
    assert {row.id: (row.mark, row.goal) for row in targets.TARGETS} == {
        "B1": (0.7, 0.85),
        "B2": (6, 10),
        "B3": (6, 10),
        "B4": (1.1, 1.4),
        "B5": (10, 18),
        "B6": (0.6, 1),
        "B7": (1, 2.5),
        "B8": (3, 8),
        "B9": (0.25, 0.7),
        "B10": (1, 2.5),
        "B11-p50": (10, 3),
        "B11-p99": (50, 15),
        "B12": (0.8, 0.95),
        "B13": (1.1, 1.02),
        "B13-open": (100, 30),
        "B14": (12, 10.5),
        "B14-memory": (300, 200),
        "B15-help": (3, 2),
        "B15-status": (3, 2),
        "B15-wakeups": (60, 55),
        "B15-idle": (0.3, 0.2),
        "B15-homes": (0.3, 0.2),
        "B15-lone": (25, 23),
        "B15-load": (300, 271),
        "B16-paint": (500, 200),
        "B16-page": (50, 10),
        "B17-row": (250, 100),
        "B17-memory": (300, 150),
        "B17-idle": (40, 40),
        "B18": (0.4, 0.7),
        "B18-batch": (2, 1.5),
        "B19": (0.7, 0.9),
        "B20-50": (20, 10),
        "B20-500": (20, 10),
        "B21-append": (1.2, 1.05),
        "B21-catch-up": (0.5, 0.8),
    }


def test_only_selects_targets_by_name_or_by_row() -> None:
    assert [target.id for target in targets.chosen("b5, B1")] == ["B1", "B5"]
    assert [target.id for target in targets.chosen("B13")] == ["B13", "B13-open"]
    assert targets.chosen("") == targets.TARGETS
    with pytest.raises(ValueError, match="no target B99"):
        targets.chosen("B1,B99")


def test_signals_are_realistic_and_the_same_for_both_sides() -> None:
    signals = Signals(seed=3).take(100)
    assert signals == Signals(seed=3).take(100)
    assert signals != Signals(seed=4).take(100)
    assert len({signal["signal_id"] for signal in signals}) == 100
    assert {len(signal) for signal in signals} == {13}


def test_the_log_of_the_console_closes_four_of_five_signals_after_they_were_made(
    tmp_path: Path,
) -> None:
    trading_log.build(tmp_path / "home", 300)
    open_ids: set[object] = set()
    closed = 0
    with EventLog(tmp_path / "home") as log:
        for entry in log.read():
            if entry.event == "signal":
                open_ids.add(entry.payload["signal_id"])
            else:
                open_ids.remove(entry.payload["signal_id"])  # KeyError for one that is not open
                closed += 1
    assert closed + len(open_ids) == 300
    assert 0.7 < closed / 300 < 0.9


def test_the_lines_that_a_bare_file_takes_are_lines_of_the_log() -> None:
    chain = CHAIN_START
    for seq, line in enumerate(ready_lines(Signals().take(20)), start=1):
        assert parse_header(line).seq == seq
        chain = next_chain(chain, line)
        assert decode(line).chain == stored_chain(line) == chain
        assert 550 <= len(line) <= 700


def test_help_names_the_options_and_shows_an_example() -> None:
    done = bench("--help")
    assert done.returncode == 0
    for text in (
        "--only",
        "--quick",
        "--json",
        "--dir",
        "--peers",
        "tools/bench --only B1,B5 --quick",
    ):
        assert text in done.stdout


def test_an_unknown_target_is_refused_with_the_known_names(tmp_path: Path) -> None:
    done = bench("--only", "B99", "--dir", tmp_path)
    assert done.returncode == 2
    assert "there are B1, B2" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_each_save_of_the_event_store_is_one_durable_commit(tmp_path: Path) -> None:
    """B4 compares one durable append with one durable save."""
    peer = SavedAggregates(tmp_path / "peer.db")
    try:
        assert peer.work(3) > 0
    finally:
        peer.close()
    with closing(sqlite3.connect(tmp_path / "peer.db")) as database:
        rows = database.execute("SELECT originator_version, state FROM stored_events").fetchall()
    assert [version for version, _ in rows] == [1, 1, 1]
    for signal, (_, state) in zip(Signals(seed=1).take(3), rows, strict=True):
        fields = json.loads(state)["fields"]
        assert fields == signal | {"sha256": sha256_of(signal)}


# -- the peers of --peers

LIBRARIES = ("open", "open-shared", "logging", "structlog", "sqlite", "eventsourcing")
SERVERS = ("redis", "postgresql", "jetstream")


def ids_kept_by(name: str, where: Path) -> list[str]:
    """The ids of the signals that a peer of this name has in its file."""
    match name:
        case "open" | "open-shared":
            lines = (where / "signals.jsonl").read_text().splitlines()
            return [json.loads(line)["signal_id"] for line in lines]
        case "logging":
            lines = (where / "signals.log").read_text().splitlines()
            return [json.loads(line)["signal_id"] for line in lines]
        case "structlog":
            lines = (where / "signals.log").read_text().splitlines()
            return [json.loads(line)["signal"]["signal_id"] for line in lines]
        case "sqlite":
            path, query = "signals.db", "SELECT signal_id FROM signals ORDER BY id"
        case _:
            path = "events.db"
            query = "SELECT json_extract(CAST(state AS TEXT), '$.signal_id') FROM stored_events"
    with closing(sqlite3.connect(where / path)) as database:
        return [signal_id for (signal_id,) in database.execute(query)]


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_call_of_a_peer_stores_one_signal_whoever_calls(tmp_path: Path, name: str) -> None:
    [peer] = chosen_peers(name)
    signals = Signals().take(3 + PRODUCERS + 1)
    with peer.opened(tmp_path) as callers:
        assert callers.one(signals[:3]) > 0
        assert callers.many(signals[3:]) > 0
    ids = [signal["signal_id"] for signal in signals]
    kept = ids_kept_by(name, tmp_path)
    assert kept[:3] == ids[:3]
    assert sorted(kept) == sorted(map(str, ids))


@pytest.mark.parametrize("name", ["open", "open-shared", "logging", "structlog"])
def test_a_peer_that_is_a_file_syncs_each_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / ("signals.jsonl" if name.startswith("open") else "signals.log")
    lines_at_sync: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: lines_at_sync.append(file.read_text().count("\n")))
    [peer] = chosen_peers(name)
    with peer.opened(tmp_path) as callers:
        callers.one(Signals().take(3))
    assert lines_at_sync == [1, 2, 3]


def servers_in(where: Path) -> list[str]:
    """The names of the processes that have their files below `where`."""
    found = [p.info for p in psutil.process_iter(["name", "cmdline", "cwd"])]
    texts = [" ".join([info["cwd"] or "", *(info["cmdline"] or [])]) for info in found]
    return [info["name"] for info, text in zip(found, texts, strict=True) if str(where) in text]


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_ends_with_the_measurement(name: str) -> None:
    if name == "redis":
        needs_tool("redis-check-rdb", apt="redis-tools")
    [peer] = chosen_peers(name)
    signals = Signals().take(2 * PRODUCERS)
    # PostgreSQL's own account must be able to pass, and the directories of pytest are private.
    with tempfile.TemporaryDirectory(prefix="bench-test-") as directory:
        where = Path(directory) / "files"
        where.mkdir()
        with peer.opened(where) as callers:
            assert callers.one(signals[:PRODUCERS]) > 0
            assert callers.many(signals[PRODUCERS:]) > 0
            assert servers_in(where)
        assert servers_in(where) == []


def test_peers_are_listed_once_and_selected_by_name() -> None:
    names = [peer.id for peer in PEERS]
    assert names == [*LIBRARIES, *SERVERS]
    assert [peer.id for peer in chosen_peers("Redis, open")] == ["open", "redis"]
    assert chosen_peers("") == PEERS
    with pytest.raises(ValueError, match="no peer b1; there are open, open-shared"):
        chosen_peers("B1")


def test_the_page_describes_each_peer() -> None:
    section = (CHECKOUT / "docs/measured.md").read_text().partition("would pick instead\n\n")[2]
    rows = re.findall(r"^\| `([a-z-]+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert rows == [peer.id for peer in PEERS]


def test_a_peer_that_is_missing_is_a_row_with_the_reason(tmp_path: Path) -> None:
    def missing(_: Path) -> AbstractContextManager[Callers]:
        raise NotMeasured("redis-server is not installed")

    peer = Peer(id="redis", what="XADD", opened=missing)
    result = measure_peer(peer, Bench(dir=tmp_path), lambda: USUAL_DISK_MS)
    table = report.peers_table([result], {}).splitlines()
    assert table[2].split() == ["redis", *["-"] * 8, "XADD"]
    assert table[3] == "redis: redis-server is not installed"
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_peers_has_the_ratio_for_one_thread_and_for_64_producers() -> None:
    one = Rounds(ours=(8.0,) * 5, peer=(10.0,) * 5)
    many = Rounds(ours=(900.0,) * 5, peer=(100.0,) * 5)
    peer = Peer(id="open", what="write", opened=PEERS[0].opened)
    result = PeerResult(peer=peer, one=one, many=many, fdatasync_ms=USUAL_DISK_MS)
    row = report.peers_table([result], {}).splitlines()[2].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == [
        *("open", "8 /s", "10 /s", "0.80", "0.80-0.80"),
        *("900 /s", "100 /s", "9.00", "9.00-9.00", "write"),
    ]


@pytest.mark.slow
def test_a_peer_runs_end_to_end_and_leaves_nothing_behind(tmp_path: Path) -> None:
    files = tmp_path / "files"
    arguments = ("--peers", "--only", "open", "--quick", "--dir", files)
    done = bench(*arguments, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("open ")
    assert list(files.iterdir()) == []
    found = json.loads((tmp_path / "found.json").read_text())
    [peer] = found["peers"]
    for side in ("one_thread", "producers"):
        assert peer[side]["ratio"] > 0
        assert len(peer[side]["rounds"]["ours"]) == len(peer[side]["rounds"]["peer"]) >= 5


@pytest.mark.slow
def test_a_target_runs_end_to_end_and_leaves_nothing_behind(tmp_path: Path) -> None:
    files = tmp_path / "files"
    done = bench("--only", "B1", "--quick", "--dir", files, "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("B1 ")
    assert "\x1b" not in done.stdout + done.stderr
    assert list(files.iterdir()) == []
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"marks", "versions", "fdatasync_ms"} <= found.keys()
    assert {"python", "orjson", "file_system"} <= found["versions"].keys()
    [mark] = found["marks"]
    assert {"name", "ours", "peer", "ratio", "mark", "goal"} <= mark.keys()
    assert mark["ratio"] > 0
    assert len(mark["rounds"]["ours"]) >= 5
