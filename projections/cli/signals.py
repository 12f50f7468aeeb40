"""The commands on signals: signals, stats, show, conflicts.

Invariant: they change nothing.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Unpack

import click

from eventlog.plumbing import (
    EXIT_PROBLEM,
    JSON_OPTION,
    CommandContext,
    figure_text,
    print_line,
    print_lines,
    print_problem,
)
from projections.cli.common import (
    COLUMNS_OPTION,
    filter_options,
    print_json,
    print_result,
    print_table,
    usage_errors,
)

if TYPE_CHECKING:
    from projections.queries.filters import FilterArguments


@click.command()
@filter_options
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="At most N signals, the newest.",
)
@COLUMNS_OPTION
@JSON_OPTION
@click.pass_obj
def signals(
    obj: CommandContext,
    /,
    symbol: str | None,
    limit: int,
    as_of: str | None,
    columns: tuple[str, ...],
    as_json: bool,
    **filters: "Unpack[FilterArguments]",
) -> None:
    """List signals, newest first.

    The options select by symbol, strategy, action, outcome and timestamp. --since is inclusive and
    --until exclusive; both need a time with a UTC offset.

    With --as-of, the list is the one of that time: it has the signals, outcomes and order ids that
    the log had recorded by then, and none recorded later. Signals that import-legacy brought in
    count from their import on. The answer for a given time never changes, so a time in the future
    is refused. --json prints an array with all columns, the signal's state and the times and the
    fill price that its facts gave.

    \b
    Example:
      eventlog signals --symbol AAPL --limit 5
      eventlog signals --outcome open --since 2025-11-01T00:00:00Z
      eventlog signals --as-of 2025-11-18T02:00:00Z
      eventlog signals --json --columns rsi,regime | jq '.[].rsi'
    """
    from eventlog.plumbing import printable_value, require_home
    from projections.queries.selection import ROW_COLUMNS, further_columns
    from projections.queries.sync_store import SyncSignalStore

    with usage_errors("--columns"):
        further_columns(columns, ROW_COLUMNS)
    require_home(obj.home)
    store = SyncSignalStore(obj.home)
    found = store.latest(symbol, limit, as_of=as_of, columns=columns, **filters)
    if as_json:
        print_json(found)
        return
    headings = (*_SIGNAL_COLUMNS, *columns)
    rows = ([figure_text(column, row[column]) for column in headings] for row in found)
    print_table([printable_value(heading) for heading in headings], rows)


@click.command()
@filter_options
@click.option(
    "--by",
    type=click.Choice(["strategy", "symbol", "action", "month", "confidence"]),
    help="One line for each group. Default: all signals together.",
)
@JSON_OPTION
@click.pass_obj
def stats(
    obj: CommandContext,
    /,
    symbol: str | None,
    as_of: str | None,
    by: str | None,
    as_json: bool,
    **filters: "Unpack[FilterArguments]",
) -> None:
    """Show wins, losses, win rate and returns.

    `win_rate` is the percentage of wins among wins and losses, with its 95 % Wilson interval.
    Returns are the profit_loss_pct of the signals that have an outcome. docs/quants.md defines each
    figure. `-` (null in JSON) stands for a figure of no signals. The options select signals as in
    `eventlog signals --help`. With --by, the months are those of the timestamp in UTC, and the
    confidences are in bands of ten percent.

    \b
    Example:
      eventlog stats
      eventlog stats --by strategy --since 2025-11-01T00:00:00Z
      eventlog stats --as-of 2025-11-18T02:00:00Z --json | jq .win_rate
    """
    from eventlog.plumbing import require_home
    from projections.queries.sync_store import SyncSignalStore

    require_home(obj.home)
    store = SyncSignalStore(obj.home)
    if by is not None:
        groups = store.stats(symbol, by=by, as_of=as_of, **filters)
        if as_json:
            print_json(groups)
        else:
            print_groups(groups, by)
        return
    found = store.stats(symbol, as_of=as_of, **filters)
    if as_json:
        print_json(found)
    else:
        print_figures(found)


def print_figures(found: Mapping[str, object]) -> None:
    """Prints the figures of signals, and their calibration."""
    bands = found["calibration"]
    assert isinstance(bands, list)
    for key, value in found.items():
        if value is not bands:
            print_line(f"{_label(key):<16} {figure_text(key, value)}")
    if bands:
        print_line("calibration")
        rows = ([figure_text(name, band[name]) for name in _BAND_COLUMNS] for band in bands)
        print_table(_BAND_COLUMNS, rows, indent="  ")


def print_groups(groups: Iterable[Mapping[str, object]], by: str) -> None:
    """Prints the figures of groups of signals, one line for each."""
    headings = (by, *_GROUP_COLUMNS)
    rows = ([figure_text(name, group[name]) for name in headings] for group in groups)
    print_table([_label(heading) for heading in headings], rows)


@click.command()
@click.argument("signal_id")
@JSON_OPTION
@click.pass_obj
def show(obj: CommandContext, signal_id: str, as_json: bool) -> None:
    """Show the life of one signal.

    Prints when the signal was decided and recorded, each fact about it with its delay, its row in
    the table, its state at Alpine, its lines in the log, and the entries about it that did not fit.
    A delay is the time from the decision to the moment at which the log recorded the fact. Exit
    code 1 if there is no such signal; facts that wait for it are shown nevertheless.

    \b
    Example:
      eventlog show 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b
      eventlog show 0197a1b2-3c4d-7e5f-8a9b-0c1d2e3f4a5b --json | jq .facts
    """
    from projections.cli.settings import alpine_config
    from projections.queries.show import show as show_signal

    found = show_signal(obj.home, signal_id, disabled=alpine_config().disabled)
    print_result(found, as_json=as_json)
    if found.row is None:
        print_problem(found.missing_text())
        sys.exit(EXIT_PROBLEM)


@click.command()
@JSON_OPTION
@click.pass_obj
def conflicts(obj: CommandContext, as_json: bool) -> None:
    """List the entries that did not fit.

    Each has its seq, its signal_id, the reason, and its line in the log. Such an entry stays in the
    log and changes no signal: a move that is not allowed, a second `closed`, a duplicate
    signal_id. A fact whose signal has not arrived is listed until it does. --json prints an array.

    \b
    Example:
      eventlog conflicts
      eventlog conflicts --json | jq -r '.[].reason' | sort | uniq -c
    """
    import orjson

    from projections.queries.conflicts import read_conflicts

    if as_json:
        separator = "["
        for conflict in read_conflicts(obj.home):
            print_lines([separator + orjson.dumps(conflict.to_json()).decode()])
            separator = ","
        print_line("[]" if separator == "[" else "]")
        return
    for conflict in read_conflicts(obj.home):
        print_lines(conflict.to_text())


_SIGNAL_COLUMNS = (
    *("timestamp", "symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "state", "outcome", "profit_loss_pct", "signal_id"),
)
_GROUP_COLUMNS = (
    *("total_signals", "open", "wins", "losses", "breakevens", "expired"),
    *("win_rate", "win_rate_low", "win_rate_high", "average_return", "median_return"),
    *("profit_factor", "best", "worst", "mean_holding_s"),
)
_BAND_COLUMNS = ("from", "to", "count", "mean_confidence", "win_rate")


def _label(key: str) -> str:
    """The key without its unit, which the text of its value has."""
    return key.removesuffix("_s")
