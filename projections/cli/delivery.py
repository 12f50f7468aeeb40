"""Commands about delivery: what is parked, and what Alpine has.

What a command needs is imported when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from projections.cli.common import EXIT_BAD_NEWS, GlobalOptions, print_json
from projections.cli.settings import alpine_config

if TYPE_CHECKING:
    from projections.delivery.outbox import ParkedSignal
    from projections.delivery.projection import AlpineConfig
    from projections.delivery.reconcile import ReconcileReport
    from projections.delivery.requests import RequestCounts


_HEADINGS = ("seq", "kind", "status", "attempts", "last", "next", "signal_id", "answer")
_SHOWN_MAX = 20  # differences that a person is shown of each kind; --json names more
_ANSWER_CHARS = 60  # of an answer, in a table; --json has it whole


@click.group()
def parked() -> None:
    """List, retry or discard signals that Alpine does not take.

    `refused`: Alpine calls the signal invalid; it is retried only by hand. `failing`: it answers
    500 to this signal while others pass; it is retried for ever, at a growing interval.

    \b
    Example:
      eventlog parked list
      eventlog parked retry 17 42
      eventlog parked retry --all
      eventlog parked discard 17
    """


@parked.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with all that is known.")
@click.pass_obj
def list_(obj: GlobalOptions, as_json: bool) -> None:
    """List what is parked, in the order of the log.

    \b
    Example:
      eventlog parked list
      eventlog parked list --json | jq '.[].seq'
    """
    rows = _parked_rows(Path(obj.home))
    if as_json:
        print_json([_as_json(row) for row in rows])
        return
    table = [_HEADINGS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table if rows else ():
        pairs = zip(cells, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())


@parked.command()
@click.argument("seqs", nargs=-1, type=click.IntRange(min=1), metavar="[SEQ]...")
@click.option("--all", "all_", is_flag=True, help="All that are parked.")
@click.option("--json", "as_json", is_flag=True, help="The counts as JSON.")
@click.pass_obj
def retry(obj: GlobalOptions, seqs: tuple[int, ...], all_: bool, as_json: bool) -> None:
    """Send parked signals again, now.

    The daemon that delivers does it; where none runs it is done here. Exit code 1 when some of
    them are still parked.

    \b
    Example:
      eventlog parked retry 17 42
      eventlog parked retry --all
    """
    from projections.delivery.outbox import RETRY

    done = _execute(obj, RETRY, _chosen(obj, seqs, all_))
    _print_counts(done, as_json)
    if done.parked or done.left:
        sys.exit(EXIT_BAD_NEWS)


@parked.command()
@click.argument("seqs", nargs=-1, type=click.IntRange(min=1), metavar="[SEQ]...")
@click.option("--all", "all_", is_flag=True, help="All that are parked.")
@click.option("--json", "as_json", is_flag=True, help="The counts as JSON.")
@click.pass_obj
def discard(obj: GlobalOptions, seqs: tuple[int, ...], all_: bool, as_json: bool) -> None:
    """Give parked signals up: they stay in the log, and are not tried again.

    `eventlog reconcile` goes on naming them as missing.

    \b
    Example:
      eventlog parked discard 17
    """
    from projections.delivery.outbox import DISCARD

    done = _execute(obj, DISCARD, _chosen(obj, seqs, all_))
    _print_counts(done, as_json)
    if done.left:
        sys.exit(EXIT_BAD_NEWS)


@click.command()
@click.option("--replay", is_flag=True, help="Send what is missing.")
@click.option("--exclusive", is_flag=True, help="Nobody else feeds this Alpine: extra is wrong.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_obj
def reconcile(obj: GlobalOptions, replay: bool, exclusive: bool, as_json: bool) -> None:
    """Compare the log with what Alpine has, by hash.

    missing: in the log, not at Alpine. different: the same hash with another symbol, action,
    price, target, stop or confidence. extra: at Alpine only; other services may feed it too. Exit
    code 1 for what is missing or different, and with --exclusive for what is extra.

    \b
    Example:
      eventlog reconcile
      eventlog reconcile --replay
      eventlog reconcile --json | jq '.missing_signals[].seq'
    """
    from projections.delivery.outbox import REPLAY
    from projections.delivery.reconcile import ComparisonUnsupported, all_signal_seqs

    home, config = _home(obj), alpine_config()
    found: ReconcileReport | None = None
    try:
        found = _compare(home, config)
        seqs = list(found.missing_seqs)
    except ComparisonUnsupported as error:
        if not replay:
            raise
        click.echo(f"{error.what}: all signals are sent again", err=True)
        seqs = all_signal_seqs(home)
    done = _execute(obj, REPLAY, seqs) if replay and seqs else None
    undelivered = len(seqs) if done is None else done.asked - done.stored - done.duplicate
    is_ok = not undelivered and (
        found is None or not (found.different_count or (exclusive and found.extra_count))
    )
    if as_json:
        report: dict[str, object] = {"ok": is_ok, "comparable": found is not None}
        report |= _comparison_json(found) if found is not None else {}
        print_json(report | {"replayed": asdict(done) if done is not None else None})
    else:
        if found is not None:
            _print_comparison(found)
        if done is not None:
            _print_counts(done, as_json=False)
    if not is_ok:
        sys.exit(EXIT_BAD_NEWS)


def _home(obj: GlobalOptions) -> Path:
    """The home, which must hold a log."""
    from eventlog.plumbing import log_status

    log_status(obj.home, count=False)
    return Path(obj.home)


def _parked_rows(home: Path) -> "list[ParkedSignal]":
    import sqlite3

    from eventlog.plumbing import log_status
    from projections.delivery.outbox import outbox_path, read_parked
    from projections.errors import ProjectionError

    log_status(str(home), count=False)
    path = outbox_path(home)
    try:
        return read_parked(path)
    except FileNotFoundError:
        return []  # nothing was delivered yet
    except (OSError, sqlite3.Error) as error:
        raise ProjectionError(
            f"the delivery state cannot be read: {error}",
            where=str(path),
            do="the daemon sets a damaged file aside when it starts",
        ) from error


def _chosen(obj: GlobalOptions, seqs: tuple[int, ...], all_: bool) -> list[int]:
    if bool(seqs) == all_:
        raise click.UsageError("name the seqs, as `eventlog parked list` shows them, or --all")
    return [row.seq for row in _parked_rows(Path(obj.home))] if all_ else list(dict.fromkeys(seqs))


def _execute(obj: GlobalOptions, what: str, seqs: list[int]) -> "RequestCounts":
    import asyncio

    from projections.delivery.requests import RequestCounts, execute_request

    home = _home(obj)
    if not seqs:
        return RequestCounts(asked=0)
    return asyncio.run(execute_request(home, alpine_config(), what, seqs))


def _compare(home: Path, config: "AlpineConfig") -> "ReconcileReport":
    import asyncio

    from projections.alpine.client import AlpineClient
    from projections.delivery.reconcile import compare_with_alpine
    from projections.errors import ProjectionError

    if not config.url:
        raise ProjectionError(
            "ALPINE_API_URL is not set", do="set it, and ALPINE_API_KEY_FILE to a file with the key"
        )

    async def run() -> "ReconcileReport":
        client = AlpineClient(config.url, config.key)
        try:
            return await compare_with_alpine(home, client)
        finally:
            await client.close()

    return asyncio.run(run())


def _print_counts(done: "RequestCounts", as_json: bool) -> None:
    counts: Mapping[str, int] = asdict(done)
    if as_json:
        print_json(counts)
        return
    labels = {
        "stored": "delivered now",
        "duplicate": "were at Alpine already",
        "parked": "still parked",
        "discarded": "discarded",
        "gone": "not parked",
        "left": "left to be done when Alpine lets them pass",
    }
    parts = [f"{counts[name]} {text}" for name, text in labels.items() if counts[name]]
    click.echo(f"{done.asked} signals: {', '.join(parts) or 'nothing to do'}")


def _print_comparison(found: "ReconcileReport") -> None:
    from eventlog.plumbing import printable_value

    click.echo(f"{found.in_log} signals in the log, {found.at_alpine} at Alpine")
    click.echo(f"missing:   {found.missing_count}")
    for missing in found.missing[:_SHOWN_MAX]:
        click.echo(f"  seq {missing.seq}  {missing.why}  {printable_value(missing.signal_id)}")
    click.echo(f"different: {found.different_count}")
    for row in found.different[:_SHOWN_MAX]:
        fields = ", ".join(
            f"{name} {printable_value(mine)} here, {printable_value(theirs)} there"
            for name, (mine, theirs) in row.fields.items()
        )
        click.echo(f"  seq {row.seq}  {fields}  {printable_value(row.signal_id)}")
    click.echo(f"extra:     {found.extra_count}")


def _comparison_json(found: "ReconcileReport") -> dict[str, object]:
    return {
        "signals": found.in_log,
        "at_alpine": found.at_alpine,
        "missing": found.missing_count,
        "different": found.different_count,
        "extra": found.extra_count,
        "missing_signals": [asdict(row) for row in found.missing],
        "different_signals": [asdict(row) for row in found.different],
        "extra_signals": list(found.extra),
    }


def _cells(row: "ParkedSignal") -> tuple[str, ...]:
    from eventlog.plumbing import printable_value

    body_text = printable_value(row.body)
    return (
        str(row.seq),
        row.kind,
        "-" if row.status is None else str(row.status),
        str(row.attempts),
        str(_time(row.last_at)),
        str(_time(row.next_at) or "-"),
        printable_value(row.signal_id),
        body_text if len(body_text) <= _ANSWER_CHARS else body_text[: _ANSWER_CHARS - 3] + "...",
    )


def _as_json(row: "ParkedSignal") -> dict[str, object]:
    times = {name: _time(value) for name, value in row._asdict().items() if name.endswith("_at")}
    return {**row._asdict(), **times}


def _time(seconds: float | None) -> str | None:
    from datetime import UTC, datetime

    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
