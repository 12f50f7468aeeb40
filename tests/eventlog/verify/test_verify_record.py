"""The record of the last verify: written by the command alone, shown while it is of this log."""

import json
import shutil
from pathlib import Path

import pytest

from eventlog import EventLog
from eventlog.verify.log_verifier import FINDINGS_MAX
from eventlog.verify.verify import verify
from eventlog.verify.verify_record import FILE_NAME, last_verify
from tests.harness.command import eventlog
from tests.harness.signals import a_signal, signals


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    with EventLog(path) as log:
        log.append_many([a_signal(1), a_signal(2)])
    return path


def record_of(home: Path) -> Path:
    return home / "data" / FILE_NAME


def test_the_command_notes_what_it_found(home: Path) -> None:
    report = json.loads(eventlog("verify", "--json", home=home).out)
    found = json.loads(record_of(home).read_bytes())
    assert found.pop("at").endswith("Z")
    kept = {key: report[key] for key in ("ok", "last_seq", "chain")}
    assert found == {**kept, "findings": 0}
    shown = last_verify(home)
    assert shown is not None
    assert (shown["ok"], shown["last_seq"]) == (True, 2)


def test_damage_is_noted_with_the_number_of_findings(home: Path) -> None:
    segment = min((home / "logs").glob("0*.jsonl"))
    segment.write_bytes(segment.read_bytes().replace(b"AAPL", b"AAPX", 1))
    assert eventlog("verify", home=home).code == 1
    found = json.loads(record_of(home).read_bytes())
    assert not found["ok"]
    assert found["findings"] >= 1


def test_text_and_record_count_the_findings_that_are_left_out_of_the_list(home: Path) -> None:
    count = FINDINGS_MAX + 50
    with EventLog(home) as log:
        log.append_many(signals(count, start=3))
    segment = min((home / "logs").glob("0*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    changed = [line.replace(b"AAPL", b"AAPX", 1) for line in lines[2:]]
    segment.write_bytes(b"".join([*lines[:2], *changed]))
    done = eventlog("verify", home=home)
    assert f"DAMAGED: {count:,} findings: " in done.out.decode()
    assert json.loads(record_of(home).read_bytes())["findings"] == count


def test_the_function_writes_no_record(home: Path) -> None:
    assert verify(home).ok
    assert not record_of(home).exists()


def test_no_record_is_made_where_there_is_no_data_directory(home: Path) -> None:
    shutil.rmtree(home / "data")
    assert eventlog("verify", home=home).code == 0
    assert not (home / "data").exists()


def test_a_record_counts_only_while_the_log_has_its_entry(home: Path, tmp_path: Path) -> None:
    assert eventlog("verify", home=home).code == 0
    with EventLog(home) as log:
        log.append(a_signal(3))
    assert last_verify(home) is not None  # the log has grown
    other = tmp_path / "other"
    with EventLog(other) as log:
        log.append_many([a_signal(4), a_signal(5), a_signal(6)])
    shutil.copy(record_of(home), record_of(other))
    assert last_verify(other) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"at": 1}', '{"at":"x","ok":1,"last_seq":2,"chain":"c","findings":0}']
)
def test_a_record_of_another_form_is_none(home: Path, text: str) -> None:
    record_of(home).write_text(text)
    assert last_verify(home) is None
