"""The commands `evidence consistency` and `evidence audit`.

Invariant: `audit` needs neither home nor network.
"""

import sys
from pathlib import Path

import click

from eventlog.plumbing import (
    EXIT_PROBLEM,
    JSON_OPTION,
    CommandContext,
    WrongUsage,
    print_line,
    print_problem,
)
from projections.cli.common import print_result
from projections.cli.evidence.extra import SEQ_DIGITS_MAX, needs_extra


@click.command()
@click.option(
    "--from",
    "old_size",
    metavar="SIZE",
    type=click.IntRange(0, 10**SEQ_DIGITS_MAX),
    required=True,
    help="The size of the checkpoint that the reader has kept; 0 for a first audit.",
)
@click.pass_obj
def consistency(obj: CommandContext, old_size: int) -> None:
    """Print what shows that the log of SIZE entries only grew.

    It is the file that `evidence audit` reads, and the body of a request that C2SP witnesses
    accept. Exit code 1 if no checkpoint has as many entries.

    \b
    Example:
      eventlog evidence consistency --from 0 > growth
    """
    from projections.errors import NotProved

    with needs_extra():
        from projections.evidence.proving import prove_growth

    try:
        data = prove_growth(Path(obj.home), old_size)
    except NotProved as error:
        print_problem(f"NOT PROVED: {error}")
        sys.exit(EXIT_PROBLEM)
    print_line(data.decode().removesuffix("\n"))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("kept", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", "vkey", metavar="VKEY", required=True, help="The vkey of the log.")
@JSON_OPTION
def audit(file: Path, kept: Path, vkey: str, as_json: bool) -> None:
    """Keep the checkpoint in FILE if it continues that in KEPT.

    FILE is what `evidence consistency` prints. It needs no home and no network. Exit code 1 if FILE
    does not show that the log has only grown; KEPT is unchanged then. If the reason begins with
    FORK, keep both files: signed by one key, they show that its owner has two logs.

    \b
    Example:
      eventlog evidence audit growth kept.checkpoint --key "$(cat vkey)"
    """
    from projections.errors import NotProved

    with needs_extra():
        from projections.evidence.audit import audit as audit_growth
        from projections.evidence.keys import LOG, parse_vkey
        from projections.evidence.note import NOTE_BYTES_MAX

    try:
        key = parse_vkey(vkey)
    except NotProved as error:
        raise WrongUsage(f"--key: {error.what}", do="give a vkey, NAME+ID+KEY") from None
    if key.kind != LOG:
        raise WrongUsage("--key is the vkey of a witness", do="give that of the log")
    with file.open("rb") as opened:
        data = opened.read(NOTE_BYTES_MAX + 1)
    try:
        found = audit_growth(data, kept, key)
    except NotProved as error:
        print_problem(str(error))
        sys.exit(EXIT_PROBLEM)
    print_result(found, as_json=as_json)
