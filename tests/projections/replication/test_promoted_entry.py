"""The entry `promoted` in a log: everything that reads passes it over."""

import json
import shutil
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog
from tests.harness.console import console
from tests.harness.promotions import promote_alone
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tiny_alpine import tiny_alpine

pytestmark = pytest.mark.slow  # it starts a dozen processes

PROMOTED_SEQ = 4


def append_all(home: Path, *, promoted: bool) -> None:
    """Three signals, a promotion or nothing, then two more signals and two facts."""
    with EventLog(home) as log:
        log.append_many(signals(3))
    if promoted:
        promote_alone(home)
    with EventLog(home) as log:
        log.append_many(signals(2, start=4))
        at = "2025-11-19T02:00:00Z"
        log.append_many([closed(1, closed_at=at), closed(4, exit_price=1.0, closed_at=at)])


def without_seq(found: object) -> object:
    """An answer without what differs between two logs: seqs and times of the log."""
    if isinstance(found, list):
        return [without_seq(each) for each in found]
    if isinstance(found, dict):
        changes = {"id", "seq", "created_at", "recorded_at", "last_updated"}
        return {key: without_seq(found[key]) for key in found if key not in changes}
    return found


def test_whatever_reads_a_log_passes_the_entry_over(tmp_path: Path) -> None:
    home, plain = tmp_path / "home", tmp_path / "plain"
    append_all(home, promoted=True)
    append_all(plain, promoted=False)
    entries = [json.loads(line) for line in eventlog("cat", home=home).out.splitlines()]
    promoted = entries[PROMOTED_SEQ - 1]
    assert [promoted[key] for key in ("seq", "event", "epoch", "host")] == [4, "promoted", 2, "b"]
    assert eventlog("verify", home=home).code == 0
    with tiny_alpine() as alpine:
        for name in ("sqlite", "alpine"):
            done = eventlog("project", name, "--once", home=home, env=alpine.env)
            assert done.code == 0, done.err
        assert sorted(alpine.received) == ["s-1", "s-2", "s-3", "s-4", "s-5"]
    assert eventlog("project", "sqlite", "--once", home=plain).code == 0
    status = eventlog("status", "--json", home=home).answers[0]["projections"]
    for name in ("sqlite", "alpine"):
        assert (status[name]["checkpoint"], status[name]["lag_entries"]) == (8, 0)
    assert (status["sqlite"]["rows"], status["sqlite"]["conflicts"]) == (5, 0)
    digest = eventlog("digest", home=home).out
    assert eventlog("rebuild-database", home=home).code == 0
    assert eventlog("digest", home=home).out == digest
    for words in (("signals", "--json"), ("stats", "--json"), ("export", "--format", "jsonl")):
        found, expected = (eventlog(*words, home=each) for each in (home, plain))
        assert (found.code, found.err) == (expected.code, expected.err)
        assert without_seq(found.answers) == without_seq(expected.answers), words
    tail = eventlog("tail", home=home)
    assert tail.code == 0
    assert "promoted" in tail.out.decode()
    with console(home, "--no-login") as page:
        assert page.get("/api/status")["log"]["last_seq"] == 8
        assert page.get("/api/log")


def test_an_item_of_that_name_is_refused(tmp_path: Path) -> None:
    item = {"event": "promoted", "epoch": 9, "host": "x"}
    stored = {"v": 1, "seq": 7, "batch": 7, "recorded_at": "x", "chain": "0" * 64, **item}
    for words, line in ((("append",), item), (("append", "--stored"), stored)):
        done = eventlog(*words, home=tmp_path, stdin=json.dumps(line).encode())
        assert done.code == 1
        assert "event is reserved for the log (got promoted)" in done.err


def test_stored_lines_are_appended_as_new_entries(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    append_all(home, promoted=False)
    with EventLog(home) as log:
        log.append({"event": "note", "text": "kept", "signal_id": "s-1"})
    with EventLog(other) as log:
        log.append(a_signal(99))
    lines = eventlog("cat", home=home).out
    done = eventlog("append", "--stored", home=other, stdin=lines)
    assert done.code == 0, done.err
    assert [answer["seq"] for answer in done.answers] == list(range(2, 10))
    assert all(answer["duplicate"] for answer in again(other, lines))
    kept = [entry.payload for entry in EventLog(other).read(after=1)]
    assert kept == [entry.payload for entry in EventLog(home).read()]
    refused = eventlog("append", "--stored", "--check", home=other, stdin=lines)
    assert (refused.code, "--check does not work with --stored" in refused.err) == (2, True)


def test_a_void_of_a_stored_fact_is_refused_since_its_seq_means_another_entry(
    tmp_path: Path,
) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    with EventLog(home) as log:
        log.append_many([a_signal(1), closed(1)])
    shutil.copytree(home, other, symlinks=True)
    with EventLog(home) as log:
        log.append({"event": "voided", "signal_id": "s-1", "voids": 2})
        log.append_many([a_signal(2), closed(2)])
        log.append({"event": "voided", "signal_id": "s-2", "voids": 5})
    lines = eventlog("cat", "--after", "2", home=home).out
    done = eventlog("append", "--stored", "--skip-invalid", home=other, stdin=lines)
    assert done.code == 1
    assert [answer.get("duplicate") for answer in done.answers] == [False, False, False, None]
    assert "voids is the seq of a fact in the log that these lines come from (got 5)" in done.err


def again(home: Path, lines: bytes) -> list[dict[str, object]]:
    return eventlog("append", "--stored", home=home, stdin=lines).answers
