"""The dedupe window: retries, duplicates and conflicts, to the letter (contract 4).

Among the entries with seq > last_seq - 10,000 (one setting a log), across processes, only signals
compete for a signal_id. The same nine fields, where a timestamp that was left out matches any, are
the same content; other keys are not compared. A fact is known by (signal_id, event) and payload.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog, LogCorrupt, Receipt, Signal, SignalConflict
from tests.harness.command import pipe
from tests.harness.log_checks import (
    HASHED_FIELDS,
    assert_receipts_kept,
    assert_valid_log,
    content_sha256,
    ids_in,
    lines_in,
    segments_in,
)
from tests.harness.signals import a_signal, closed, signals

WINDOW = 10_000  # what the contract says


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def log(home: Path) -> Iterator[EventLog]:
    with EventLog(home) as log:
        yield log


def is_duplicate_of(first: Receipt) -> Receipt:
    return first._replace(duplicate=True)


# -- the same content


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"timestamp": None},  # left out: it matches any
        {"symbol": " aapl "},
        {"action": "buy"},
        {"entry_price": 151},
        {"target_price": None, "take_profit": 161.0},
        {"stop_price": None, "stop_loss": 141.0},
        {"timestamp": "2025-11-18T03:00:00+01:00"},
        {"event": "signal"},
        {"asset_type": "crypto"},  # not one of the nine
        {"data_source": "elsewhere"},
        {"reasoning": "another reason", "regime": 7},
    ],
    ids=str,
)
def test_the_same_content_is_not_written_again(
    home: Path, log: EventLog, changes: dict[str, Any]
) -> None:
    first = log.append(a_signal(1))
    log.append(a_signal(2))
    before = lines_in(home)
    assert log.append(a_signal(1, **changes)) == is_duplicate_of(first)
    assert log.append_many([a_signal(1, **changes)]) == [is_duplicate_of(first)]
    assert lines_in(home) == before


def test_keys_that_are_not_compared_keep_their_first_values(log: EventLog) -> None:
    log.append(a_signal(1, reasoning="the first", asset_type="stock"))
    log.append(a_signal(1, reasoning="the second", asset_type="crypto", regime="bull"))
    (entry,) = log.read()
    assert (entry.payload["reasoning"], entry.payload["asset_type"]) == ("the first", "stock")
    assert "regime" not in entry.payload


def test_a_signal_with_a_sha256_is_recognized_by_it(log: EventLog) -> None:
    first = log.append(a_signal(1))
    (entry,) = log.read()
    assert log.append(entry.payload) == is_duplicate_of(first)
    assert log.append(Signal.from_mapping(entry.payload)) == is_duplicate_of(first)


def test_a_retry_matches_if_the_log_filled_in_the_timestamp(log: EventLog) -> None:
    first = log.append(a_signal(1, timestamp=None))
    assert log.append(a_signal(1, timestamp=None)) == is_duplicate_of(first)
    stored = next(log.read()).payload["timestamp"]
    assert log.append(a_signal(1, timestamp=stored)) == is_duplicate_of(first)


# -- other content


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": "AAPLX"},
        {"action": "SELL"},
        {"entry_price": 151.01},
        {"target_price": 1e9},
        {"stop_price": 1e-9},
        {"confidence": 0},
        {"strategy": "Momentum"},
        {"timestamp": "2025-11-18T02:00:00.000001Z"},
        {"timestamp": None, "confidence": 99.0},
    ],
    ids=str,
)
def test_other_content_under_a_taken_id_is_a_conflict(
    home: Path, log: EventLog, changes: dict[str, Any]
) -> None:
    log.append(a_signal(1))
    before = lines_in(home)
    with pytest.raises(SignalConflict, match="s-1") as raised:
        log.append(a_signal(1, **changes))
    assert (raised.value.signal_id, raised.value.where) == ("s-1", "entry 1")
    assert lines_in(home) == before
    assert log.append(a_signal(1)).duplicate  # the handle goes on


def test_ids_are_compared_exactly(log: EventLog) -> None:
    ids = ("a", "A", " a", "\u00e9", "e\u0301", '"', "\\", "\\u0061", "s-1", "s-10")
    for again in (False, True):
        for signal_id in ids:
            assert log.append(a_signal(signal_id=signal_id)).duplicate is again


# -- facts


def test_the_same_fact_is_not_written_again(home: Path, log: EventLog) -> None:
    log.append(a_signal(1))
    first = log.append(closed(1, outcome="win", note={"b": 1, "a": 2}))
    again = {"exit_price": 161, "note": {"a": 2, "b": 1}, "outcome": "win", "event": "closed"}
    assert log.append({**again, "signal_id": "s-1"}) == is_duplicate_of(first)
    assert len(lines_in(home)) == 2


def test_another_payload_of_the_same_fact_is_appended(log: EventLog) -> None:
    receipts = [log.append(closed(1, exit_price=price)) for price in (1.0, 2.0, 1.0, 2.0)]
    assert [(receipt.seq, receipt.duplicate) for receipt in receipts] == [
        *((1, False), (2, False)),
        *((1, True), (2, True)),
    ]


def test_facts_of_other_signals_and_other_events_are_other_facts(log: EventLog) -> None:
    items = [closed(1), closed(2), {"event": "expired", "signal_id": "s-1"}]
    items += [{"event": "cancelled", "signal_id": "s-1"}, {"event": "x.y", "signal_id": "s-1"}]
    assert not any(log.append(item).duplicate for item in items)
    assert all(log.append(item).duplicate for item in items)


def test_a_fact_without_a_signal_id_is_never_a_duplicate(log: EventLog) -> None:
    assert [log.append({"event": "tick", "at": 1}).duplicate for _ in range(3)] == 3 * [False]


def test_a_fact_does_not_take_the_id_of_a_signal(log: EventLog) -> None:
    log.append(closed(1))
    assert not log.append(a_signal(1)).duplicate
    assert log.append(closed(1)).seq == 1


# -- within one call


def test_a_signal_given_twice_in_one_call_is_written_once(log: EventLog) -> None:
    one, two, again = log.append_many([a_signal(1), a_signal(2), a_signal(1, symbol="aapl")])
    assert (one.seq, two.seq) == (1, 2)
    assert again == is_duplicate_of(one)
    assert log.last_seq == 2


def test_facts_given_twice_in_one_call_are_written_once(log: EventLog) -> None:
    receipts = log.append_many([a_signal(1), closed(1), closed(1), closed(1, exit_price=9.0)])
    assert [(r.seq, r.duplicate) for r in receipts] == [(1, 0), (2, 0), (2, 1), (3, 0)]


def test_a_call_of_nothing_but_duplicates_writes_nothing(home: Path, log: EventLog) -> None:
    firsts = log.append_many(signals(5))
    before = lines_in(home)
    assert log.append_many(signals(5)) == [is_duplicate_of(first) for first in firsts]
    assert lines_in(home) == before


@pytest.mark.parametrize("given", ["2025-11-18T02:00:00Z", None])
def test_each_item_of_a_call_is_compared_with_what_is_in_the_log(
    log: EventLog, given: str | None
) -> None:
    """Not with its twin in the call, whose left out timestamp would have been another one."""
    first = log.append(a_signal(1))
    twins = [a_signal(1, timestamp=None), a_signal(1, timestamp=given)]
    assert log.append_many(twins) == 2 * [is_duplicate_of(first)]


# -- the window


def reopened(home: Path, log: EventLog) -> EventLog:
    log.close()
    return EventLog(home, dedupe_entries=5)


HANDLES: list[Callable[[Path, EventLog], EventLog]] = [lambda _, log: log, reopened]


@pytest.mark.parametrize("handle", HANDLES, ids=["the same handle", "reopened"])
@pytest.mark.parametrize("event", ["signal", "closed"])
def test_the_dedupe_window_ends_exactly_as_the_contract_states(
    home: Path, event: str, handle: Callable[[Path, EventLog], EventLog]
) -> None:
    item = a_signal(1) if event == "signal" else closed(1)
    log = EventLog(home, dedupe_entries=5)
    first = log.append(item)
    for number in range(2, 6):
        log.append(a_signal(number))
    log = handle(home, log)
    assert log.last_seq == 5  # 1 > 5 - 5: just within
    assert log.append(item) == is_duplicate_of(first)
    log.append(a_signal(6))
    log = handle(home, log)
    second = log.append(item)  # 1 > 6 - 5 does not hold
    assert (second.seq, second.duplicate) == (7, False)
    assert log.append(item) == is_duplicate_of(second)
    log.close()


def test_a_retry_does_not_extend_the_dedupe_window(home: Path) -> None:
    with EventLog(home, dedupe_entries=3) as log:
        log.append(a_signal(1))
        for number in (2, 3):
            log.append(a_signal(number))
            assert log.append(a_signal(1)).duplicate
        log.append(a_signal(4))
        assert not log.append(a_signal(1)).duplicate


def test_beyond_the_dedupe_window_an_id_may_be_reused(home: Path) -> None:
    with EventLog(home, dedupe_entries=3) as log:
        log.append_many(signals(4))
        assert log.append(a_signal(1, action="SELL")).seq == 5
        with pytest.raises(SignalConflict, match="entry 5"):
            log.append(a_signal(1))
    assert len(assert_valid_log(home)) == 5


def test_a_handle_detects_duplicates_of_entries_from_other_handles(home: Path) -> None:
    with EventLog(home, dedupe_entries=5) as log, EventLog(home, dedupe_entries=5) as other:
        log.append(a_signal(1))
        assert other.append(a_signal(1)).duplicate
        firsts = log.append_many(signals(5, start=2))
        assert other.append(a_signal(2)) == is_duplicate_of(firsts[0])
        assert other.append(a_signal(1)).seq == 7  # 1 > 6 - 5 does not hold


def test_a_dedupe_window_of_zero_finds_no_duplicates(home: Path) -> None:
    with EventLog(home, dedupe_entries=0) as log:
        assert [log.append(a_signal(1)).seq for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("reopen", [False, True])
def test_the_dedupe_window_is_ten_thousand_entries_by_default(home: Path, reopen: bool) -> None:
    log = EventLog(home, segment_bytes=500_000)
    firsts = log.append_many(signals(WINDOW))
    if reopen:
        log.close()
        log = EventLog(home)
    assert log.append(a_signal(1)) == is_duplicate_of(firsts[0])
    assert log.append(a_signal(WINDOW + 1)).seq == WINDOW + 1
    assert log.append(a_signal(2)) == is_duplicate_of(firsts[1])
    assert log.append(a_signal(1)).seq == WINDOW + 2
    log.close()


# -- across handles, threads and processes


def test_the_first_receipt_comes_back_from_a_new_handle(home: Path) -> None:
    with EventLog(home, segment_bytes=1) as log:
        firsts = [log.append(item) for item in (a_signal(1), closed(1), a_signal(2))]
    with EventLog(home) as log:
        again = [log.append(item) for item in (a_signal(1), closed(1), a_signal(2))]
    assert again == [is_duplicate_of(first) for first in firsts]


def test_handles_take_turns_with_the_same_signals(home: Path) -> None:
    with EventLog(home, segment_bytes=900) as one, EventLog(home, segment_bytes=900) as two:
        for number, signal in enumerate(signals(20)):
            sooner, later = (one, two) if number % 3 else (two, one)
            assert later.append(signal) != sooner.append(signal)
    assert ids_in(home) == [f"s-{number}" for number in range(1, 21)]


def test_only_one_of_many_threads_writes_the_same_signal(home: Path, log: EventLog) -> None:
    with ThreadPoolExecutor(8) as threads:
        receipts = list(threads.map(lambda _: log.append(a_signal(1)), range(40)))
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert {receipt._replace(duplicate=False) for receipt in receipts} == {
        next(receipt for receipt in receipts if not receipt.duplicate)
    }
    assert ids_in(home) == ["s-1"]


def test_the_same_signals_from_two_processes_are_there_once(home: Path) -> None:
    count = 100
    with pipe(home) as one, pipe(home) as two:
        for signal in signals(count):
            one.send_items(signal)
            two.send_items(signal)
        answers = [one.read_answers(count), two.read_answers(count)]
        one.close_stdin()
        two.close_stdin()
        assert (one.wait(), two.wait()) == (0, 0)
    for first, second in zip(*answers, strict=True):
        assert {**first, "duplicate": None} == {**second, "duplicate": None}
        assert first["duplicate"] != second["duplicate"]
    assert len(assert_receipts_kept(home, answers[0])) == count


def test_the_hash_that_a_receipt_gives_is_that_of_the_nine_fields(log: EventLog) -> None:
    receipt = log.append(a_signal(1, strategy="Ünïcode ✓", entry_price=0.1 + 0.2))
    payload = next(log.read()).payload
    assert set(HASHED_FIELDS) < set(payload)
    assert receipt.sha256 == payload["sha256"] == content_sha256(payload)


@pytest.mark.parametrize("segment_bytes", [1, 10_000], ids=["first in its segment", "within one"])
@pytest.mark.parametrize("what", [b'"signal_id"', b'"recorded_at"', b'"chain":"', b'"strategy"'])
def test_no_receipt_is_issued_from_a_line_damaged_since_then(
    home: Path, what: bytes, segment_bytes: int
) -> None:
    with EventLog(home, segment_bytes=segment_bytes) as log:
        log.append_many(signals(1))
        first = log.append(a_signal(2))
        log.append(a_signal(3))
        assert log.append(a_signal(2)) == is_duplicate_of(first)
        path = next(path for path in segments_in(home) if b'"signal_id":"s-2"' in path.read_bytes())
        data = path.read_bytes()
        start = data.index(b'{"v":1,"seq":2,')
        place = data.index(what, start) + len(what) + 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(LogCorrupt, match="entry 2 ") as caught:
            log.append(a_signal(2))
        assert (caught.value.segment, caught.value.byte_offset) == (path.name, start)
        assert log.append(a_signal(4)).seq == 4, "nothing else is held up by it"
