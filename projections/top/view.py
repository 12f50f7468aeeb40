"""Formats a sample of a home for `eventlog top`. Pure.

    HomeSample     the figures of a home at one time
    build_view     sample -> titled tables of text, for a terminal of any size
    format_line    sample -> one line, for output without a terminal

Invariant: every text from a log, a database or a projection passes through `printable_value` or
`printable`, so that it cannot control the terminal. A figure that is not known is shown as `-`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from eventlog.plumbing import (
    bytes_text,
    count_text,
    duration_text,
    price_text,
    printable,
    printable_value,
    time_text,
)
from projections.delivery.outbox import NAME as ALPINE
from projections.run_directory import FAILED
from projections.signals.schema import SQLITE
from projections.top.recent_signals import RecentSignal

DETAILS_MAX = 4  # figures of a plug-in projection: a line has no room for more
GAP = "  "  # between two columns
REASON_CHARS_MAX = 500  # of a reason: more than a terminal is wide, which shows what fits
_LINES_AROUND_SIGNALS = 2  # an empty line and the headings

# The figures of our own projections; a plug-in projection shows the first that it reports.
_DETAIL_KEYS = {
    SQLITE: ("rows", "conflicts", "problem"),
    ALPINE: ("state", "delivered", "parked", "failing", "last_error", "problem"),
}
_UNLABELLED_KEYS = frozenset({"state", "problem", "last_error"})  # shown without their key
# Shown in columns of their own, or only if they are news.
_COLUMN_KEYS = frozenset({"checkpoint", "lag_entries", "lag_seconds", "daemon"})
_SIGNAL_HEADINGS = (
    *("seq", "decided", "symbol", "action", "entry", "target", "stop", "conf %"),
    *("strategy", "became"),
)


class HomeSample(NamedTuple):
    """The figures of a home at one time."""

    home: str
    at: str  # UTC
    log: Mapping[str, object]  # as in `eventlog status --json`
    rate: float | None  # entries per second, recently; None in the first sample
    projections: Mapping[str, Mapping[str, object]]  # as in `eventlog status --json`, by name
    signals: Sequence[RecentSignal]  # newest first
    problem: str = ""  # why `signals` does not reach the end of the log
    evidence: Mapping[str, object] | None = None  # as in `eventlog status --json`


class Table(NamedTuple):
    """Rows of text below their headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()  # headings of right-aligned columns
    optional: tuple[str, ...] = ()  # headings of columns to drop on a narrow terminal, in order


class View(NamedTuple):
    """The parts of the view, from top to bottom."""

    title: str
    log: str
    projections: Table
    signals: Table
    problem: str


def build_view(sample: HomeSample) -> View:
    """Builds the view with all signals; the terminal drops those that do not fit."""
    return View(
        title=f"{printable_value(sample.home)}  {sample.at}",
        log=_log(sample),
        projections=Table(
            ("projection", "checkpoint", "lag", "behind for", ""),
            tuple(_projection(name, found) for name, found in sample.projections.items()),
            numbers=frozenset({"checkpoint", "lag", "behind for"}),
        ),
        signals=Table(
            _SIGNAL_HEADINGS,
            tuple(map(_signal, sample.signals)),
            numbers=frozenset({"seq", "entry", "target", "stop", "conf %"}),
            optional=("strategy", "decided", "conf %", "stop", "target", "seq"),
        ),
        problem=_reason(sample.problem) if sample.problem else "",
    )


def format_line(sample: HomeSample) -> str:
    """The sample in one line: the end of the log, the lag of each projection, the last signal."""
    parts = [f"{sample.at}  seq {_count(sample.log['last_seq'])}, {_rate(sample.rate)}"]
    for name, found in sample.projections.items():
        lag = f"lag {_count(found.get('lag_entries'))} ({_seconds(found.get('lag_seconds'))})"
        details = _details(name, found)
        parts.append(f"{printable_value(name)} {lag}{details and ', '}{details}")
    if sample.signals:
        last = sample.signals[0]
        price = price_text(last.entry_price)
        parts.append(f"last: {printable_value(last.symbol)} {last.action} at {price}")
    if sample.problem:
        parts.append(printable_value(sample.problem))
    return " | ".join(parts)


def fit_to_height(view: View, lines: int) -> View:
    """The view without the oldest signals, so that as plain text it has `lines` lines at most."""
    others = format_page(view._replace(signals=view.signals._replace(rows=())))
    left = lines - len(others.splitlines()) - _LINES_AROUND_SIGNALS
    return view._replace(signals=view.signals._replace(rows=view.signals.rows[: max(0, left)]))


