"""Shared by the commands of both packages: global options, exit codes, `--json`, variables.

Invariant: each exit code is defined here and nowhere else.
"""

from typing import NamedTuple

import click

EXIT_PROBLEM = 1  # the command ran, and its answer is bad news: damage, differences, invalid input
EXIT_COULD_NOT_RUN = 3  # 2 is click's code for wrong usage
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports a program that ended by Ctrl-C

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


class CommandContext(NamedTuple):
    """The values of the options that stand before the command."""

    home: str


def unquote(value: str) -> str:
    """An environment variable without blanks and one pair of quotes around it.

    `docker run --env-file` keeps quotes, which a shell removes.
    """
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    return value
