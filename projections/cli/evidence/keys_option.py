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
    from projections.evidence.formats.keys import VerifierKey

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
    from projections.evidence.formats.keys import parse_vkey

    try:
        return [parse_vkey(vkey) for vkey in vkeys]
    except NotProved as error:
        raise WrongUsage(
            f"--key: {error.what}", do='give a vkey, NAME+ID+KEY, such as --key "$(cat FILE)"'
        ) from None


def parse_checking_keys(vkeys: Sequence[str], quorum: int) -> "list[VerifierKey]":
    """The keys of one log and of its witnesses. Raises WrongUsage where no file could do."""
    from projections.errors import NotProved
    from projections.evidence.proofs.check import log_and_witnesses

    keys = parse_vkeys(vkeys)
    try:
        _, witnesses = log_and_witnesses(keys)
    except NotProved as error:
        do = "give the vkey of one log, and that of each witness once"
        raise WrongUsage(f"--key: {error.what}", do=do) from None
    if quorum > len(witnesses):
        raise WrongUsage(
            f"--quorum {quorum} needs as many witnesses, and {len(witnesses)} were named",
            do="repeat --key with the vkey of each witness",
        )
    return keys


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
