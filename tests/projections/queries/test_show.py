"""`show` and `conflicts`: the life of one signal, and the entries that did not fit."""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing as closing_file
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from projections import ProjectionError, signals_table
from projections.delivery.outbox import Outbox, UnsavedChanges, outbox_path
from projections.delivery.outbox_rows import ParkedSignal
from projections.projection import Checkpoint
from projections.queries.conflicts import read_conflicts
from projections.queries.log_lines import NEARBY_ENTRIES, read_lines
from projections.queries.show import show
from projections.queries.sync_store import SyncSignalStore
from projections.rebuild.rebuild import digest_of
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import database_of, raw_entries


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """s-1 is executed, closed wrongly, corrected and closed again; s-2 waits for its signal."""
    home = tmp_path / "home"
    append(home, a_signal(0), a_signal(1, rsi=50.7))
    append(home, {"event": "executed", "signal_id": "s-1", "order_id": "o-1", "fill_price": 151.2})
    append(home, closed(1, exit_price=19200.0))
    append(home, {"event": "voided", "signal_id": "s-1", "voids": 4, "reason": "a typing error"})
    append(home, closed(1, exit_price=192.0))
    append(home, {"event": "skipped", "signal_id": "s-1", "reason": "too late"})
    append(home, closed(2))
    project(home)
    return home


def shown(home: Path, signal_id: str = "s-1") -> Any:
    return json.loads(eventlog("show", signal_id, "--json", home=home).out)


def test_the_life_of_a_signal_has_its_facts_row_lines_and_conflicts(home: Path) -> None:
    found = shown(home)
    entries = {entry.seq: entry for entry in raw_entries(home)}
    assert found["decided_at"] == "2025-11-18T02:00:00.000000+00:00"
    assert found["recorded_at"] == entries[2].recorded_at
    assert [(fact["seq"], fact["event"], fact["state"]) for fact in found["facts"]] == [
        (3, "executed", "executed"),
        (4, "closed", "closed"),
        (5, "voided", "executed"),
        (6, "closed", "closed"),
    ]
    assert [fact["voided_by"] for fact in found["facts"]] == [None, 5, None, None]
    assert found["facts"][0]["detail"] == {"fill_price": 151.2, "order_id": "o-1"}
    assert (found["row"]["exit_price"], found["row"]["state"]) == (192.0, "closed")
    assert (found["row"]["extra"], found["row"]["fill_price"]) == ({"rsi": 50.7}, 151.2)
    assert found["conflicts"] == [{"seq": 7, "reason": "illegal move closed -> skipped"}]
    lines = [line.decode().rstrip("\n") for line in lines_in(home)]
    assert found["lines"] == [{"seq": n, "line": lines[n - 1]} for n in range(2, 8)]
    assert (found["held"], found["alpine"]["state"]) == ([], "disabled")
    assert (found["checkpoint"], found["last_seq"]) == (8, 8)


def test_a_delay_is_the_time_from_the_decision_to_the_recording(home: Path) -> None:
    found = shown(home)
    decided = seconds(found["decided_at"])
    assert found["delay_s"] == pytest.approx(seconds(found["recorded_at"]) - decided)
    for fact in found["facts"]:
        assert fact["delay_s"] == pytest.approx(seconds(fact["recorded_at"]) - decided)
    text = eventlog("show", "s-1", home=home).out.decode()
    assert re.search(r"recorded  2\S+  \+\d+ d \d+ h", text)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_people_see_the_same_in_sections(home: Path) -> None:
    lines = eventlog("show", "s-1", home=home).out.decode().splitlines()
    headings = [line for line in lines if not line.startswith(" ")]
    assert headings == ["signal s-1", "facts", "row", "alpine", "conflicts", "lines"]
    (voided,) = (line for line in lines if "voided by 5" in line)
    assert "exit_price=19200.0" in voided
    assert "  7  illegal move closed -> skipped" in lines


