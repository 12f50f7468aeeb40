"""Options that name keys, and what checks a file by them.

Invariant: a file that does not show what it claims ends the command with exit code 1.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eventlog.plumbing import EXIT_PROBLEM, WrongUsage, print_problem
from projections.cli.common import print_json

if TYPE_CHECKING:
    from projections.evidence.keys import VerifierKey

Command = TypeVar("Command", bound=Callable[..., Any])

_KEYS = click.option(
    "--key",
    "vkeys",
    metavar="VKEY",
    multiple=True,
    required=True,
    help="The vkey of the log; repeat it for each witness whose cosignature counts.",
)
_QUORUM = click.option(
    "--quorum",
    metavar="K",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many of these witnesses must have cosigned.",
)


def key_options(command: Command) -> Command:
    """Adds --key and --quorum."""
    return _KEYS(_QUORUM(command))


def parse_vkeys(vkeys: Sequence[str]) -> "list[VerifierKey]":
    """The keys that --key gives. Raises WrongUsage."""
    from projections.errors import NotProved
    from projections.evidence.keys import parse_vkey

    try:
        return [parse_vkey(vkey) for vkey in vkeys]
    except NotProved as error:
        raise WrongUsage(f"--key: {error.what}", do="give a vkey, NAME+ID+KEY") from None


@contextmanager
def exits_unless_proved(*, as_json: bool) -> Iterator[None]:
    """Ends the command with NOT PROVED and the reason, and as JSON too."""
    from projections.errors import NotProved

    try:
        yield
    except NotProved as error:
        if as_json:
            print_json({"proved": False, "reason": str(error)})
        print_problem(f"NOT PROVED: {error}")
        sys.exit(EXIT_PROBLEM)
