"""The commands on delivery: `parked list|retry|discard` and `reconcile`.

Invariant: a signal is sent by one process per home: by the running daemon, else by the command.
"""

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventlog.plumbing import (
    EXIT_PROBLEM,
    JSON_OPTION,
    CommandContext,
    WrongUsage,
    count_text,
    print_line,
    print_message,
    print_problem,
)
from projections.cli.common import print_json, print_table
from projections.cli.settings import alpine_config

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from projections.delivery.outbox_rows import ParkedSignal
    from projections.delivery.projection import AlpineConfig
    from projections.delivery.reconcile import ReconcileReport
    from projections.delivery.requests import RequestCounts


_HEADINGS = ("seq", "kind", "status", "attempts", "last", "next", "signal_id", "answer")
_SHOWN_MAX = 20  # differences of each kind in the text output; --json has more
_ANSWER_CHARS = 60  # of an answer in the table; --json has all of it

_COMPLETIONS_MAX = 100  # seqs that a shell offers: more would fill the screen


def _complete_parked(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """The seqs of parked signals, each with what is known of it."""
    from click.shell_completion import CompletionItem

    from projections.delivery.outbox import outbox_path, read_parked

    given = ctx.params["seqs"] or ()
    home = Path(ctx.find_root().params["home"] or ".")
    found = [
        CompletionItem(str(row.seq), help=f"{row.kind} {row.signal_id}")
        for row in read_parked(outbox_path(home))
        if str(row.seq).startswith(incomplete) and row.seq not in given
    ]
    return found[:_COMPLETIONS_MAX]


_SEQS_ARGUMENT = click.argument(
    "seqs",
    nargs=-1,
    type=click.IntRange(min=1),
    metavar="[SEQ]...",
    shell_complete=_complete_parked,
)
_ALL_OPTION = click.option("--all", "all_", is_flag=True, help="Every parked signal.")


@click.group()
def parked() -> None:
    """List, retry or discard parked signals.

    A parked signal is a dead letter: Alpine does not accept it, it is kept with the reason, and it
    blocks no other signal. There are two kinds. `refused`: Alpine answered that the signal is
    invalid (400 or 422); it is retried only by `parked retry`. `failing`: Alpine answers 500 to
    this signal while it accepts others; it is retried for ever, at a growing interval.

    \b
    Example:
      eventlog parked list
      eventlog parked retry 17 42
      eventlog parked retry --all
      eventlog parked discard 17
    """


@parked.command("list")
@JSON_OPTION
@click.pass_obj
def list_(obj: CommandContext, as_json: bool) -> None:
    """List parked signals in log order.

    The table has the seq, the kind, the last HTTP status, the number of attempts, the time of the
    last and of the next one, the signal_id, and Alpine's answer. --json prints an array with all
    fields.

    \b
    Example:
      eventlog parked list
      eventlog parked list --json | jq '.[].seq'
    """
    rows = _parked_rows(Path(obj.home))
    if as_json:
        print_json([_as_json(row) for row in rows])
        return
    if rows:
        print_table(_HEADINGS, map(_cells, rows))


@parked.command()
@_SEQS_ARGUMENT
@_ALL_OPTION
@JSON_OPTION
@click.pass_obj
def retry(obj: CommandContext, seqs: tuple[int, ...], all_: bool, as_json: bool) -> None:
    """Send parked signals to Alpine again, now.

    Name the signals by SEQ, as `eventlog parked list` shows them, or use --all. The delivering
    daemon sends them; if none runs, this command does. Prints how many were delivered. Exit code 1
    if some are still parked or not sent yet, or if a SEQ is not that of a parked signal.

    \b
    Example:
      eventlog parked retry 17 42
      eventlog parked retry --all
    """
    from projections.delivery.outbox import RETRY

    done = _execute_on_parked(obj, RETRY, seqs, all_)
    _print_counts(done, as_json)
    if done.parked or done.left or (done.gone and not all_):
        sys.exit(EXIT_PROBLEM)


@parked.command()
@_SEQS_ARGUMENT
@_ALL_OPTION
@JSON_OPTION
@click.pass_obj
def discard(obj: CommandContext, seqs: tuple[int, ...], all_: bool, as_json: bool) -> None:
    """Give up parked signals.

    Name the signals by SEQ, as `eventlog parked list` shows them, or use --all. They are not sent
    again. They stay in the log, and `eventlog reconcile` still reports them as missing at Alpine.
    Exit code 1 if a SEQ is not that of a parked signal.

    \b
    Example:
      eventlog parked discard 17
      eventlog parked discard --all
    """
    from projections.delivery.outbox import DISCARD

    done = _execute_on_parked(obj, DISCARD, seqs, all_)
    _print_counts(done, as_json)
    if done.left or (done.gone and not all_):
        sys.exit(EXIT_PROBLEM)


@click.command()
@click.option("--replay", is_flag=True, help="Send the missing signals to Alpine.")
@click.option(
    "--exclusive",
    is_flag=True,
    help="Only this log feeds Alpine, so count extra signals as an error.",
)
@JSON_OPTION
@click.pass_obj
def reconcile(obj: CommandContext, replay: bool, exclusive: bool, as_json: bool) -> None:
    """Compare the log with Alpine, by hash.

    Reports three kinds of difference. missing: in the log but not at Alpine. different: at Alpine
    under the same hash, but with another symbol, action, price, target, stop or confidence. extra:
    at Alpine only, for example because another service feeds it too. Exit code 1 if a signal is
    missing or different, and with --exclusive also if one is extra.

    If Alpine does not list hashes, the two cannot be compared; --replay then sends all signals
    again, and Alpine answers `duplicate` to those that it has.

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
        print_message(f"{error.what}: sending all signals again")
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
        sys.exit(EXIT_PROBLEM)


def _home(obj: CommandContext) -> Path:
    """The home, which must hold a log."""
    from eventlog.plumbing import require_home

    require_home(obj.home)
    return Path(obj.home)


def _parked_rows(home: Path) -> "list[ParkedSignal]":
    import sqlite3

    from eventlog.plumbing import require_home
    from projections.delivery.outbox import outbox_path, read_parked
    from projections.errors import ProjectionError

    require_home(home)
    path = outbox_path(home)
    try:
        return read_parked(path)
    except FileNotFoundError:
        return []  # delivery has not started yet
    except (OSError, sqlite3.Error) as error:
        raise ProjectionError(
            f"the delivery state cannot be read: {error}",
            where=str(path),
            do="the daemon sets a damaged file aside when it starts",
        ) from error


def _execute_on_parked(
    obj: CommandContext, what: str, seqs: tuple[int, ...], all_: bool
) -> "RequestCounts":
    """Executes a request for parked signals; reports each seq that is not one of them."""
    if bool(seqs) == all_:
        raise WrongUsage(
            "both SEQs and --all are given" if all_ else "no signal is named",
            do="give SEQs, as `eventlog parked list` shows them, or --all",
        )
    parked_seqs = [row.seq for row in _parked_rows(Path(obj.home))]
    if all_:
        return _execute(obj, what, parked_seqs)
    chosen = list(dict.fromkeys(seqs))
    unknown = [seq for seq in chosen if seq not in parked_seqs]
    for seq in unknown:
        print_problem(f"entry {seq} is not parked: see `eventlog parked list`")
    done = _execute(obj, what, [seq for seq in chosen if seq in parked_seqs])
    return replace(done, asked=done.asked + len(unknown), gone=done.gone + len(unknown))


def _execute(obj: CommandContext, what: str, seqs: list[int]) -> "RequestCounts":
    import asyncio

    from projections.delivery.requests import RequestCounts, execute_request

    home = _home(obj)
    if not seqs:
        return RequestCounts(asked=0)
    return asyncio.run(execute_request(home, alpine_config(), what, seqs))


def _compare(home: Path, config: "AlpineConfig") -> "ReconcileReport":
    import asyncio

    from projections.alpine.client import AlpineClient
    from projections.alpine.credentials import KeyUnavailable
    from projections.delivery.reconcile import compare_with_alpine
    from projections.errors import ProjectionError

    config.require_valid()
    if not config.url:
        raise ProjectionError(
            "ALPINE_API_URL is not set", do="set it, and ALPINE_API_KEY_FILE to a file with the key"
        )

    async def run() -> "ReconcileReport":
        client = AlpineClient(config.url, config.key)
        try:
            return await compare_with_alpine(home, client)
        except KeyUnavailable as error:
            do = "put the key into a file that ALPINE_API_KEY_FILE names"
            raise KeyUnavailable(error.what, where=error.where, do=do) from None
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
        "duplicate": "already at Alpine",
        "parked": "still parked",
        "discarded": "discarded",
        "gone": "not parked",
        "left": "waiting until Alpine accepts signals again",
    }
    parts = [f"{counts[name]} {text}" for name, text in labels.items() if counts[name]]
    print_line(f"{count_text(done.asked, 'signal')}: {', '.join(parts) or 'nothing to do'}")


def _print_comparison(found: "ReconcileReport") -> None:
    from eventlog.plumbing import printable_value

    print_line(f"{count_text(found.in_log, 'signal')} in the log, {found.at_alpine:,} at Alpine")
    print_line(f"missing:   {found.missing_count}")
    for missing in found.missing[:_SHOWN_MAX]:
        print_line(f"  seq {missing.seq}  {missing.why}  {printable_value(missing.signal_id)}")
    print_line(f"different: {found.different_count}")
    for row in found.different[:_SHOWN_MAX]:
        fields = ", ".join(
            f"{name} {printable_value(mine)} here, {printable_value(theirs)} there"
            for name, (mine, theirs) in row.fields.items()
        )
        print_line(f"  seq {row.seq}  {fields}  {printable_value(row.signal_id)}")
    print_line(f"extra:     {found.extra_count}")


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
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