def test_people_see_lists_and_objects_as_json(tmp_path: Path) -> None:
    append(tmp_path, a_signal(1, note={"ok": True, "levels": [1, None]}))
    append(tmp_path, {"event": "skipped", "signal_id": "s-1", "reason": "r", "why": [False]})
    project(tmp_path)
    text = eventlog("show", "s-1", home=tmp_path).out.decode()
    assert '{"note":{"ok":true,"levels":[1,null]}}' in text
    assert "why=[false]" in text


def test_a_signal_that_is_not_there_is_exit_code_1_with_what_was_searched(home: Path) -> None:
    done = eventlog("show", "s-9", home=home)
    assert (done.code, done.err) == (1, "there is no signal s-9 among the first 8 entries\n")
    append(home, a_signal(9))
    done = eventlog("show", "s-9", "--json", home=home)
    assert done.code == 1
    assert "the log has 1 more, which `eventlog project sqlite --once` brings in" in done.err
    assert json.loads(done.out)["row"] is None
    project(home)
    assert eventlog("show", "s-9", home=home).code == 0


def test_a_fact_that_waits_for_its_signal_is_shown_as_held(home: Path) -> None:
    done = eventlog("show", "s-2", home=home)
    assert done.code == 1
    assert "held until the signal arrives" in done.out.decode()
    found = shown(home, "s-2")
    assert [(fact["seq"], fact["event"]) for fact in found["held"]] == [(8, "closed")]
    assert found["held"][0]["delay_s"] is None
    assert found["conflicts"] == [{"seq": 8, "reason": "no such signal yet"}]
    assert [line["seq"] for line in found["lines"]] == [8]
    append(home, a_signal(2))
    project(home)
    found = shown(home, "s-2")
    assert (found["held"], found["conflicts"]) == ([], [])
    assert [fact["event"] for fact in found["facts"]] == ["closed"]


def test_the_state_at_alpine_is_delivered_parked_pending_or_disabled(home: Path) -> None:
    assert not outbox_path(home).exists()
    assert show(home, "s-1").alpine == {"state": "pending"}
    assert not outbox_path(home).exists(), "a read creates nothing"
    assert show(home, "s-1", disabled="no address").alpine == {
        "state": "disabled",
        "reason": "no address",
    }
    parked = ParkedSignal(2, "s-1", "refused", 422, "no such symbol", 3, 1.0, 2.0, None)
    with closing_file(Outbox(outbox_path(home))) as outbox:
        checkpoint = Checkpoint(projection="alpine", seq=1, chain="0" * 64)
        outbox.save(checkpoint, [], UnsavedChanges(park={2: parked}), 0)
        assert show(home, "s-0").alpine == {"state": "delivered"}
        assert show(home, "s-1", disabled="no address").alpine == {
            "state": "parked",
            "reason": "refused: HTTP 422: no such symbol",
            "attempts": 3,
        }
        outbox.save(checkpoint, [2], UnsavedChanges(unpark={2}), 0)
        assert show(home, "s-1").alpine == {"state": "delivered"}
    outbox_path(home).write_bytes(b"no database at all" * 100)
    alpine = show(home, "s-1").alpine
    assert alpine is not None
    assert alpine["state"] == "unknown"


def test_conflicts_have_seq_signal_id_reason_and_line(home: Path) -> None:
    lines = [line.decode().rstrip("\n") for line in lines_in(home)]
    found = json.loads(eventlog("conflicts", "--json", home=home).out)
    assert found == [
        {
            "seq": 7,
            "signal_id": "s-1",
            "reason": "illegal move closed -> skipped",
            "line": lines[6],
        },
        {"seq": 8, "signal_id": "s-2", "reason": "no such signal yet", "line": lines[7]},
    ]
    text = eventlog("conflicts", home=home).out.decode().splitlines()
    assert text == [
        *("7  s-1  illegal move closed -> skipped", f"  {lines[6]}"),
        *("8  s-2  no such signal yet", f"  {lines[7]}"),
    ]


def test_a_log_without_conflicts_gives_an_empty_answer(tmp_path: Path) -> None:
    append(tmp_path / "home", a_signal(1))
    project(tmp_path / "home")
    assert eventlog("conflicts", "--json", home=tmp_path / "home").out == b"[]\n"
    assert eventlog("conflicts", home=tmp_path / "home").out == b""


