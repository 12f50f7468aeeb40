"""The command `export`.

Invariant: the output file appears complete or not at all.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from eventlog.plumbing import CommandContext, WrongUsage
from projections.cli.common import COLUMNS_OPTION, filter_options, usage_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.export.writer import ExportMetadata
    from projections.queries.filters import FilterArguments

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
@filter_options
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), help="Only the N newest. Default: all."
)
@COLUMNS_OPTION
@click.option("--raw", is_flag=True, help="CSV for programs: no ' before text like a formula.")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(allow_dash=True, readable=False),
    default=STDOUT,
    help="Output file. Default: -, standard output.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def export(
    obj: CommandContext,
    /,
    format_: str,
    symbol: str | None,
    as_of: str | None,
    limit: int | None,
    columns: tuple[str, ...],
    raw: bool,
    output: str,
    as_json: bool,
    **filters: "Unpack[FilterArguments]",
) -> None:
    """Write the signals and their outcomes to a file.

    The output has one row per signal, including its outcome and state. The options select signals
    as in `eventlog signals --help`; --limit keeps the newest by timestamp. --columns adds further
    keys of the signals: in CSV, lists and objects are JSON text. The seq and chain of the last log
    entry it includes identify the data: a Parquet file has them in its metadata, a CSV file in
    FILE.meta.json beside it. They are also in the summary, which goes to stdout, or to stderr when
    the data goes to stdout. FILE appears complete or not at all.

    In CSV, text that a spreadsheet would execute as a formula gets a leading ', unless --raw is
    given. With --as-of, the data is that of a past time.

    \b
    Example:
      eventlog export > signals.csv
      eventlog export --format parquet --output signals.parquet
      eventlog export --as-of 2025-11-18T02:00:00Z --output then.csv
      eventlog export --strategy momentum --columns rsi,regime --raw | python analyse.py
    """
    from functools import partial

    from projections.export.pages import COLUMNS
    from projections.export.writer import CSV
    from projections.export.writer import export as export_to
    from projections.queries.filters import signal_filter
    from projections.queries.selection import further_columns

    if output == STDOUT and format_ != CSV and sys.stdout.isatty():
        raise WrongUsage("Parquet cannot be shown on a terminal", do="name a file with --output")
    with usage_errors("--columns"):
        further_columns(columns, COLUMNS)
    write = partial(
        export_to,
        Path(obj.home),
        format=format_,
        as_of=as_of,
        chosen=signal_filter(symbol=symbol, limit=limit, **filters),
        columns=columns,
        raw=raw,
    )
    _print_summary(_write(write, obj.home, output), output, as_json=as_json)


def _write(write: "Callable[..., ExportMetadata]", home: str, output: str) -> "ExportMetadata":
    """Writes the data, and for a CSV file the metadata beside it."""
    from eventlog.plumbing import output_file, progress_bar
    from projections.export.writer import CSV, write_metadata

    with progress_bar("exporting") as progress:
        if output == STDOUT:
            metadata = write(sys.stdout.buffer, progress=progress)
            sys.stdout.buffer.flush()
            return metadata
        with output_file(output, home=home) as file:
            metadata = write(file, progress=progress)
    if metadata.format == CSV:
        write_metadata(Path(output), metadata, home=Path(home))
    return metadata


def _print_summary(metadata: "ExportMetadata", output: str, *, as_json: bool) -> None:
    import orjson

    from eventlog.plumbing import count_text, print_line, print_message, printable_value

    position = metadata.position
    to = "" if output == STDOUT else f" to {printable_value(output)}"
    signals = count_text(metadata.rows, "signal")
    summary = f"{signals}{to}: seq {position.seq}, chain {position.chain}"
    text = orjson.dumps(metadata.to_json()).decode() if as_json else summary
    print_message(text) if output == STDOUT else print_line(text)
