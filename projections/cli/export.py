"""The command `export`.

What it needs is imported when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import sys
from pathlib import Path

import click

from projections.cli.common import AS_OF, GlobalOptions

STDOUT = "-"


@click.command()
@click.option("--format", "format_", type=click.Choice(["csv", "parquet"]), default="csv")
@AS_OF
@click.option("--symbol", metavar="S", help="Of this symbol only.")
@click.option("--output", metavar="FILE", default=STDOUT, help="A file; default: - for stdout.")
@click.option("--json", "as_json", is_flag=True, help="Say as JSON which data it is.")
@click.pass_obj
def export(
    obj: GlobalOptions,
    format_: str,
    as_of: str | None,
    symbol: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Write the signals with their outcomes to a file, and say which data it is.

    `seq` and `chain` of the last entry of the log that it takes into account name the data: they
    stand in the metadata of Parquet, and in FILE.meta.json beside a CSV; with stdout they go to
    stderr. FILE appears whole or not at all. Text in CSV that a spreadsheet would run gets a '
    before it. With --as-of, what was known then: see `eventlog signals --help`.

    \b
    Example:
      eventlog export > signals.csv
      eventlog export --format parquet --output signals.parquet
      eventlog export --as-of 2025-11-18T02:00:00Z --output then.csv
    """
    import signal
    from functools import partial

    import orjson

    from eventlog.plumbing import Progress, printable_value
    from projections.queries.export import CSV, atomic_file, write_metadata
    from projections.queries.export import export as export_to

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is removed
    is_stdout = output == STDOUT
    if is_stdout and format_ != CSV and sys.stdout.isatty():
        raise click.UsageError("Parquet is not for a terminal: name a file with --output")
    write = partial(export_to, Path(obj.home), format=format_, as_of=as_of, symbol=symbol)
    with Progress("exporting") as progress:
        if is_stdout:
            metadata = write(sys.stdout.buffer, progress=progress)
            sys.stdout.buffer.flush()
        else:
            with atomic_file(Path(output)) as file:
                metadata = write(file, progress=progress)
    if not is_stdout and format_ == CSV:
        write_metadata(Path(output), metadata)
    to = "" if is_stdout else f" to {printable_value(output)}"
    summary = f"{metadata.rows} signals{to}: seq {metadata.seq}, chain {metadata.chain}"
    click.echo(orjson.dumps(metadata.to_json()).decode() if as_json else summary, err=is_stdout)
