"""A salt is added to each item that has none, and no comparison sees it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog, InvalidSignal, Signal, SignalConflict
from tests.harness.command import eventlog, jsonl
from tests.harness.log_checks import entries_in
from tests.harness.signals import a_signal, closed

SALT = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def log(home: Path) -> Iterator[EventLog]:
    with EventLog(home, salt=True) as log:
        yield log


def salts(home: Path) -> list[Any]:
    return [entry.get("salt") for entry in entries_in(home)]


def test_every_way_to_append_adds_a_salt_of_its_own(home: Path, log: EventLog) -> None:
    log.append(a_signal(1))
    log.append(Signal(**a_signal(2, extra={"a": 1})))
    log.append_many([a_signal(3), closed(3)])
    log.append_each([a_signal(4), {"event": "note", "text": "of no signal"}])
    asyncio.run(log.append_async(a_signal(5)))
    found = salts(home)
    assert len(found) == len(set(found)) == 7
    assert all(SALT.fullmatch(salt) for salt in found)


def test_without_the_setting_no_salt_is_added(home: Path) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    assert salts(home) == [None]


def test_a_salt_that_is_given_is_kept(home: Path, log: EventLog) -> None:
    log.append(a_signal(1, salt="mine"))
    log.append(Signal(**a_signal(2, extra={"salt": "mine too"})))
    assert salts(home) == ["mine", "mine too"]


@pytest.mark.parametrize("reopened", [False, True])
def test_a_retry_with_another_salt_is_the_same_item(home: Path, reopened: bool) -> None:
    items = [
        a_signal(1),
        closed(1),
        {"event": "note", "signal_id": a_signal(1)["signal_id"], "b": 1, "a": 2},
    ]
    with EventLog(home, salt=True) as log:
        first = log.append_many(items)
        again = log.append_many(items) if not reopened else []
    if reopened:
        with EventLog(home, salt=True) as log:
            again = log.append_many(items)
    assert [receipt._replace(duplicate=False) for receipt in again] == first
    assert all(receipt.duplicate for receipt in again)
    with EventLog(home) as log:  # nor does it matter that it has none
        assert all(receipt.duplicate for receipt in log.append_many(items))
    assert len(entries_in(home)) == 3


def test_other_content_is_a_conflict_all_the_same(log: EventLog) -> None:
    log.append(a_signal(1, salt="same"))
    with pytest.raises(SignalConflict):
        log.append(a_signal(1, salt="same", entry_price=1.5))


def test_what_is_no_item_is_refused_as_without_a_salt(log: EventLog) -> None:
    items: list[Any] = [7, [], "text", {}, {1: 2}]
    for item in items:
        with pytest.raises(InvalidSignal):
            log.append(item)


def test_the_command_adds_salts_and_its_dry_run_agrees(home: Path) -> None:
    lines = jsonl([a_signal(1), a_signal(1), closed(1)])
    checked = eventlog("append", "--check", "--salt", home=home, stdin=lines)
    assert [answer["result"] for answer in checked.answers] == ["new", "duplicate", "new"]
    done = eventlog("append", "--salt", home=home, stdin=lines)
    assert [answer["duplicate"] for answer in done.answers] == [False, True, False]
    assert all(SALT.fullmatch(salt) for salt in salts(home))
