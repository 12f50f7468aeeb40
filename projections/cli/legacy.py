"""The command `import-legacy`.

Invariant: the files of the old tracker are only read.
"""

import sys
from pathlib import Path

import click

from eventlog.plumbing import EXIT_PROBLEM, JSON_OPTION, CommandContext, WrongUsage, print_line
from projections.cli.common import print_json

_PATH = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("import-legacy")
@click.option(
    "--log", "log_file", metavar="FILE", type=_EXISTING, help="The old tracker's signals.log."
)
@click.option(
    "--db", "database", metavar="FILE", type=_EXISTING, help="The old tracker's signals.db."
)
@click.option(
    "--rejects",
    metavar="FILE",
    type=_PATH,
    help="Write refused lines and rows to FILE, unchanged. Default: they are only listed.",
)
@JSON_OPTION
@click.pass_obj
def import_legacy(
    obj: CommandContext,
    log_file: Path | None,
    database: Path | None,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Import the files of the old tracker into a new home.

    Give --log, --db or both. A line and a row with the same signal_id become one signal; an outcome
    becomes a `closed` fact, an order id an `executed` fact. Running it again imports nothing twice.
    For --as-of the signals count from this import on. Exit code 1 if a line or row was refused.

    \b
    Example:
      eventlog --home ./new import-legacy --log old/logs/signals.log --db old/data/signals.db \\
        --rejects rejects.jsonl
    """
    from contextlib import nullcontext

    from eventlog.plumbing import output_file, print_note, printable, progress_bar
    from projections.legacy.importer import import_legacy as run_import

    if log_file is None and database is None:
        raise WrongUsage("no file to import from is named", do="give --log, --db or both")
    sources = [source for source in (log_file, database) if source is not None]
    if rejects is not None and rejects.exists() and any(map(rejects.samefile, sources)):
        raise WrongUsage("--rejects names a file to import from", do="name another file")
    # What an import that ends early has refused is kept: it imported the rest.
    output = (
        nullcontext()
        if rejects is None
        else output_file(rejects, home=obj.home, keeps_partial=True)
    )
    with output as rejects_file, progress_bar("importing") as progress:
        report = run_import(
            Path(obj.home),
            log_file=log_file,
            database=database,
            rejects=rejects_file,
            progress=progress,
        )
    if report.created_log:
        print_note(f"created a new log at {printable(str(Path(obj.home).absolute()))}")
    if as_json:
        print_json(report.to_json())
    else:
        print_line(f"signals: {report.signals_imported} imported, {report.signals_known} known")
        print_line(f"facts:   {report.facts_imported} imported, {report.facts_known} known")
        print_line(f"refused: {report.refused_count}")
        for refused in report.refused:
            print_line(f"  {refused.where}: {refused.reason}")
        if report.refused_count and rejects is None:
            print_line("  (not saved: name a file with --rejects)")
    if report.refused_count:
        sys.exit(EXIT_PROBLEM)
