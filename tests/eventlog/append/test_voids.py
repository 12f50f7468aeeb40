"""A `voided` clears the dedupe keys of all facts of its signal; `salt` is in no key (contract 4).

A property compares several handles of one log, with any window, with a plain model.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import EventLog, Receipt, SignalConflict
from eventlog.append.batch import AppendRequest, BatchBuilder
from eventlog.append.dedupe import DedupeWindow
from eventlog.format.scan import TIP_START
from eventlog.schema.validation import validate
from tests.harness.command import eventlog, jsonl
from tests.harness.log_checks import assert_valid_log, entries_in, lines_in
from tests.harness.signals import a_signal, closed

Item = dict[str, Any]
WRONG, RIGHT = closed(1, exit_price=19200.0), closed(1, exit_price=1920.0)


def voided(number: int, seq: int, **changes: Any) -> Item:
    return {"event": "voided", "signal_id": f"s-{number}", "voids": seq, **changes}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def seqs_of(receipts: Sequence[Receipt]) -> list[tuple[int, bool]]:
    return [(receipt.seq, receipt.duplicate) for receipt in receipts]


# -- examples

VOIDED_TWICE = (a_signal(1), WRONG, voided(1, 2), WRONG, voided(1, 4), RIGHT, WRONG)


@pytest.mark.parametrize("how", ["one handle", "new handles", "one call", "two calls", "a pipe"])
def test_a_fact_that_was_voided_can_be_appended_again(home: Path, how: str) -> None:
    """A retry then is a duplicate of the fact after the void, never of the one before."""
    items = [a_signal(1), WRONG, voided(1, 2), WRONG, WRONG, voided(1, 2)]
    expected = [(1, False), (2, False), (3, False), (4, False), (4, True), (3, True)]
    if how == "a pipe":
        out = eventlog("append", home=home, stdin=jsonl(items)).out.splitlines()
        found = [(receipt["seq"], receipt["duplicate"]) for receipt in map(json.loads, out)]
    elif how == "new handles":
        found = []
        for item in items:
            with EventLog(home) as log:
                found += seqs_of([log.append(item)])
    else:
        with EventLog(home) as log:
            split = {"one handle": range(7), "one call": (0, 6), "two calls": (0, 2, 6)}[how]
            found = [
                pair
                for start, end in pairwise(split)
                for pair in seqs_of(log.append_many(items[start:end]))
            ]
    assert found == expected
    assert len(assert_valid_log(home)) == 4


def test_every_fact_of_the_signal_can_be_appended_again_and_no_other(home: Path) -> None:
    executed = {"event": "executed", "signal_id": "s-1", "order_id": "7"}
    noted = {"event": "noted", "signal_id": "s-1", "text": "x"}
    other = closed(2, exit_price=1.0)
    with EventLog(home) as log:
        log.append_many([a_signal(1), executed, noted, other, WRONG, voided(1, 5)])
        assert seqs_of(log.append_many([other, a_signal(1), a_signal(2)])) == [
            (4, True),
            (1, True),
            (7, False),
        ]
        again = log.append_many([executed, noted, WRONG, voided(1, 5)])
        assert seqs_of(again) == [(8, False), (3, True), (9, False), (6, True)]


def test_several_voids_leave_only_what_follows_the_last(home: Path) -> None:
    with EventLog(home) as log:
        assert all(not receipt.duplicate for receipt in map(log.append, VOIDED_TWICE))
    with EventLog(home) as log:
        assert seqs_of([log.append(WRONG), log.append(RIGHT)]) == [(7, True), (6, True)]


def test_a_handle_finds_the_voids_of_others(home: Path) -> None:
    """Also one that has the wrong fact in its window from before."""
    with EventLog(home) as log, EventLog(home) as other:
        log.append_many([a_signal(1), WRONG])
        other.append(voided(1, 2))
        assert log.append(WRONG).seq == 4
        other.append(voided(1, 4))
        eventlog("append", home=home, stdin=jsonl([WRONG]))
        assert seqs_of([log.append(WRONG), other.append(WRONG)]) == [(6, True), (6, True)]


def test_a_fact_before_a_void_never_matches_again(home: Path) -> None:
    """Also when the equal fact after the void has left the window."""
    with EventLog(home, dedupe_entries=6) as log:
        log.append_many([a_signal(1), WRONG, voided(1, 2), WRONG])
        for number in range(6):
            log.append({"event": "tick", "n": number})
        assert seqs_of([log.append(WRONG), log.append(WRONG)]) == [(11, False), (11, True)]
    with EventLog(home, dedupe_entries=6) as log:
        assert seqs_of([log.append(WRONG)]) == [(11, True)]


def test_a_void_counts_until_the_facts_before_it_have_left_the_window(home: Path) -> None:
    """The window drops old keys by the generation; the void is in the older one here."""
    items = [WRONG, voided(1, 1), a_signal(3), a_signal(4)]
    with EventLog(home, dedupe_entries=4) as log:
        assert seqs_of(list(map(log.append, items))) == [(seq, False) for seq in (1, 2, 3, 4)]
        assert seqs_of([log.append(WRONG), log.append(WRONG)]) == [(5, False), (5, True)]


def test_facts_after_a_void_move_the_window_within_a_call(home: Path) -> None:
    """Four entries after the first signal, its id is free: the call has no conflict."""
    with EventLog(home, dedupe_entries=3) as log:
        log.append(a_signal(2))
        items = [WRONG, voided(1, 2), WRONG, a_signal(2, symbol="MSFT")]
        assert seqs_of(log.append_many(items)) == [(seq, False) for seq in (2, 3, 4, 5)]


def test_requests_of_one_group_commit_find_the_voids_of_each_other() -> None:
    items = [a_signal(2), WRONG, voided(1, 2), WRONG, a_signal(2, symbol="MSFT")]
    validated = [validate(item, now=str, new_id=str) for item in items]
    now = "2025-11-18T02:00:00.123456Z"
    builder = BatchBuilder(TIP_START, now, DedupeWindow(3), lambda _: pytest.fail("none is stored"))
    for request in (first := AppendRequest(validated[:3]), second := AppendRequest(validated[3:])):
        builder.add(request)
    for write_batch in builder.batches:
        write_batch.settle(DedupeWindow(3), 1, 0)
    assert seqs_of([*first.receipts(), *second.receipts()]) == [(n, False) for n in range(1, 6)]


# -- salt


@pytest.mark.parametrize("salts", [("a" * 32, "b" * 32), ("a" * 32, None), (None, "b" * 32)])
def test_the_salt_of_an_entry_is_not_compared(home: Path, salts: tuple[str | None, ...]) -> None:
    def salted(item: Item, salt: str | None) -> Item:
        return item if salt is None else {**item, "salt": salt}

    items = [a_signal(1), WRONG, {"event": "noted", "signal_id": "s-1"}, voided(1, 2)]
    with EventLog(home) as log:
        first = log.append_many([salted(item, salts[0]) for item in items])
        before = lines_in(home)
        retried = [salted(items[index], salts[1]) for index in (0, 3)]
        assert seqs_of(log.append_many(retried)) == [(1, True), (4, True)]
        again = log.append(salted(WRONG, salts[0]))
        assert seqs_of([again, log.append(salted(WRONG, salts[1]))]) == [(5, False), (5, True)]
    with EventLog(home) as log:
        assert log.append(salted(WRONG, salts[1])).seq == 5
        assert log.append(salted(items[0], salts[1])).seq == first[0].seq
    assert lines_in(home)[:4] == before
    kept = [entry.get("salt") for entry in entries_in(home)]
    assert kept == [salts[0]] * 5, "the salt of the first stands in the log"


def test_a_salt_within_a_value_is_compared(home: Path) -> None:
    noted: Item = {"event": "noted", "signal_id": "s-1"}
    with EventLog(home) as log:
        nested: list[Item] = [{**noted, "detail": {"salt": salt}} for salt in ("a", "b", "a")]
        text: list[Item] = [{**noted, "text": f'"salt":"{salt}"'} for salt in ("a", "b", "a")]
        expected = [(1, False), (2, False), (1, True), (3, False), (4, False), (3, True)]
        assert seqs_of(log.append_many([*nested, *text])) == expected
    with EventLog(home) as log:
        assert seqs_of([log.append(item) for item in (*nested, *text)]) == [
            (seq, True) for seq, _ in expected
        ]


# -- any history


class Model:
    """The log as a list of items, and the rules of contract 4 by a search through all of it."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.entries: list[Item] = []

    def find(self, item: Item) -> int | None:
        """Seq of the entry of which `item` is a duplicate. Raises SignalConflict."""
        first = max(0, len(self.entries) - self.window)
        for seq, entry in enumerate(self.entries[first:], first + 1):
            if "event" not in item and "event" not in entry:
                if item["signal_id"] == entry["signal_id"]:
                    if item["entry_price"] != entry["entry_price"]:
                        raise SignalConflict("", signal_id="", where="", do="")
                    return seq
            elif self._same_fact(item, entry) and (
                item["event"] in ("voided", "noted")
                or not self._is_voided_after(seq, item["signal_id"])
            ):
                return seq
        return None

    @staticmethod
    def _same_fact(item: Item, entry: Item) -> bool:
        first, second = ({**some, "salt": None} for some in (item, entry))
        return "event" in item and "signal_id" in item and first == second

    def _is_voided_after(self, seq: int, signal_id: str) -> bool:
        later = self.entries[seq:]
        return any(e.get("event") == "voided" and e["signal_id"] == signal_id for e in later)

    def append_many(self, items: Sequence[Item]) -> list[tuple[int, bool]]:
        """The receipts. Raises SignalConflict, and then nothing was written."""
        before = list(self.entries)
        found: list[tuple[int, bool]] = []
        try:
            for item in items:
                seq = self.find(item)
                if seq is None:
                    self.entries.append(item)
                found.append((seq or len(self.entries), seq is not None))
        except SignalConflict:
            self.entries = before
            raise
        return found


