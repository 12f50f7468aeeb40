"""Commands of the read side. They join the `eventlog` command by its entry-point group.

Beside eventlog/cli.py the one module that reads the environment. What a command needs is imported
when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog/cli.py.
"""

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from projections.delivery import AlpineConfig, AlpineProjection

EXIT_BAD_NEWS = 1
EXIT_COULD_NOT_RUN = 3
_PATH = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Seconds(click.FloatRange):
    """A number of seconds. `nan` passes any range, and no duration is ever as long as it."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a number of seconds.", param, ctx)
        return number


SECONDS = _Seconds(min=0)


def alpine_projection() -> "AlpineProjection":
    """What the entry point `alpine` makes: delivery as the environment says."""
    from projections.delivery import AlpineProjection

    return AlpineProjection(alpine_config(), died=end_process)


def end_process(_error: BaseException) -> None:
    """A daemon whose delivery has died must not go on as if it delivered; it was said by then."""
    raise SystemExit(EXIT_COULD_NOT_RUN)


def alpine_config() -> "AlpineConfig":
    """Where Alpine is and with which key. An empty variable is unset."""
    from projections.delivery import AlpineConfig
    from projections.keys import FileKey, FixedKey

    def setting(name: str) -> str:
        return os.environ.get(name, "").strip()

    url, key_file = setting("ALPINE_API_URL"), setting("ALPINE_API_KEY_FILE")
    key_name = "ALPINE_API_KEY" if setting("ALPINE_API_KEY") else "ARGO_API_KEY"
    disabled = None
    if setting("ALPINE_SYNC_ENABLED").lower() in ("false", "0", "no", "off"):
        disabled = "ALPINE_SYNC_ENABLED is false"
    elif not url:
        disabled = "ALPINE_API_URL is not set"
    elif not key_file and not setting(key_name):
        disabled = "neither ALPINE_API_KEY_FILE nor ALPINE_API_KEY is set"
    key = FileKey(Path(key_file)) if key_file else FixedKey(setting(key_name), key_name)
    return AlpineConfig(url=url, key=key, disabled=disabled)


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from projections.as_of import moment_of
    from projections.errors import ProjectionError

    try:
        return None if value is None else moment_of(value)
    except ProjectionError as error:
        raise click.BadParameter(f"{error.what}: {error.do}", ctx, param) from None


AS_OF = click.option(
    "--as-of",
    metavar="TIME",
    callback=_moment,
    help="What was known at TIME, such as 2025-11-18T02:00:00Z.",
)


class Context(Protocol):
    """What the options before the command said."""

    @property
    def home(self) -> str: ...


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def status(obj: Context, as_json: bool) -> None:
    """Say what the log holds, and how far each projection is behind it.

    lag_entries counts entries not applied yet, lag_seconds is the age of the oldest of them; both
    are measured against the log's real end, whether a daemon runs or not. `backup` is the last
    one that `backup --verify` has proven, and how long ago.

    \b
    Example:
      eventlog status
      eventlog status --json | jq .projections.sqlite.lag_entries
    """
    from projections.status import status as read_status

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
def wait(obj: Context, seq: int, stage: str, timeout_s: float | None) -> None:
    """Return when entry SEQ is in the table, or at Alpine.

    Exit code 1 when it is not there in time, or never will be.

    \b
    Example:
      eventlog wait 42 --for projected --timeout 5
    """
    from eventlog import log_status
    from projections.waiting import Parked, WaitTimeout
    from projections.waiting import wait as wait_for

    log_status(obj.home, count=False)  # where there is no log of ours, nothing will ever come
    try:
        wait_for(obj.home, seq, stage, timeout_s)
    except (WaitTimeout, Parked) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_BAD_NEWS)


@click.command()
@click.option("--symbol", metavar="S", help="Of this symbol only.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True)
@AS_OF
@click.option("--json", "as_json", is_flag=True, help="A JSON array, with all columns.")
@click.pass_obj
def signals(obj: Context, symbol: str | None, limit: int, as_of: str | None, as_json: bool) -> None:
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

    from eventlog import log_status
    from projections.queries import SignalStore

    log_status(obj.home, count=False)  # refuses a home that is not ours

    async def ask() -> list[dict[str, object]]:
        async with SignalStore(obj.home) as store:
            return await store.latest(symbol, limit, as_of=as_of)

    found = asyncio.run(ask())
    if as_json:
        print_json(found)
        return
    shown = [[_cell(row[column]) for column in _SHOWN] for row in found]
    widths = [max(map(len, cells)) for cells in zip(_SHOWN, *shown, strict=True)]
    for cells in (_SHOWN, *shown):
        pairs = zip(cells, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())


@click.command()
@AS_OF
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def stats(obj: Context, as_of: str | None, as_json: bool) -> None:
    """Say how the signals did: wins, losses, win rate, average return.

    win_rate is the percentage of wins among wins and losses; average_return is the mean
    profit_loss_pct of the signals that have an outcome. With --as-of, what they were at that
    moment: see `eventlog signals --help`.

    \b
    Example:
      eventlog stats --json | jq .win_rate
    """
    import asyncio

    from eventlog import log_status
    from projections.queries import SignalStore

    log_status(obj.home, count=False)  # refuses a home that is not ours

    async def ask() -> dict[str, object]:
        async with SignalStore(obj.home) as store:
            return await store.stats(as_of=as_of)

    found = asyncio.run(ask())
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        click.echo(f"{key:<16} {'-' if value is None else value}")


@click.command("import-legacy")
@click.option("--log", "log_file", type=_EXISTING, help="The old tracker's signals.log.")
@click.option("--db", "database", type=_EXISTING, help="The old tracker's signals.db.")
@click.option("--rejects", type=_PATH, help="Where to keep what cannot pass, as it was.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_obj
def import_legacy(
    obj: Context,
    log_file: Path | None,
    database: Path | None,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Bring an old tracker's signals into the log of a new home.

    Line and row of one signal_id become one signal; outcomes become `closed`, order ids
    `executed`. Running it again adds nothing twice. For --as-of they count from this import on.
    Exit code 1 when something was refused.

    \b
    Example:
      eventlog --home ./new import-legacy --log old/logs/signals.log --db old/data/signals.db \\
        --rejects rejects.jsonl
    """
    from contextlib import nullcontext

    from eventlog import Progress
    from projections.legacy import import_legacy as run_import

    if log_file is None and database is None:
        raise click.UsageError("name at least one of --log and --db")
    sources = [source for source in (log_file, database) if source is not None]
    if rejects is not None and rejects.exists() and any(map(rejects.samefile, sources)):
        raise click.UsageError("--rejects names a file that is read: name another")
    keeping = rejects.open("wb") if rejects is not None else nullcontext()
    with keeping as rejects_file, Progress("importing") as progress:
        report = run_import(
            Path(obj.home),
            log_file=log_file,
            database=database,
            rejects=rejects_file,
            progress=progress,
        )
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(f"signals: {report.signals_imported} imported, {report.signals_known} known")
        click.echo(f"facts:   {report.facts_imported} imported, {report.facts_known} known")
        click.echo(f"refused: {report.refused_count}")
        for refused in report.refused:
            click.echo(f"  {refused.where}: {refused.reason}")
        if report.refused_count and rejects is None:
            click.echo("  (not kept: name a file with --rejects)")
    if report.refused_count:
        sys.exit(EXIT_BAD_NEWS)


