"""What `eventlog top` shows: figures of a home, and what a person reads of them. Pure.

    Figures    what was read of a home at one moment, as numbers
    view_of    figures -> titled tables of text, for a terminal of any size
    line_of    figures -> one line, where there is no terminal

Invariant: every text from a log, a database or a projection leaves here through `printable_value`, so that
nothing in it can steer a terminal; what cannot be measured is `-`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eventlog.plumbing import printable_value
from projections.delivery.outbox import NAME as ALPINE
from projections.signals.schema import SQLITE
from projections.signals.transitions import CLOSED, SIGNAL
from projections.top.recent_signals import RecentSignal

DETAILS_MAX = 4  # of a projection of somebody else: a line holds no more
GAP = "  "  # between two columns

# What is told of ours beside how far they are; of others, whatever they tell of themselves.
_DETAIL_KEYS = {
    SQLITE: ("rows", "conflicts", "problem"),
    ALPINE: ("state", "delivered", "parked", "failing", "last_error", "problem"),
}
_UNLABELLED_KEYS = frozenset({"state", "problem", "last_error"})  # they need no name beside them
_COLUMN_KEYS = frozenset({"checkpoint", "lag_entries", "lag_seconds"})  # they have columns
_SIGNAL_HEADINGS = (
    *("seq", "decided", "symbol", "action", "entry", "target", "stop", "conf %"),
    *("strategy", "became"),
)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class HomeSample(NamedTuple):
    """A home at one moment."""

    home: str
    at: str  # UTC
    log: Mapping[str, object]  # as in `eventlog status --json`
    rate: float | None  # entries a second, of late; None while nothing can be said
    projections: Mapping[str, Mapping[str, object]]  # the same, by name
    signals: Sequence[RecentSignal]  # the newest first
    problem: str = ""  # why `signals` does not reach to the end of the log


class Table(NamedTuple):
    """Rows of text below their headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()  # headings of columns that end at the right
    optional: tuple[str, ...] = ()  # headings of columns to leave out where it is narrow, in order


class View(NamedTuple):
    """What is shown, from the top down."""

    title: str
    log: str
    projections: Table
    signals: Table
    problem: str


def build_view(sample: HomeSample) -> View:
    """The whole view; whoever draws it leaves out the signals for which there is no room."""
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
        problem=printable_value(sample.problem) if sample.problem else "",
    )


def format_line(sample: HomeSample) -> str:
    """The same in one line: how far the log is, each projection behind it, and the last signal."""
    parts = [f"{sample.at}  seq {_count(sample.log['last_seq'])}, {_rate(sample.rate)}"]
    for name, found in sample.projections.items():
        lag = f"lag {_count(found.get('lag_entries'))} ({_seconds(found.get('lag_seconds'))})"
        details = _details(name, found)
        parts.append(f"{printable_value(name)} {lag}{details and ', '}{details}")
    if sample.signals:
        last = sample.signals[0]
        parts.append(f"last: {printable_value(last.symbol)} {last.action} at {last.entry_price:g}")
    if sample.problem:
        parts.append(printable_value(sample.problem))
    return " | ".join(parts)


def format_page(view: View) -> str:
    """The view as plain text, whole."""
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
    """How wide each column is; `length` of a text is in the unit of the answer."""
    return [max(map(length, cells)) for cells in zip(table.headings, *table.rows, strict=True)]


def fit_to_width(table: Table, width: int, length: Callable[[str], int] = len) -> Table:
    """The table without as many of its spare columns as it takes to be `width` wide."""
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
            f"{_count(get('segments'))} segments, {_bytes(get('bytes'))}",
            f"last entry {str(get('last_recorded_at') or '-')[:19].replace('T', ' ')}",
        )
    )


def _projection(name: str, found: Mapping[str, object]) -> tuple[str, ...]:
    return (
        printable_value(name),
        _count(found.get("checkpoint")),
        _count(found.get("lag_entries")),
        _seconds(found.get("lag_seconds")),
        _details(name, found),
    )


def _details(name: str, found: Mapping[str, object]) -> str:
    """What a projection tells of itself, in words."""
    keys = _DETAIL_KEYS.get(name) or [key for key in found if key not in _COLUMN_KEYS][:DETAILS_MAX]
    details = ((key, found[key]) for key in keys if found.get(key) is not None)
    return ", ".join(
        printable_value(value)
        if key in _UNLABELLED_KEYS
        else f"{printable_value(key)} {_count(value)}"
        for key, value in details
    )


def _signal(signal: RecentSignal) -> tuple[str, ...]:
    return (
        _count(signal.seq),
        signal.timestamp[:19].replace("T", " "),
        printable_value(signal.symbol),
        signal.action,
        f"{signal.entry_price:g}",
        f"{signal.target_price:g}",
        f"{signal.stop_price:g}",
        f"{signal.confidence:.1f}",
        printable_value(signal.strategy),
        outcome_text(signal),
    )


def outcome_text(signal: RecentSignal) -> str:
    """What became of a signal, in a word or two."""
    if signal.event == CLOSED:
        return f"{signal.outcome} {signal.profit_loss_pct:+.2f} %"
    return "open" if signal.event == SIGNAL else signal.event


def _count(value: object) -> str:
    """A number of things; whatever else it is, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else printable_value(value)


def _rate(rate: float | None) -> str:
    return f"{'-' if rate is None else f'{rate:,.1f}'} entries/s"


def _seconds(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    if value < 120:
        return f"{value:.1f} s"
    minutes, hours = value / 60, value / 3600
    return f"{minutes:,.0f} min" if hours < 2 else f"{hours:,.0f} h"


def _bytes(value: object) -> str:
    if not isinstance(value, int):
        return "-"
    power = min(max(0, value.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{value / 1024**power:.{min(power, 1)}f} {_UNITS[power]}"
