"""Shared by the commands of both packages: exit codes, usage errors, option types, variables.

Invariant: each exit code is defined here and nowhere else.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EXIT_PROBLEM = 1  # the command ran, and its answer is bad news: damage, differences, invalid input
EXIT_COULD_NOT_RUN = 3  # 2 is click's code for wrong usage
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports a program that ended by Ctrl-C

# Set by the scripts of `eventlog completion`, to request completions.
COMPLETE_VARIABLE = "_EVENTLOG_COMPLETE"

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class Seconds(click.FloatRange):
    """A finite number of seconds. `nan` would pass any range, and no wait would ever end."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{number} is not a number of seconds.", param, ctx)
        return number


SECONDS = Seconds(min=0)


class CommandContext(NamedTuple):
    """The values of the global options that a command uses."""

    home: str


class WrongUsage(click.UsageError):
    """Wrong usage that a command finds itself, with exit code 2: what is wrong, and what to do."""

    def __init__(self, what: str, *, do: str) -> None:
        super().__init__(what)
        self.do = do


def complete_directory(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Lets the shell complete the name of a directory."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def unquote(value: str) -> str:
    """An environment variable without blanks and one pair of quotes around it.

    `docker run --env-file` keeps quotes, which a shell removes.
    """
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value