class Step(NamedTuple):
    handle: int
    reopen: bool
    items: list[Item]


_ids = st.sampled_from(["s-1", "s-2"])
_salts = st.sampled_from([{}, {"salt": "0" * 32}, {"salt": "1" * 32}])
_facts = st.sampled_from(
    [
        {"event": "closed", "exit_price": 1.0},
        {"event": "closed", "exit_price": 2.0},
        {"event": "executed", "order_id": "1"},
        {"event": "noted"},  # no fact: a void does not clear its key
    ]
)
_voids = st.builds(lambda seq: {"event": "voided", "voids": seq}, st.integers(1, 2))
_items = st.one_of(
    st.builds(lambda number, price: a_signal(number, entry_price=price), *(st.integers(1, 2),) * 2),
    st.builds(lambda name, fact, salt: {**fact, "signal_id": name, **salt}, _ids, _facts, _salts),
    st.builds(lambda name, void: {**void, "signal_id": name}, _ids, _voids),
    st.just({"event": "tick"}),
)
_steps = st.lists(
    st.builds(Step, st.integers(0, 2), st.booleans(), st.lists(_items, min_size=1, max_size=6)),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="voids"))
    yield path
    shutil.rmtree(path)


@pytest.mark.slow
@given(
    steps=_steps,
    window=st.integers(0, 9) | st.just(100),
    segment_bytes=st.sampled_from([1, 900, 1 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_any_history_over_several_handles_gives_the_receipts_of_a_plain_model(
    folder: Path, steps: list[Step], window: int, segment_bytes: int
) -> None:
    home = Path(tempfile.mkdtemp(dir=folder))
    model = Model(window)

    def opened() -> EventLog:
        return EventLog(home, dedupe_entries=window, segment_bytes=segment_bytes)

    logs = [opened() for _ in range(3)]
    chains: dict[int, str] = {}
    try:
        for step in steps:
            if step.reopen:
                logs[step.handle].close()
                logs[step.handle] = opened()
            try:
                expected = model.append_many(step.items)
            except SignalConflict:
                with pytest.raises(SignalConflict):
                    logs[step.handle].append_many(step.items)
                continue
            receipts = logs[step.handle].append_many(step.items)
            assert seqs_of(receipts) == expected
            for receipt in receipts:
                assert chains.setdefault(receipt.seq, receipt.chain) == receipt.chain
    finally:
        for log in logs:
            log.close()
    written = [(entry["event"], entry.get("signal_id")) for entry in assert_valid_log(home)]
    assert written == [(e.get("event", "signal"), e.get("signal_id")) for e in model.entries]
    shutil.rmtree(home)