@click.command("rebuild-database")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def rebuild_database(obj: Context, as_json: bool) -> None:
    """Build the signals table anew from the log, verified, and swap it in.

    Every chain and every sha256 is checked. Readers and a running daemon go on: they see the old
    table or the new one, whole. A damaged database is set aside and replaced; on a damaged log the
    old table stays. Ends with the number of entries and rows, the digest of the new table, and how
    many rows were added, removed and changed against the old one.

    \b
    Example:
      eventlog rebuild-database
      eventlog rebuild-database --json | jq .digest
    """
    import signal

    from eventlog import Progress
    from projections.rebuild import rebuild

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is removed
    with Progress("rebuilding") as progress:
        rebuilt = rebuild(Path(obj.home), progress=progress)
    if as_json:
        print_json(rebuilt.to_json())
    else:
        click.echo("\n".join(rebuilt.to_text()))


@click.command()
@click.pass_obj
def digest(obj: Context) -> None:
    """Print the SHA-256 of the signals table: equal for equal tables, on any machine.

    It is taken over the rows in the order of their id, each a line of compact JSON.

    \b
    Example:
      test "$(eventlog --home a digest)" = "$(eventlog --home b digest)"
    """
    from projections.rebuild import digest_of

    click.echo(digest_of(Path(obj.home)))


_SHOWN = (
    *("timestamp", "symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "outcome", "profit_loss_pct", "signal_id"),
)


def _cell(value: object) -> str:
    from eventlog import shown

    return "-" if value is None else shown(value)


def print_json(found: object) -> None:
    """One line of JSON on stdout."""
    import orjson

    click.echo(orjson.dumps(found).decode())


def _as_dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict), "status gives objects of objects"
    return value
