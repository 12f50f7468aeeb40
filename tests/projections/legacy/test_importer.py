"""`import-legacy` imports the files of the old tracker; a repeated import adds nothing twice."""

import json
import random
import sqlite3
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import COMMAND, Done, eventlog
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import assert_valid_log, entries_in, tree_contents
from tests.harness.read_side import append, project
from tests.harness.requirements import TEST_DATA
from tests.harness.signals import a_signal
from tests.harness.tables import assert_caught_up, read_tables

HASHED_FIELDS = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "timestamp"),
)
TABLE = """CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, signal_id TEXT UNIQUE NOT NULL, symbol TEXT NOT NULL,
    action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL NOT NULL,
    stop_price REAL NOT NULL, confidence REAL NOT NULL, strategy TEXT NOT NULL,
    asset_type TEXT NOT NULL, data_source TEXT DEFAULT 'weighted_consensus',
    timestamp TEXT NOT NULL, outcome TEXT DEFAULT NULL, exit_price REAL DEFAULT NULL,
    profit_loss_pct REAL DEFAULT NULL, sha256 TEXT NOT NULL, order_id TEXT DEFAULT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP)"""
Fields = dict[str, Any]


def hashed(fields: Mapping[str, Any]) -> str:
    """The old tracker's hash: the nine fields as received, without missing ones."""
    nine = {key: fields[key] for key in HASHED_FIELDS if key in fields}
    return sha256(json.dumps(nine, sort_keys=True).encode()).hexdigest()


def line(number: int = 1, **changes: Any) -> Fields:
    """A line of the old log; a value of ... leaves the key out."""
    fields = {
        "signal_id": f"old-{number}",
        "symbol": "AAPL",
        "action": "BUY",
        "entry_price": 100,  # an int, as received
        "target_price": 110.5,
        "stop_price": 95.25,
        "confidence": 88.5,
        "strategy": "weighted_consensus_v6",
        "timestamp": "2025-11-18T02:00:00.098702",  # no offset
        "asset_type": "stock",
        "data_source": "weighted_consensus",
        "server_timestamp": 1763431200.25 + number,
        "generation_latency_ms": 0,
        **changes,
    }
    fields = {key: value for key, value in fields.items() if value is not ...}
    return {"sha256": hashed(fields), **fields}


def row(number: int = 1, **changes: Any) -> Fields:
    """A row of the old table: like the line, but SQLite has stored the numbers as floats."""
    came = line(number, server_timestamp=..., generation_latency_ms=...)
    return {**came, "created_at": "2025-11-18 02:00:01", **changes}


