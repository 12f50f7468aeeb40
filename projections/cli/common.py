"""Shared by the commands of the read side: option types and output.

Modules that a command needs are imported when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import click

from eventlog.plumbing import print_line


class _Seconds(click.FloatRange):
    """A finite number of seconds. `nan` would pass any range, and no wait would ever end."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a number of seconds.", param, ctx)
        return number


SECONDS = _Seconds(min=0)


def _parse_as_of(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from projections.errors import ProjectionError
    from projections.queries.as_of import parse_as_of

    try:
        return None if value is None else parse_as_of(value)
    except ProjectionError as error:
        raise click.BadParameter(f"{error.what}: {error.do}", ctx, param) from None


AS_OF_OPTION = click.option(
    "--as-of",
    metavar="TIME",
    callback=_parse_as_of,
    help="Answer from what the log had recorded by TIME, for example 2025-11-18T02:00:00Z."
    " Default: now.",
)
SYMBOL_OPTION = click.option("--symbol", metavar="SYMBOL", help="Only this symbol. Default: all.")


class Reportable(Protocol):
    """A result in both forms."""

    def to_json(self) -> dict[str, object]: ...
    def to_text(self) -> list[str]: ...


def print_result(result: Reportable, *, as_json: bool) -> None:
    """Prints a result on stdout: one line of JSON, or its lines of text."""
    if as_json:
        print_json(result.to_json())
    else:
        print_line("\n".join(result.to_text()))


def print_json(found: object) -> None:
    """Prints one line of JSON on stdout."""
    import orjson

    print_line(orjson.dumps(found).decode())


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints rows of text below their headings, in columns aligned at the left."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        pairs = zip(cells, widths, strict=True)
        print_line("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
