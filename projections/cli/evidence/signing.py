"""The commands `evidence key`, `evidence checkpoint` and `evidence resume`.

Invariant: a key is never an argument, and never printed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventlog.plumbing import (
    JSON_OPTION,
    CommandContext,
    WrongUsage,
    print_line,
)
from projections.cli.common import print_json
from projections.cli.evidence.extra import needs_extra
from projections.cli.evidence.keys_option import exits_unless_proved
from projections.cli.replication.settings import setting

if TYPE_CHECKING:
    from projections.evidence.signing.signing import SignedCheckpoint


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
        from projections.evidence.formats.keys import is_new_name
        from projections.evidence.signing.signing import create_key

    if not is_new_name(origin):
        raise WrongUsage(
            "ORIGIN must be printable ASCII without spaces and `+`, at most 255 characters",
            do="name the log like log.example.com/main",
        )
    print_line(create_key(Path(obj.home), origin).to_text())


@click.command()
@click.option(
    "--backed-up",
    "backup",
    metavar="DEST",
    type=click.Path(path_type=Path, file_okay=False),
    help="Sign no entry that this backup lacks.",
)
@JSON_OPTION
@click.pass_obj
def checkpoint(obj: CommandContext, backup: Path | None, as_json: bool) -> None:
    """Sign the log as it is now, and print the checkpoint's path.

    It brings the tree in data/tree up to date first. Where nothing was appended since the last
    checkpoint, that one is printed. Nothing is signed if the last signed root is not one of this
    log, or if two calculations of the new root differ. With a mirror, and wherever EVENTLOG_STREAM
    is set, only replicated entries are signed. A replica signs nothing (exit code 3).

    What was signed cannot be taken back, and a log that is restored to an older state could not
    continue it. With --backed-up only entries are signed that the backup in DEST has.

    \b
    Example:
      eventlog evidence checkpoint
      eventlog evidence checkpoint --backed-up /mnt/disk/backup/eventlog
    """
    with needs_extra():
        from projections.evidence.signing.signing import sign_checkpoint

    has_stream = bool(setting("EVENTLOG_STREAM"))
    found = sign_checkpoint(Path(obj.home), backup=backup, has_stream=has_stream)
    _print_checkpoint(found, as_json=as_json)


@click.command()
@click.option(
    "--newest",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The newest checkpoint that anyone holds: a client, an auditor, a witness.",
)
@click.option(
    "--key-file",
    metavar="K",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The file with the key of this log.",
)
@JSON_OPTION
@click.pass_obj
def resume(obj: CommandContext, newest: Path, key_file: Path, as_json: bool) -> None:
    """Allow signing again after a restore or a promotion.

    A restored home, and one that became the primary, may lack what was signed later elsewhere. Two
    checkpoints of which neither continues the other convict the key. So this command shows that
    the log has each line of the newest checkpoint, brings the key in, and prints the path of that
    checkpoint. If the log lacks lines, nothing is changed and the exit code is 3; if FILE is not
    signed by that key, it is 1.

    \b
    Example:
      eventlog evidence resume --newest newest.checkpoint --key-file key
    """
    with needs_extra():
        from projections.evidence.formats.note import NOTE_BYTES_MAX
        from projections.evidence.signing.resuming import resume as resume_signing

    with newest.open("rb") as opened:
        data = opened.read(NOTE_BYTES_MAX + 1)
    with exits_unless_proved(as_json=as_json):
        found = resume_signing(Path(obj.home), data, key_file)
    _print_checkpoint(found, as_json=as_json)


def _print_checkpoint(found: "SignedCheckpoint", *, as_json: bool) -> None:
    if as_json:
        print_json({"path": found.path, "size": found.size, "is_new": found.is_new})
    else:
        print_line(found.path)
