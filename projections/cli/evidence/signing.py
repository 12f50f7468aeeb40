"""The commands `evidence key` and `evidence checkpoint`.

Invariant: a key is never an argument, and never printed.
"""

from pathlib import Path

import click

from eventlog.plumbing import JSON_OPTION, CommandContext, WrongUsage, print_line
from projections.cli.common import print_json
from projections.cli.evidence.extra import needs_extra


@click.command()
@click.argument("origin")
@click.pass_obj
def key(obj: CommandContext, origin: str) -> None:
    """Create the key that signs this log, and print its vkey.

    ORIGIN is the name of the log, such as log.example.com/main. The key is kept in evidence/key;
    it is never replaced. Publish the vkey: with it, anyone can check a proof.

    \b
    Example:
      eventlog evidence key log.example.com/main
    """
    with needs_extra():
        from projections.evidence.keys import is_key_name
        from projections.evidence.signing import create_key

    if not is_key_name(origin):
        raise WrongUsage(
            "ORIGIN must be printable, without spaces and `+`, and at most 255 bytes long",
            do="name the log like log.example.com/main",
        )
    print_line(create_key(Path(obj.home), origin).to_text())


@click.command()
@JSON_OPTION
@click.pass_obj
def checkpoint(obj: CommandContext, as_json: bool) -> None:
    """Sign the log as it is now, and print the checkpoint's path.

    It brings the tree in data/tree up to date first. Where nothing was appended since the last
    checkpoint, that one is printed. Nothing is signed if the last signed root is not one of this
    log, or if two calculations of the new root differ. With a mirror only replicated entries are
    signed. A replica signs nothing (exit code 3).

    \b
    Example:
      eventlog evidence checkpoint
    """
    with needs_extra():
        from projections.evidence.signing import sign_checkpoint

    signed = sign_checkpoint(Path(obj.home))
    if as_json:
        print_json({"path": signed.path, "size": signed.size, "is_new": signed.is_new})
    else:
        print_line(signed.path)