def test_more_conflicts_than_one_read_are_all_listed_in_order(tmp_path: Path) -> None:
    home = tmp_path / "home"
    append(home, *(closed(number, note=f"{number}") for number in range(2_500)))
    append(home, *signals(NEARBY_ENTRIES + 10, start=5_000))
    append(home, closed(3_000))
    project(home)
    found = json.loads(eventlog("conflicts", "--json", home=home).out)
    assert [conflict["seq"] for conflict in found] == [
        *range(1, 2_501),
        2_500 + NEARBY_ENTRIES + 11,
    ]
    lines = [line.decode().rstrip("\n") for line in lines_in(home)]
    assert all(conflict["line"] == lines[conflict["seq"] - 1] for conflict in found)


def test_lines_are_found_by_their_seqs_wherever_they_stand(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with EventLog(home, segment_bytes=20_000) as log:
        log.append_many(signals(3 * NEARBY_ENTRIES))
    lines = [line.decode().rstrip("\n") for line in lines_in(home)]
    seqs = [1, 2, 5, 1_999, 2_000, 2_001, 4_500, 3 * NEARBY_ENTRIES, 3 * NEARBY_ENTRIES + 1]
    found = dict(read_lines(home, seqs))
    assert found == {seq: lines[seq - 1] if seq <= len(lines) else None for seq in seqs}


def test_text_of_the_log_is_shown_escaped(home: Path) -> None:
    append(home, a_signal(5, note="\x1b[2J\u202e", strategy="a\u202eb"))
    append(home, {"event": "skipped", "signal_id": "s-5", "reason": "\u202e\u2028"})
    append(home, {"event": "skipped", "signal_id": "s-5", "reason": "again \u202e"})
    project(home)
    for words in (("show", "s-5"), ("conflicts",)):
        out = eventlog(*words, home=home).out.decode()
        assert all(character.isprintable() for character in out.replace("\n", ""))
    assert shown(home, "s-5")["row"]["extra"]["note"] == "\x1b[2J\u202e"
    done = eventlog("show", "\x1b[2J", home=home)
    assert "\x1b" not in done.err


def test_a_table_that_is_missing_or_damaged_is_reported(home: Path) -> None:
    database_of(home).write_bytes(b"SQLite format 3\0" + b"x" * 5_000)
    for words in (("show", "s-1"), ("conflicts",)):
        done = eventlog(*words, home=home)
        assert (done.code, done.out) == (3, b"")
        assert "rebuild-database" in done.err
    database_of(home).unlink()
    assert "no database yet" in eventlog("conflicts", home=home).err


@pytest.mark.parametrize("is_empty_file", [False, True], ids=["missing", "empty"])
def test_each_query_without_a_table_names_the_commands_that_build_it(
    home: Path, is_empty_file: bool
) -> None:
    database_of(home).unlink()
    if is_empty_file:
        database_of(home).touch()
    queries: tuple[Callable[[], object], ...] = (
        lambda: SyncSignalStore(home).latest(),
        lambda: SyncSignalStore(home).stats(),
        lambda: show(home, "s-1"),
        lambda: list(read_conflicts(home)),
        lambda: digest_of(home),
        lambda: signals_table(home),
    )
    for query in queries:
        with pytest.raises(ProjectionError, match="there is no database yet") as refusal:
            query()
        assert "`eventlog project sqlite --once` or `eventlog rebuild-database`" in refusal.value.do


def test_values_that_another_program_wrote_cause_no_traceback(home: Path) -> None:
    with closing_file(sqlite3.connect(database_of(home))) as db, db:
        db.execute("UPDATE lifecycle SET detail = '[', recorded_at = 'x' WHERE seq = 6")
    for words in (("show", "s-1"), ("signals",), ("stats",), ("export",)):
        done = eventlog(*words, home=home)
        assert (done.code, "Traceback" in done.err) == (3, False), done.err
