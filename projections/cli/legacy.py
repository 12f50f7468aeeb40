"""The command `import-legacy`.

Invariant: the old tracker's files are only read.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass
from projections.cli.common import EXIT_BAD_NEWS, GlobalOptions, print_json

_PATH = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("import-legacy")
@click.option("--log", "log_file", type=_EXISTING, help="The old tracker's signals.log.")
@click.option("--db", "database", type=_EXISTING, help="The old tracker's signals.db.")
@click.option("--rejects", type=_PATH, help="Where to keep what cannot pass, as it was.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@click.pass_obj
def import_legacy(
    obj: GlobalOptions,
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

    from eventlog.plumbing import Progress
    from projections.legacy.importer import import_legacy as run_import

    if log_file is None and database is None:
        raise click.UsageError("name at least one of --log and --db")
    sources = [source for source in (log_file, database) if source is not None]
    if rejects is not None and rejects.exists() and any(map(rejects.samefile, sources)):
        raise click.UsageError("--rejects names a file that is read: name another")
    opened = rejects.open("wb") if rejects is not None else nullcontext()
    with opened as rejects_file, Progress("importing") as progress:
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
