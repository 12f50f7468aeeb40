"""Shared by the commands of the read side: option types and output.

Modules that a command needs are imported when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from eventlog.plumbing import WrongUsage, print_line

if TYPE_CHECKING:
    from projections.serving.address import Address

Command = TypeVar("Command", bound=Callable[..., Any])


def _parse_as_of(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    from projections.errors import ProjectionError
    from projections.queries.as_of import parse_as_of

    try:
        return None if value is None else parse_as_of(value)
    except ProjectionError as error:
        raise WrongUsage(f"--{error.what}", do=error.do) from None


def _parse_time(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from projections.errors import ProjectionError
    from projections.queries.times import as_timestamp, parse_moment

    try:
        return None if value is None else as_timestamp(parse_moment(str(param.name), value))
    except ProjectionError as error:
        raise WrongUsage(f"--{error.what}", do=error.do) from None


def log_lifecycle(logger: str) -> None:
    """Shows what a daemon logs of its life at the default level, not with -q.

    `logger`: the module that logs start, ready, stopping and the like, and nothing else as INFO.
    """
    if logging.getLogger().level == logging.WARNING:
        logging.getLogger(logger).setLevel(logging.INFO)


def listen_address(text: str) -> "Address":
    """The address that --listen gives. Raises WrongUsage."""
    from projections.serving.address import parse_address

    try:
        return parse_address(text)
    except ValueError as error:
        raise WrongUsage(f"--listen: {error}", do="name an address and a free port") from None


def require_host_names(option: str, names: Sequence[str]) -> None:
    """Raises WrongUsage for a name that no Host header can have."""
    from projections.serving.address import is_host_name

    for name in names:
        if not is_host_name(name):
            what = f"{option}: {name[:80]!r} is not a host name"
            raise WrongUsage(what, do="give it without scheme and port, like log.example.com")


def _split_columns(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[str, ...]:
    return () if value is None else tuple(value.split(","))


AS_OF_OPTION = click.option(
    "--as-of",
    metavar="TIME",
    callback=_parse_as_of,
    help="Answer from what the log had recorded by TIME, for example 2025-11-18T02:00:00Z."
    " Default: now.",
)
COLUMNS_OPTION = click.option(
    "--columns",
    metavar="KEY,...",
    callback=_split_columns,
    help="Further keys of the signals as columns, for example rsi,regime. Default: none.",
)
# The outcomes are those of `projections.queries.filters`, which loads slowly.
_FILTER_OPTIONS = (
    click.option("--symbol", metavar="SYMBOL", help="Only this symbol. Default: all."),
    click.option("--strategy", metavar="NAME", help="Only this strategy. Default: all."),
    click.option(
        "--action",
        type=click.Choice(["BUY", "SELL"], case_sensitive=False),
        help="Only this action. Default: both.",
    ),
    click.option(
        "--outcome",
        type=click.Choice(["win", "loss", "breakeven", "expired", "open"], case_sensitive=False),
        help="Only this outcome; open: signals without one. Default: all.",
    ),
    click.option(
        "--since",
        metavar="TIME",
        callback=_parse_time,
        help="Only signals with a timestamp of TIME or later. Default: all.",
    ),
    click.option(
        "--until",
        metavar="TIME",
        callback=_parse_time,
        help="Only signals with a timestamp before TIME. Default: all.",
    ),
)


def filter_options(command: Command) -> Command:
    """Adds the options that select signals, and --as-of."""
    for option in reversed((*_FILTER_OPTIONS, AS_OF_OPTION)):
        command = option(command)
    return command


@contextmanager
def usage_errors(option: str) -> Iterator[None]:
    """Shows a ProjectionError about the value of an option as a usage error (exit code 2)."""
    from projections.errors import ProjectionError

    try:
        yield
    except ProjectionError as error:
        raise WrongUsage(f"{option}: {error.what}", do=error.do) from None


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


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, indent: str = ""
) -> None:
    """Prints rows of text below their headings, in columns aligned at the left."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        pairs = zip(cells, widths, strict=True)
        print_line(indent + "  ".join(cell.ljust(width) for cell, width in pairs).rstrip())
