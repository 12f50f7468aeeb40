"""The command `export`.

Invariant: the output file appears complete or not at all.
"""

import sys
from pathlib import Path

import click

from eventlog.plumbing import CommandContext
from projections.cli.common import AS_OF_OPTION, SYMBOL_OPTION

STDOUT = "-"


@click.command()
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "parquet"]),
    default="csv",
    show_default=True,
    help="Format of the output. Parquet needs the extra `parquet`.",
)
@AS_OF_OPTION
@SYMBOL_OPTION
@click.option(
    "--output", metavar="FILE", default=STDOUT, help="Output file. Default: -, standard output."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def export(
    obj: CommandContext,
    format_: str,
    as_of: str | None,
    symbol: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Write the signals and their outcomes to a file.

    The output has one row per signal, including its outcome. The seq and chain of the last log
    entry it includes identify the data: a Parquet file has them in its metadata, a CSV file in
    FILE.meta.json beside it. They are also in the summary, which goes to stdout, or to stderr when
    the data goes to stdout. FILE appears complete or not at all.

    In CSV, text that a spreadsheet would execute as a formula gets a leading '. With --as-of, the
    data is that of a past time: see `eventlog signals --help`.

    \b
    Example:
      eventlog export > signals.csv
      eventlog export --format parquet --output signals.parquet
      eventlog export --as-of 2025-11-18T02:00:00Z --output then.csv
    """
    from functools import partial

    import orjson

    from eventlog.plumbing import (
        output_file,
        print_line,
        print_message,
        printable_value,
        progress_bar,
    )
    from projections.queries.export import CSV, write_metadata
    from projections.queries.export import export as export_to

    is_stdout = output == STDOUT
    if is_stdout and format_ != CSV and sys.stdout.isatty():
        raise click.UsageError("Parquet cannot be shown on a terminal: name a file with --output")
    write = partial(export_to, Path(obj.home), format=format_, as_of=as_of, symbol=symbol)
    with progress_bar("exporting") as progress:
        if is_stdout:
            metadata = write(sys.stdout.buffer, progress=progress)
            sys.stdout.buffer.flush()
        else:
            with output_file(output, home=obj.home) as file:
                metadata = write(file, progress=progress)
    if not is_stdout and format_ == CSV:
        write_metadata(Path(output), metadata, home=Path(obj.home))
    to = "" if is_stdout else f" to {printable_value(output)}"
    summary = f"{metadata.rows} signals{to}: seq {metadata.seq}, chain {metadata.chain}"
    text = orjson.dumps(metadata.to_json()).decode() if as_json else summary
    print_message(text) if is_stdout else print_line(text)
