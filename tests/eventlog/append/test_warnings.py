"""Warnings about items that are accepted: in the receipt of each call, and rarely in the log."""

import asyncio
import logging
import unicodedata
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog, Receipt, Signal
from eventlog.append.warning_log import WarningLog
from eventlog.schema.item_warnings import KINDS, NO_WARNINGS, warning
from eventlog.schema.validation import validate
from tests.harness.command import eventlog, jsonl
from tests.harness.log_checks import entries_in
from tests.harness.signals import a_signal, closed


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def in_hours(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat()


SELL: dict[str, Any] = {"action": "SELL", "target_price": 140.0, "stop_price": 160.0}
WARNED: Mapping[str, tuple[dict[str, Any], dict[str, str]]] = {
    "a target below the entry of a BUY": (
        a_signal(target_price=150.9),
        {
            "target_price": "target_price is below the entry_price, 151.0: the wrong side for a BUY"
            " (got 150.9)"
        },
    ),
    "a stop above the entry of a BUY": (
        a_signal(stop_price=152),
        {
            "stop_price": "stop_price is above the entry_price, 151.0: the wrong side for a BUY"
            " (got 152.0)"
        },
    ),
    "both of a SELL": (
        a_signal(action="sell"),
        {
            "target_price": "target_price is above the entry_price, 151.0: the wrong side for a "
            "SELL (got 161.0)",
            "stop_price": "stop_price is below the entry_price, 151.0: the wrong side for a SELL"
            " (got 141.0)",
        },
    ),
    "under their aliases": (
        a_signal(target_price=None, stop_price=None, take_profit=1, stop_loss=2),
        {
            "target_price": "target_price is below the entry_price, 151.0: the wrong side for a BUY"
            " (got 1.0)"
        },
    ),
    "a zero-width space": (
        a_signal(symbol="AAPL\u200b"),
        {"symbol": "symbol holds the invisible character U+200B (got AAPL\\u200b)"},
    ),
    "a byte order mark": (
        a_signal(symbol="\ufeffaapl"),
        {"symbol": "symbol holds the invisible character U+FEFF (got \\ufeffAAPL)"},
    ),
    "a filler": (
        a_signal(symbol="A\u3164"),
        {"symbol": "symbol holds the invisible character U+3164 (got A\u3164)"},
    ),
    "an unknown event on a complete signal": (
        a_signal(event="quote"),
        {
            "event": "event is no known event: the item is stored as it is, and is no signal "
            "(got quote)"
        },
    ),
}
NOT_WARNED: Mapping[str, dict[str, Any]] = {
    "usual": a_signal(),
    "a SELL": a_signal(**SELL),
    "at the entry": a_signal(target_price=151, stop_price=151),
    "another alphabet": a_signal(symbol="\u65e5\u7d4c\u0bae"),
    "a fact": closed(),
    "a fact with the keys of a signal": {**a_signal(), **closed()},
    "an unknown event": {"event": "quote", "signal_id": "s-1", "symbol": "AAPL", "entry_price": 1},
    "no timestamp": a_signal(timestamp=None),
    "23 hours ahead": a_signal(timestamp=in_hours(23)),
    "long ago": a_signal(timestamp="0001-01-01T00:00:00Z"),
}


def as_pairs(receipt: Receipt) -> dict[str, str]:
    return {found["field"]: found["warning"] for found in receipt.warnings}


@pytest.mark.parametrize(("item", "warnings"), WARNED.values(), ids=WARNED)
def test_the_receipt_warns_and_the_item_is_stored(
    home: Path, item: dict[str, Any], warnings: dict[str, str]
) -> None:
    with EventLog(home) as log:
        first = log.append(item)
        assert as_pairs(first) == warnings
        assert all(list(found) == ["field", "warning"] for found in first.warnings)
        again = log.append(item)
        assert again == first._replace(duplicate=True)
    assert len(entries_in(home)) == 1


@pytest.mark.parametrize("item", NOT_WARNED.values(), ids=NOT_WARNED)
def test_a_usual_item_has_no_warnings(home: Path, item: dict[str, Any]) -> None:
    with EventLog(home) as log:
        assert log.append(item).warnings == ()


def test_a_timestamp_more_than_a_day_ahead_is_warned_of(home: Path) -> None:
    item = a_signal(timestamp=in_hours(25))
    with EventLog(home) as log:
        (found,) = log.append(item).warnings
        assert found["field"] == "timestamp"
        assert found["warning"].startswith("timestamp is more than a day ahead of the clock (got 2")
        assert log.append(item).warnings == (found,)


def test_the_clock_is_compared_by_the_microsecond() -> None:
    """The clock of a commit is its recorded_at: here it is given."""
    from eventlog.append.batch import EACH, AppendRequest, BatchBuilder
    from eventlog.append.dedupe import DedupeWindow
    from eventlog.format.scan import TIP_START

    def fields_of(timestamp: str, recorded_at: str) -> list[str]:
        item = validate(a_signal(timestamp=timestamp), now=str, new_id=str)
        builder = BatchBuilder(TIP_START, recorded_at, DedupeWindow(10), lambda _: b"")
        builder.add(AppendRequest([item], EACH))
        ((_, receipt, _, _),) = builder.batches[0].new_entries
        return list(as_pairs(receipt))

    clock = "2025-11-18T02:00:00.000000Z"
    assert fields_of("2025-11-19T02:00:00.000000Z", clock) == []
    assert fields_of("2025-11-19T02:00:00.000001Z", clock) == ["timestamp"]
    assert fields_of("9999-12-31T23:59:59.999999Z", clock) == ["timestamp"]
    assert fields_of("9999-12-31T23:59:59.999999Z", "9999-12-31T00:00:00.000000Z") == []


def test_the_warnings_are_about_the_item_of_this_call(home: Path) -> None:
    """A key that is not compared, or a timestamp that is left out, may differ from the first."""
    with EventLog(home) as log:
        assert log.append(a_signal(1)).warnings == ()
        log.append(a_signal(2, stop_price=500))
        several = log.append_many([a_signal(1), a_signal(2, stop_price=500), a_signal(3)])
        assert [len(receipt.warnings) for receipt in several] == [0, 1, 0]
        each = log.append_each([a_signal(2, stop_price=500), a_signal(2, stop_price=500)])
        assert [len(getattr(receipt, "warnings", ())) for receipt in each] == [1, 1]
        signal = Signal.from_mapping(a_signal(4, stop_price=500))
        assert [found["field"] for found in log.append(signal).warnings] == ["stop_price"]
        found = asyncio.run(log.append_async(a_signal(5, stop_price=500)))
        assert [warned["field"] for warned in found.warnings] == ["stop_price"]


def test_an_item_without_warnings_shares_the_empty_tuple() -> None:
    for item in (a_signal(), Signal.from_mapping(a_signal()), closed()):
        assert validate(item, now=str, new_id=str).warnings is NO_WARNINGS


def test_every_format_character_is_invisible() -> None:
    for char in map(chr, range(0x80, 0x3000)):
        if unicodedata.category(char) == "Cf":
            item = validate(a_signal(symbol=f"A{char}"), now=str, new_id=str)
            assert [found["field"] for found in item.warnings] == ["symbol"], hex(ord(char))


# -- the pipe


def test_a_line_of_output_has_warnings_only_if_there_are_any(home: Path) -> None:
    lines = [a_signal(1), a_signal(2, stop_price=500), a_signal(2, stop_price=500)]
    done = eventlog("append", home=home, stdin=jsonl(lines))
    assert done.code == 0
    usual, warned, again = done.answers
    assert "warnings" not in usual
    assert [found["field"] for found in warned["warnings"]] == ["stop_price"]
    assert again == {**warned, "duplicate": True}
    logged, created = done.err.splitlines()
    assert logged.split(" ", 1)[1] == (
        "WARNING eventlog.append.warning_log item_warning kind=wrong_side field=stop_price seq=2"
    )
    assert created.startswith("created a new log")


# -- the log line

MINUTE = "2025-11-18T02:00:59.999999Z"
NEXT_MINUTE = "2025-11-18T02:01:00.000000Z"


def test_each_kind_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = WarningLog()
    stop, target, event = (
        warning(f, "p", "secret") for f in ("stop_price", "target_price", "event")
    )
    log.report([(1, stop), (1, target), (2, event)], MINUTE)
    log.report([(3, target), (3, event)], MINUTE)
    log.report([(4, target)], NEXT_MINUTE)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "item_warning kind=wrong_side field=stop_price seq=1"),
        (logging.WARNING, "item_warning kind=unknown_event field=event seq=2"),
        (logging.WARNING, "item_warning kind=wrong_side field=target_price seq=4"),
    ]


def test_a_handle_logs_a_kind_once_and_shows_nothing_of_the_item(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    appends: tuple[Callable[[EventLog], object], ...] = (
        lambda log: log.append(a_signal(1, stop_price=500)),
        lambda log: log.append_many([a_signal(n, stop_price=500) for n in range(2, 50)]),
        lambda log: log.append(a_signal(1, stop_price=500)),
    )
    with EventLog(home) as log:
        minutes = set()
        for append in appends:
            minutes.add(datetime.now(UTC).minute)
            append(log)
        minutes.add(datetime.now(UTC).minute)
    lines = [record.getMessage() for record in caplog.records if "item_warning" in record.message]
    assert 1 <= len(lines) <= len(minutes)
    assert "500" not in "".join(lines)


def test_every_field_that_can_be_warned_of_has_a_kind() -> None:
    fields = {field for _, warnings in WARNED.values() for field in warnings} | {"timestamp"}
    assert fields == KINDS.keys()
