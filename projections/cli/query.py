"""Commands that read: status, wait, signals, stats, digest.

Invariant: they change nothing.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass
from projections.cli.common import AS_OF, EXIT_BAD_NEWS, SECONDS, GlobalOptions, print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def status(obj: GlobalOptions, as_json: bool) -> None:
    """Say what the log holds, and how far each projection is behind it.

    lag_entries counts entries not applied yet, lag_seconds is the age of the oldest of them; both
    are measured against the log's real end, whether a daemon runs or not. `backup` is the last
    one that `backup --verify` has proven, and how long ago.

    \b
    Example:
      eventlog status
      eventlog status --json | jq .projections.sqlite.lag_entries
    """
    from projections.monitoring.status import status as read_status

    found = read_status(obj.home)
    if as_json:
        print_json(found)
        return
    backup = found["backup"] or {"proven_seq": None}
    sections = {"log": found["log"], **_as_dict(found["projections"]), "backup": backup}
    for name, figures in sections.items():
        click.echo(f"{name}:")
        for key, value in _as_dict(figures).items():
            click.echo(f"  {key:<18} {'-' if value is None else value}")


@click.command()
@click.argument("seq", type=click.IntRange(min=0))
@click.option(
    "--for",
    "stage",
    type=click.Choice(["projected", "delivered"]),
    default="projected",
    show_default=True,
)
@click.option("--timeout", "timeout_s", type=SECONDS, help="Seconds; default: none.")
@click.pass_obj
def wait(obj: GlobalOptions, seq: int, stage: str, timeout_s: float | None) -> None:
    """Return when entry SEQ is in the table, or at Alpine.

    Exit code 1 when it is not there in time, or never will be.

    \b
    Example:
      eventlog wait 42 --for projected --timeout 5
    """
    from eventlog.plumbing import log_status
    from projections.queries.wait import SignalParked, WaitTimeout
    from projections.queries.wait import wait as wait_for

    log_status(obj.home, count=False)  # where there is no log of ours, nothing will ever come
    try:
        wait_for(obj.home, seq, stage, timeout_s)
    except (WaitTimeout, SignalParked) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_BAD_NEWS)


@click.command()
@click.option("--symbol", metavar="S", help="Of this symbol only.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True)
@AS_OF
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with all columns.")
@click.pass_obj
def signals(
    obj: GlobalOptions, symbol: str | None, limit: int, as_of: str | None, as_json: bool
) -> None:
    """List signals, the newest first.

    With --as-of, what was known at that moment: what the log had recorded by then, without the
    outcomes and order ids that it recorded later. Signals that import-legacy brought in count from
    their import on. The answer is always the same; a moment that is not over is refused.

    \b
    Example:
      eventlog signals --symbol AAPL --limit 5
      eventlog signals --as-of 2025-11-18T02:00:00Z
      eventlog signals --json | jq '.[].confidence'
    """
    import asyncio

    from eventlog.plumbing import log_status
    from projections.queries.store import SignalStore

    log_status(obj.home, count=False)  # refuses a home that is not ours

    async def query() -> list[dict[str, object]]:
        async with SignalStore(obj.home) as store:
            return await store.latest(symbol, limit, as_of=as_of)

    found = asyncio.run(query())
    if as_json:
        print_json(found)
        return
    printable_value = [[_cell(row[column]) for column in _SIGNAL_COLUMNS] for row in found]
    widths = [max(map(len, cells)) for cells in zip(_SIGNAL_COLUMNS, *printable_value, strict=True)]
    for cells in (_SIGNAL_COLUMNS, *printable_value):
        pairs = zip(cells, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())


@click.command()
@AS_OF
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def stats(obj: GlobalOptions, as_of: str | None, as_json: bool) -> None:
    """Say how the signals did: wins, losses, win rate, average return.

    win_rate is the percentage of wins among wins and losses; average_return is the mean
    profit_loss_pct of the signals that have an outcome. With --as-of, what they were at that
    moment: see `eventlog signals --help`.

    \b
    Example:
      eventlog stats --json | jq .win_rate
    """
    import asyncio

    from eventlog.plumbing import log_status
    from projections.queries.store import SignalStore

    log_status(obj.home, count=False)  # refuses a home that is not ours

    async def query() -> dict[str, object]:
        async with SignalStore(obj.home) as store:
            return await store.stats(as_of=as_of)

    found = asyncio.run(query())
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key:<16} {'-' if value is None else value}")


@click.command()
@click.pass_obj
def digest(obj: GlobalOptions) -> None:
    """Print the SHA-256 of the signals table: equal for equal tables, on any machine.

    It is taken over the rows in the order of their id, each a line of compact JSON.

    \b
    Example:
      test "$(eventlog --home a digest)" = "$(eventlog --home b digest)"
    """
    from projections.rebuild.rebuild import digest_of

    click.echo(digest_of(Path(obj.home)))


_SIGNAL_COLUMNS = (
    *("timestamp", "symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "outcome", "profit_loss_pct", "signal_id"),
)


def _cell(value: object) -> str:
    from eventlog.plumbing import printable_value

    return "-" if value is None else printable_value(value)


def _as_dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict), "status gives objects of objects"
    return value