class LegacyHome:
    """A home of the old tracker."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.log, self.db = folder / "signals.log", folder / "signals.db"
        self.rejects = folder.parent / "rejects.jsonl"

    def lines(self, *lines: Fields | bytes) -> "LegacyHome":
        data = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines]
        self.log.write_bytes(b"\n".join([*data, b""]))
        return self

    def rows(self, *rows: Fields, wal: bool = False) -> "LegacyHome":
        with closing(sqlite3.connect(self.db)) as db:
            if wal:
                db.execute("PRAGMA journal_mode = WAL")
            db.execute(TABLE)
            for fields in rows:
                places = ", ".join("?" * len(fields))
                statement = f"INSERT INTO signals({', '.join(fields)}) VALUES ({places})"
                db.execute(statement, tuple(fields.values()))
            db.commit()
        return self

    def words(self) -> list[object]:
        words: list[object] = ["import-legacy", "--rejects", self.rejects]
        words += ["--log", self.log] if self.log.exists() else []
        return words + (["--db", self.db] if self.db.exists() else [])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def old(tmp_path: Path) -> LegacyHome:
    return LegacyHome(tmp_path / "old")


def run_import(old: LegacyHome, home: Path) -> Fields:
    """Imports twice, checks that the second import changes nothing, returns the first report."""
    source = tree_contents(old.folder)
    done = eventlog(*old.words(), "--json", home=home)
    assert done.code == (1 if report(done)["refused_count"] else 0), done.err
    assert tree_contents(old.folder) == source
    log = entries_in(home) if (home / "logs").exists() else []
    again = report(eventlog(*old.words(), "--json", home=home))
    first = report(done)
    for kind in ("signals", "facts"):
        assert again[kind]["imported"] == 0
        assert again[kind]["known"] == first[kind]["imported"] + first[kind]["known"]
    assert again["refused"] == first["refused"]
    assert (entries_in(home) if (home / "logs").exists() else []) == log
    return first


def report(done: Done) -> Fields:
    (found,) = done.answers
    return found


def payloads(home: Path) -> list[tuple[str, Fields]]:
    """The event and payload of each entry, without the keys that the log adds."""
    return [
        (entry["event"], {key: value for key, value in entry.items() if key not in ADDED})
        for entry in assert_valid_log(home)
    ]


ADDED = {"v", "seq", "batch", "recorded_at", "event", "chain", "sha256"}


def rejected(old: LegacyHome) -> list[bytes]:
    return old.rejects.read_bytes().splitlines()


# -- the sample home of the old tracker


def test_the_sample_legacy_home_is_imported(home: Path, tmp_path: Path) -> None:
    legacy = TEST_DATA / "legacy"
    before = tree_contents(legacy)
    rejects = tmp_path / "rejects"
    words = ["--log", legacy / "signals.log", "--db", legacy / "signals.db", "--rejects", rejects]
    done = eventlog("import-legacy", *words, "--json", home=home)
    assert done.code == 1
    found = report(done)
    lines, torn = read_lines(legacy / "signals.log")
    with closing(sqlite3.connect(f"file:{legacy}/signals.db?mode=ro&immutable=1", uri=True)) as db:
        db.row_factory = sqlite3.Row
        rows = {each["signal_id"]: dict(each) for each in db.execute("SELECT * FROM signals")}
    assert (len(lines), len(torn), len(rows)) == (120, 1, 116)
    lost = rows.pop("db-only-0001")
    closed = [each for each in rows.values() if each["outcome"]]
    executed = [each for each in rows.values() if each["order_id"]]
    assert found["signals"] == {"imported": 120, "known": 1}  # one line is repeated
    assert found["facts"]["imported"] == len(closed) + len(executed)
    assert [each["where"] for each in found["refused"]] == ["line 122", "row 121"]
    assert rejects.read_bytes().splitlines()[0] == torn[0]
    assert json.loads(rejects.read_bytes().splitlines()[1]) == lost

    project(home)
    assert_caught_up(home)
    tables, _ = read_tables(home)
    assert tables.conflicts == []
    assert {each[1] for each in tables.signals} == set(lines)
    for each in tables.signals:
        check_row(each, lines[each[1]], rows.get(each[1]))
    signals = [payload for event, payload in payloads(home) if event == "signal"]
    for payload in signals:
        assert payload["legacy_sha256"] == lines[payload["signal_id"]]["sha256"]
        moment = datetime.fromisoformat(payload["legacy_recorded_at"])
        came_s = lines[payload["signal_id"]]["server_timestamp"]
        assert abs(moment.timestamp() - came_s) < 1e-5

    log = tree_contents(home / "logs")
    again = report(eventlog("import-legacy", *words, "--json", home=home))
    assert again["signals"] == {"imported": 0, "known": 121}
    assert tree_contents(home / "logs") == log
    assert tree_contents(legacy) == before


def read_lines(path: Path) -> tuple[dict[str, Fields], list[bytes]]:
    found, torn = {}, []
    for raw in path.read_bytes().splitlines():
        try:
            fields = json.loads(raw)
            found[fields["signal_id"]] = fields
        except ValueError:
            torn.append(raw)
    return found, torn


def check_row(ours: Sequence[Any], came: Fields, theirs: Fields | None) -> None:
    """Compares a row of our table with the old line, and with the old row if there is one."""
    _, _, symbol, action, *prices, confidence, strategy = ours[:9]
    assert [symbol, action] == [came["symbol"], came["action"]]
    assert prices == [came["entry_price"], came["target_price"], came["stop_price"]]
    assert (confidence, strategy) == (came["confidence"], came["strategy"])
    moment = datetime.fromisoformat(came["timestamp"])
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    assert datetime.fromisoformat(ours[11]) == moment
    if theirs is None:
        assert list(ours[12:15]) == [None, None, None]
    else:
        keys = ("outcome", "exit_price", "profit_loss_pct")
        assert list(ours[12:15]) == [theirs[key] for key in keys]
        assert ours[16] == theirs["order_id"]
        assert ours[9] == theirs["asset_type"]


# -- special cases


def the_signal(home: Path) -> Fields:
    """The only signal of the log."""
    ((_, payload),) = [each for each in payloads(home) if each[0] == "signal"]
    return payload


def test_a_line_is_imported_with_floats_and_utc_time(home: Path, old: LegacyHome) -> None:
    came = line(1, regime="TRENDING")
    found = run_import(old.lines(came), home)
    assert found == {
        "signals": {"imported": 1, "known": 0},
        "facts": {"imported": 0, "known": 0},
        "refused_count": 0,
        "refused": [],
    }
    assert the_signal(home) == {
        "signal_id": "old-1",
        "symbol": "AAPL",
        "action": "BUY",
        "entry_price": 100.0,
        "target_price": 110.5,
        "stop_price": 95.25,
        "confidence": 88.5,
        "strategy": "weighted_consensus_v6",
        "asset_type": "stock",
        "data_source": "weighted_consensus",
        "timestamp": "2025-11-18T02:00:00.098702+00:00",
        "generation_latency_ms": 0,
        "regime": "TRENDING",
        "legacy_sha256": came["sha256"],
        "legacy_recorded_at": "2025-11-18T02:00:01.250000+00:00",
    }
    assert old.rejects.read_bytes() == b""


@pytest.mark.parametrize("left_out", ["asset_type", "data_source", "timestamp", "server_timestamp"])
def test_missing_fields_are_left_out_of_the_hash_and_filled_in(
    home: Path, old: LegacyHome, left_out: str
) -> None:
    run_import(old.lines(line(1, **{left_out: ...})), home)
    payload = the_signal(home)
    assert payload.get("asset_type") == ("unknown" if left_out == "asset_type" else "stock")
    assert ("legacy_recorded_at" in payload) == (left_out != "server_timestamp")


@pytest.mark.parametrize(
    "given",
    [
        "2025-11-18T02:00:00",
        "2025-11-18T02:00:00.0000009",
        "2025-11-18T02:00Z",
        "2025-11-18T02:00:00+0000",
        "2025-11-17T21:00:00-05",
        "2025-11-18T02:00:00.000000999Z",
    ],
)
def test_a_time_of_any_iso_form_is_imported(home: Path, old: LegacyHome, given: str) -> None:
    """The old tracker took each of them."""
    run_import(old.lines(line(1, timestamp=given)), home)
    assert the_signal(home)["timestamp"] == "2025-11-18T02:00:00.000000+00:00"


@pytest.mark.parametrize(
    ("created_at", "timestamp"),
    [
        ("2025-11-18 02:00:03", "2025-11-18T02:00:03.000000+00:00"),
        (
            "2025-11-18T02:00+00:00",
            "2025-11-18T02:00:00.000000+00:00",
        ),  # validation requires seconds
        ("2025-11-18T02:00:03.123456789Z", "2025-11-18T02:00:03.123456+00:00"),  # and six digits
        ("0001-01-01T00:00:00+05:00", None),  # no year in UTC
        ("once", None),
    ],
)
def test_a_signal_without_timestamp_gets_the_recording_time_of_the_old_tracker(
    home: Path, old: LegacyHome, created_at: str, timestamp: str | None
) -> None:
    """The time of the import is used only if no other time is known."""
    took = line(1, timestamp=...)
    came = line(2, timestamp=..., server_timestamp=..., created_at=created_at)
    run_import(old.lines(took, came), home)
    (_, first), (_, second) = payloads(home)
    assert first["timestamp"] == "2025-11-18T02:00:01.250000+00:00"
    assert timestamp in (second["timestamp"], None)


def test_the_row_supplies_fields_missing_in_the_line(home: Path, old: LegacyHome) -> None:
    came = line(1, asset_type=..., server_timestamp=...)
    there = row(1, asset_type="crypto", outcome="win", exit_price=111.0, profit_loss_pct=11.0)
    there |= {"order_id": "o-1", "sha256": came["sha256"]}
    found = run_import(old.lines(came).rows(there), home)
    assert found["facts"]["imported"] == 2
    signal_, executed, closed = payloads(home)
    assert signal_[1]["asset_type"] == "crypto"
    assert signal_[1]["legacy_recorded_at"] == "2025-11-18T02:00:01+00:00"
    assert executed == ("executed", {"signal_id": "old-1", "order_id": "o-1"})
    assert closed[0] == "closed"
    assert closed[1] == {
        "signal_id": "old-1",
        "exit_price": 111.0,
        "outcome": "win",
        "profit_loss_pct": 11.0,
    }


def test_a_null_in_a_line_counts_as_missing(home: Path, old: LegacyHome) -> None:
    came = line(1, asset_type=None, outcome=None, exit_price=None, order_id=None)
    there = row(1, asset_type="crypto", outcome="win", exit_price=111.0, order_id="o-1")
    there["sha256"] = came["sha256"]
    assert run_import(old.lines(came).rows(there), home)["facts"]["imported"] == 2
    assert the_signal(home)["asset_type"] == "crypto"


def test_the_line_takes_precedence_over_a_differing_row(home: Path, old: LegacyHome) -> None:
    came = line(1)
    there = row(1, entry_price=999.0, strategy="edited", sha256=came["sha256"])
    run_import(old.lines(came).rows(there), home)
    payload = the_signal(home)
    assert (payload["entry_price"], payload["strategy"]) == (100.0, "weighted_consensus_v6")


def test_a_row_without_a_line_is_imported_if_its_hash_matches(home: Path, old: LegacyHome) -> None:
    """The hash was made from ints, which SQLite has stored as floats."""
    whole = line(2, entry_price=100, target_price=110, stop_price=95, confidence=88)
    there = {**row(2), **{key: float(whole[key]) for key in ("target_price", "stop_price")}}
    there |= {"confidence": 88.0, "sha256": whole["sha256"]}
    found = run_import(old.rows(row(1), there), home)
    assert found["signals"]["imported"] == 2
    assert [payload["entry_price"] for _, payload in payloads(home)] == [100.0, 100.0]


def test_a_line_without_a_row_is_imported_without_an_outcome(home: Path, old: LegacyHome) -> None:
    found = run_import(old.lines(line(1), line(2)).rows(row(2, order_id="o")), home)
    assert found["signals"]["imported"] == 2
    assert [event for event, _ in payloads(home)] == ["signal", "signal", "executed"]


@pytest.mark.parametrize("outcome", ["win", "WIN", "Loss", "EXPIRED"])
def test_outcomes_are_imported_in_any_letter_case(
    home: Path, old: LegacyHome, outcome: str
) -> None:
    run_import(old.rows(row(1, outcome=outcome, exit_price=101.0)), home)
    assert payloads(home)[1][1]["outcome"] == outcome.lower()


def test_an_outcome_given_only_in_the_line_is_imported(home: Path, old: LegacyHome) -> None:
    came = line(1)
    run_import(old.lines({**came, "outcome": "loss", "exit_price": 90, "order_id": 77}), home)
    assert [event for event, _ in payloads(home)] == ["signal", "executed", "closed"]
    assert payloads(home)[1][1]["order_id"] == "77"
    assert "exit_price" not in the_signal(home)


REFUSED: dict[str, tuple[Any, str]] = {
    "torn": (b'{"signal_id": "old-1", "symb', "is not a JSON object"),
    "no object": (b"[1, 2]", "is not a JSON object"),
    "no UTF-8": (b'{"symbol": "\xff"}', "is not a JSON object"),
    "deep": (b"[" * 100_000, "is not a JSON object"),
    "a wrong hash": ({**line(1), "entry_price": 101}, "sha256 does not match"),
    "a hash that is none": ({**line(1), "sha256": 7}, "sha256 does not match"),
    "no signal_id": (line(1, signal_id=...), "signal_id is missing"),
    "a bad price": (line(1, entry_price=-1), "entry_price must be > 0"),
    "a fraction": (line(1, confidence=0.85), "did you mean 85"),
    "no price": (line(1, entry_price=...), "entry_price is missing"),
    "a price in words": (line(1, entry_price="100"), "entry_price"),
    "not a time": (line(1, timestamp="yesterday"), "timestamp"),
    "a second past the minute": (line(1, timestamp="2025-11-18T02:00:60"), "timestamp"),
    "not a number": (json.dumps(line(1, entry_price=float("nan"))).encode(), "entry_price"),
    "an event": (line(1, event="closed"), "event"),
    "a key of ours": (line(1, seq=7), "seq"),
}


def test_all_invalid_records_go_to_the_rejects_in_one_run(home: Path, old: LegacyHome) -> None:
    bads, whys = zip(*REFUSED.values(), strict=True)
    found = run_import(old.lines(line(8), *bads, line(9)), home)
    assert found["signals"]["imported"] == 2
    pairs = zip(found["refused"], whys, strict=True)
    for number, (refused, why) in enumerate(pairs, start=2):
        assert refused["where"] == f"line {number}"
        assert why in refused["reason"]
    wanted = [bad if isinstance(bad, bytes) else json.dumps(bad).encode() for bad in bads]
    assert rejected(old) == wanted
    assert [payload["signal_id"] for _, payload in payloads(home)] == ["old-8", "old-9"]


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "why"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_line_goes_to_the_rejects_unchanged_and_affects_no_other(
    home: Path, old: LegacyHome, bad: Any, why: str
) -> None:
    found = run_import(old.lines(line(8), bad, line(9)), home)
    assert found["signals"]["imported"] == 2
    (refused,) = found["refused"]
    assert refused["where"] == "line 2"
    assert why in refused["reason"]
    assert rejected(old) == [bad if isinstance(bad, bytes) else json.dumps(bad).encode()]
    assert [payload["signal_id"] for _, payload in payloads(home)] == ["old-8", "old-9"]


OUTCOMES: dict[str, tuple[Fields, str]] = {
    "an outcome without a price": ({"outcome": "win"}, "closed: exit_price is missing"),
    "an unknown outcome": ({"outcome": "maybe", "exit_price": 1}, "closed: outcome"),
    "a price that is no number": ({"outcome": "win", "exit_price": "x"}, "closed: exit_price"),
}


@pytest.mark.parametrize(("changes", "why"), OUTCOMES.values(), ids=OUTCOMES)
def test_an_invalid_outcome_goes_to_the_rejects_and_the_signal_is_imported(
    home: Path, old: LegacyHome, changes: Fields, why: str
) -> None:
    bad = {**line(1), "order_id": "o-1", **changes}
    found = run_import(old.lines(bad, line(2)), home)
    assert [each["where"] for each in found["refused"]] == ["line 1"]
    assert why in found["refused"][0]["reason"]
    assert rejected(old) == [json.dumps(bad).encode()]
    assert [event for event, _ in payloads(home)] == ["signal", "executed", "signal"]


def test_an_invalid_row_goes_to_the_rejects_as_json(home: Path, old: LegacyHome) -> None:
    bad = row(1, sha256="0" * 64)
    blob = row(2, strategy=b"\x80\x00")  # SQLite stores any type in any column
    found = run_import(old.rows(bad, blob, row(3)), home)
    assert [each["where"] for each in found["refused"]] == ["row 1", "row 2"]
    assert json.loads(rejected(old)[0])["sha256"] == "0" * 64
    assert json.loads(rejected(old)[1])["signal_id"] == "old-2"
    assert found["signals"]["imported"] == 1


def test_a_repeated_line_is_imported_once(home: Path, old: LegacyHome) -> None:
    found = run_import(old.lines(line(1), line(2), line(1), b"", b"  ", line(2)), home)
    assert found["signals"] == {"imported": 2, "known": 2}


def test_another_signal_under_the_same_id_is_refused(home: Path, old: LegacyHome) -> None:
    other = line(1, entry_price=50)
    found = run_import(old.lines(line(1), other), home)
    assert found["signals"]["imported"] == 1
    assert "old-1 belongs to another signal" in found["refused"][0]["reason"]
    assert rejected(old) == [json.dumps(other).encode()]


def test_rows_still_in_the_wal_of_the_old_tracker_are_imported(home: Path, old: LegacyHome) -> None:
    old.rows(row(1), wal=True)
    db = sqlite3.connect(old.db, isolation_level=None)
    db.execute(
        "INSERT INTO signals SELECT 2, 'x', symbol, action, entry_price, target_price,"
        " stop_price, confidence, strategy, asset_type, data_source, timestamp, NULL, NULL,"
        " NULL, ?, 'o-2', created_at FROM signals",
        (hashed({**line(1), "signal_id": "x"}),),
    )
    assert Path(f"{old.db}-wal").stat().st_size
    found = report(eventlog(*old.words(), "--json", home=home))
    db.close()
    assert (found["signals"]["imported"], found["facts"]["imported"]) == (2, 1)


def test_a_wal_mode_database_without_a_wal_file_is_not_changed(home: Path, old: LegacyHome) -> None:
    assert run_import(old.rows(row(1), wal=True), home)["signals"]["imported"] == 1
    assert [path.name for path in old.folder.iterdir()] == ["signals.db"]


def test_lines_and_rows_may_be_imported_in_separate_runs(home: Path, old: LegacyHome) -> None:
    run_import(old.lines(line(1), line(2)), home)
    lines = old.log.read_bytes()
    old.log.unlink()
    rows = [row(1, order_id="o-1"), row(2, outcome="win", exit_price=111.0), row(3)]
    found = report(eventlog(*old.rows(*rows).words(), "--json", home=home))
    assert found["signals"] == {"imported": 1, "known": 2}
    assert found["facts"] == {"imported": 2, "known": 0}
    old.log.write_bytes(lines)
    assert run_import(old, home)["signals"] == {"imported": 0, "known": 3}


def test_rejected_lines_can_be_fixed_and_imported(home: Path, old: LegacyHome) -> None:
    bad_row = row(3, outcome="win")  # no exit_price
    old.lines(line(1, entry_price=-1), {**line(2), "outcome": "win"}).rows(bad_row)
    assert run_import(old, home)["refused_count"] == 3
    corrected = []
    for raw in rejected(old):
        fields = json.loads(raw)
        if fields["entry_price"] == -1:
            fields["entry_price"] = 100
            del fields["sha256"]  # it is the hash of the old values
        else:
            fields["exit_price"] = 111.0
        corrected.append(fields)
    again = LegacyHome(home.parent / "corrected")
    again.rejects = home.parent / "rejects-2.jsonl"
    found = run_import(again.lines(*corrected), home)
    assert found["signals"] == {"imported": 1, "known": 2}
    assert (found["facts"]["imported"], found["refused_count"]) == (2, 0)
    project(home)
    outcomes = {each[1]: each[12] for each in read_tables(home)[0].signals}
    assert outcomes == {"old-1": None, "old-2": "win", "old-3": "win"}


def test_the_rejects_may_not_be_the_file_that_is_read(home: Path, old: LegacyHome) -> None:
    old.lines(line(1), b"torn")
    before = old.log.read_bytes()
    done = eventlog("import-legacy", "--log", old.log, "--rejects", old.log, home=home)
    assert done.code == 2
    assert old.log.read_bytes() == before
    assert not home.exists()


def test_an_import_into_a_log_with_entries_works(home: Path, old: LegacyHome) -> None:
    append(home, a_signal(1), a_signal(2, signal_id="old-2"))
    found = run_import(old.lines(line(1), line(2)), home)
    assert found["signals"]["imported"] == 1
    assert "old-2 belongs to another signal" in found["refused"][0]["reason"]


def test_a_closed_that_is_already_in_the_log_applies_to_the_signal_that_is_imported(
    home: Path, old: LegacyHome
) -> None:
    signal_id = line(1)["signal_id"]
    append(home, {"event": "closed", "signal_id": signal_id, "exit_price": 200.0})
    project(home)
    assert [said for _, _, said in read_tables(home)[0].conflicts] == ["no such signal yet"]
    old.lines(line(1)).rows(row(1, outcome="LOSS", exit_price=100.0))
    done = eventlog(*old.words(), "--json", home=home)
    assert json.loads(done.out)["facts"] == {"imported": 0, "known": 1}
    project(home)
    assert_caught_up(home)
    tables, _ = read_tables(home)
    assert (tables.signals[0][12:14], tables.conflicts) == (["win", 200.0], [])


def test_it_reports_the_imported_and_the_refused_records(home: Path, old: LegacyHome) -> None:
    old.lines(line(1), b"torn \x1b[31m", line(1, signal_id="\x1b[2J"))
    done = eventlog("import-legacy", "--log", old.log, home=home)
    assert done.code == 1
    text = done.out.decode()
    assert "signals: 1 imported, 0 known" in text
    assert "refused: 2" in text
    assert "line 2: is not a JSON object" in text
    assert "--rejects" in text
    assert "\x1b" not in text
    assert f"created a new log at {home}\n" in done.err
    assert "created" not in eventlog("import-legacy", "--log", old.log, home=home).err


@pytest.mark.parametrize("words", [[], ["--db", "{old}/gone.db"], ["--log", "{old}"]])
def test_wrong_usage_is_reported(home: Path, old: LegacyHome, words: list[str]) -> None:
    done = eventlog("import-legacy", *(word.format(old=old.folder) for word in words), home=home)
    assert done.code == 2
    assert not home.exists()


def test_a_file_that_is_not_a_legacy_database_is_reported(home: Path, old: LegacyHome) -> None:
    old.db.write_bytes(b"no database" * 1000)
    done = eventlog("import-legacy", "--db", old.db, home=home)
    assert done.code == 3
    assert "not a database of the old tracker" in done.err


def test_the_old_home_itself_cannot_be_the_new_one(tmp_path: Path) -> None:
    home = tmp_path / "both"
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "signals.log").write_text(json.dumps(line(1)) + "\n")
    before = tree_contents(home)
    done = eventlog("import-legacy", "--log", home / "logs" / "signals.log", home=home)
    assert done.code == 3
    assert "choose a new home" in done.err
    assert tree_contents(home) == before


# -- interrupted imports


@pytest.mark.slow
def test_an_import_that_is_killed_repeatedly_ends_with_the_same_log(
    home: Path, old: LegacyHome
) -> None:
    rng = random.Random(3)
    old.lines(*(line(n) for n in range(4000)))
    old.rows(
        *(row(n, order_id=f"o-{n}", outcome="win", exit_price=111.0) for n in range(0, 4000, 3))
    )
    whole = home.with_name("whole")
    assert eventlog(*old.words(), home=whole).code == 0
    words = [str(word) for word in (COMMAND, "--home", home, *old.words())]
    kills = 0
    while True:
        before = log_bytes(home)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda b=before, p=process: log_bytes(home) > b or p.poll() is not None)  # type: ignore[misc]
        time.sleep(rng.choice([0.0, 0.002, 0.02]))
        process.kill()
        if process.wait(DEADLINE_S) == 0 or kills > 100:
            break
        kills += 1
    assert kills > 3
    assert eventlog(*old.words(), home=home).code == 0
    assert payloads(home) == payloads(whole)


def log_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "logs").glob("*.jsonl"))
