"""Commands of the read side. They join the `eventlog` command by its entry-point group.

Beside eventlog.cli the one module that reads the environment. What a command needs is imported
when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import math
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    pass


EXIT_BAD_NEWS = 1
EXIT_COULD_NOT_RUN = 3


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


def _parse_as_of(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from projections.errors import ProjectionError
    from projections.queries.as_of import parse_as_of

    try:
        return None if value is None else parse_as_of(value)
    except ProjectionError as error:
        raise click.BadParameter(f"{error.what}: {error.do}", ctx, param) from None


AS_OF = click.option(
    "--as-of",
    metavar="TIME",
    callback=_parse_as_of,
    help="What was known at TIME, such as 2025-11-18T02:00:00Z.",
)


class GlobalOptions(Protocol):
    """What the options before the command said."""

    @property
    def home(self) -> str: ...


def print_json(found: object) -> None:
    """One line of JSON on stdout."""
    import orjson

    click.echo(orjson.dumps(found).decode())