def format_page(view: View) -> str:
    """The view as plain text, with all its signals."""
    tables = (view.projections, view.signals)
    parts = [
        view.title,
        view.log,
        *("\n".join(format_table(table)) for table in tables if table.rows),
    ]
    return "\n\n".join((*parts, *filter(None, [view.problem])))


def format_table(table: Table) -> list[str]:
    """The table as lines of text, headings first."""
    widths = column_widths(table)
    return [
        GAP.join(
            cell.rjust(width) if heading in table.numbers else cell.ljust(width)
            for heading, cell, width in zip(table.headings, cells, widths, strict=True)
        ).rstrip()
        for cells in (table.headings, *table.rows)
    ]


def column_widths(table: Table, length: Callable[[str], int] = len) -> list[int]:
    """The width of each column, measured by `length`."""
    return [max(map(length, cells)) for cells in zip(table.headings, *table.rows, strict=True)]


def fit_to_width(table: Table, width: int, length: Callable[[str], int] = len) -> Table:
    """The table without as many optional columns as necessary to fit into `width`."""
    for heading in table.optional:
        if sum(column_widths(table, length)) + len(GAP) * (len(table.headings) - 1) <= width:
            break
        at = table.headings.index(heading)
        headings, *rows = (cells[:at] + cells[at + 1 :] for cells in (table.headings, *table.rows))
        table = table._replace(headings=headings, rows=tuple(rows))
    return table


def _log(sample: HomeSample) -> str:
    get = sample.log.get
    return GAP.join(
        (
            f"log: seq {_count(get('last_seq'))}",
            _rate(sample.rate),
            f"last entry {_time(get('last_recorded_at'))}",
            f"{_counted(get('segments'), 'segment')}, {_bytes(get('bytes'))}",
            *([] if sample.evidence is None else [_signed(sample.evidence)]),
        )
    )


def _signed(evidence: Mapping[str, object]) -> str:
    """How many entries the newest checkpoint covers, and how many it does not."""
    signed = f"signed {_count(evidence.get('size'))}"
    return f"{signed}, not signed {_count(evidence.get('lag_entries'))}"


def _projection(name: str, found: Mapping[str, object]) -> tuple[str, ...]:
    return (
        printable_value(name),
        _count(found.get("checkpoint")),
        _count(found.get("lag_entries")),
        _seconds(found.get("lag_seconds")),
        _details(name, found),
    )


def _details(name: str, found: Mapping[str, object]) -> str:
    """The figures of a projection that have no column of their own, as text."""
    keys = _DETAIL_KEYS.get(name) or [key for key in found if key not in _COLUMN_KEYS][:DETAILS_MAX]
    failure = tuple(_failure(found.get("daemon")))
    keys = [key for key in keys if key != "problem" or not failure]  # it would say the same again
    details = ((key, found[key]) for key in keys if found.get(key) is not None)
    texts = (
        _reason(value) if key in _UNLABELLED_KEYS else f"{printable_value(key)} {_count(value)}"
        for key, value in details
    )
    return ", ".join((*failure, *texts))


def _failure(daemon: object) -> Iterator[str]:
    """Why its daemon does not project it."""
    if isinstance(daemon, Mapping) and daemon.get("state") == FAILED:
        yield f"failed: {_reason(daemon.get('reason'))}"


def _reason(value: object) -> str:
    """The text of a reason, which is cut at more characters than other values."""
    return printable(value[:REASON_CHARS_MAX]) if isinstance(value, str) else printable_value(value)


def _signal(signal: RecentSignal) -> tuple[str, ...]:
    return (
        _count(signal.seq),
        _time(signal.timestamp),
        printable_value(signal.symbol),
        signal.action,
        price_text(signal.entry_price),
        price_text(signal.target_price),
        price_text(signal.stop_price),
        f"{signal.confidence:.1f}",
        printable_value(signal.strategy),
        outcome_text(signal),
    )


def outcome_text(signal: RecentSignal) -> str:
    """The outcome or state of a signal, in one or two words."""
    shown = signal.outcome or signal.state
    pct = signal.profit_loss_pct
    return shown if pct is None else f"{shown} {pct:+.2f} %"


def _count(value: object) -> str:
    """An int with thousands separators, None as `-`, any other value as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else printable_value(value)


def _rate(rate: float | None) -> str:
    return f"{'-' if rate is None else f'{rate:,.1f}'} entries/s"


def _counted(value: object, noun: str) -> str:
    return count_text(value, noun) if isinstance(value, int) else f"- {noun}s"


def _seconds(value: object) -> str:
    return duration_text(value) if isinstance(value, int | float) else "-"


def _bytes(value: object) -> str:
    return bytes_text(value) if isinstance(value, int) else "-"


def _time(value: object) -> str:
    """A time to the second, as RFC 3339 text with offset."""
    return time_text(value, places=0) if isinstance(value, str) else "-"
