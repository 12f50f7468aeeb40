"""The commands `evidence consistency`, `evidence audit`, `evidence cosigned` and `witness-key`.

Invariant: `audit` and `witness-key` need neither home nor network.
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
    print_note,
    print_problem,
)
from projections.cli.common import print_json, print_result
from projections.cli.evidence.extra import SEQ_DIGITS_MAX, needs_extra
from projections.cli.evidence.keys_option import exits_unless_proved, parse_vkeys


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
    with needs_extra():
        from projections.evidence.proofs.proving import prove_growth

    with exits_unless_proved(as_json=False):
        data = prove_growth(Path(obj.home), old_size)
    print_line(data.decode().removesuffix("\n"))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("kept", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", "vkey", metavar="VKEY", required=True, help="The vkey of the log.")
@click.option("--first", "is_first", is_flag=True, help="The first audit of this log: create KEPT.")
@click.option(
    "--cosign",
    "cosign_file",
    metavar="KEYFILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Then print a cosignature by this key, which `evidence witness-key` has made.",
)
@JSON_OPTION
def audit(
    file: Path, kept: Path, vkey: str, is_first: bool, cosign_file: Path | None, as_json: bool
) -> None:
    """Keep the checkpoint in FILE if it continues that in KEPT.

    The first audit of a log needs --first, which creates KEPT. Without it KEPT must exist, so that
    a wrong name or a lost file does not start a new audit.

    FILE is what `evidence consistency` prints. It needs no home and no network. Exit code 1 if FILE
    does not show that the log has only grown; KEPT is unchanged then. If the reason begins with
    FORK, keep both files: signed by one key, they show that its owner has two logs. Without that
    word FILE may be damaged: ask for a new one.

    With --cosign stdout has the cosignature alone, once KEPT is replaced: it states that this
    witness has seen the checkpoint by now. Send it to the operator, who keeps it by `evidence
    cosigned`.

    \b
    Example:
      eventlog evidence audit growth kept.checkpoint --key "$(cat vkey)" --first
      eventlog evidence audit growth kept.checkpoint --key "$(cat vkey)"
      eventlog evidence audit growth kept.checkpoint --key "$(cat vkey)" --cosign key > cosignature
    """
    from projections.errors import NotProved

    with needs_extra():
        from projections.evidence.formats.keys import COSIGNER, LOG
        from projections.evidence.kept.key_files import read_key_file
        from projections.evidence.proofs.audit import audit as audit_growth

    (key,) = parse_vkeys([vkey])
    if key.kind != LOG:
        raise WrongUsage("--key is the vkey of a witness", do="give that of the log")
    cosigner = None
    if cosign_file is not None:
        cosigner = read_key_file(cosign_file, kind=COSIGNER)
    try:
        found = audit_growth(_read_note(file), kept, key, is_first=is_first, cosigner=cosigner)
    except NotProved as error:
        if as_json:
            print_json({"proved": False, "reason": str(error)})
        print_problem(str(error))
        sys.exit(EXIT_PROBLEM)
    if found.cosignature is not None and not as_json:
        for text in found.to_text():
            print_note(text)
        print_line(found.cosignature)
    else:
        print_result(found, as_json=as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--key",
    "vkeys",
    metavar="VKEY",
    multiple=True,
    required=True,
    help="The vkey of a witness; repeat it for each witness.",
)
@JSON_OPTION
@click.pass_obj
def cosigned(obj: CommandContext, file: Path, vkeys: tuple[str, ...], as_json: bool) -> None:
    """Keep the cosignatures in FILE with their checkpoint.

    FILE is what a witness has answered: `evidence audit --cosign` prints it, and so does a C2SP
    witness. Proofs of that checkpoint then include them. Exit code 1 if FILE holds no cosignature
    of these witnesses, or a wrong one; nothing is changed then.

    \b
    Example:
      eventlog evidence cosigned cosignature --key "$(cat witness.vkey)"
    """
    with needs_extra():
        from projections.evidence.formats.keys import COSIGNER
        from projections.evidence.signing.cosigning import keep_cosignatures

    keys = parse_vkeys(vkeys)
    if any(key.kind != COSIGNER for key in keys):
        raise WrongUsage("--key is the vkey of a log", do="give those of the witnesses")
    with exits_unless_proved(as_json=as_json):
        found = keep_cosignatures(Path(obj.home), _read_note(file), keys)
    print_result(found, as_json=as_json)


@click.command("witness-key")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def witness_key(name: str, file: Path) -> None:
    """Create the key of a witness in FILE, and print its vkey.

    NAME is that of the witness, such as witness.example.org. It needs no home. FILE is new, and has
    mode 0600; `evidence audit --cosign` signs with it.

    \b
    Example:
      eventlog evidence witness-key witness.example.org key > witness.vkey
    """
    with needs_extra():
        from projections.evidence.formats.keys import COSIGNER, is_new_name, new_key
        from projections.evidence.kept.key_files import create_key_file

    if not is_new_name(name):
        raise WrongUsage(
            "NAME must be printable ASCII without spaces and `+`, at most 255 characters",
            do="name the witness like witness.example.org",
        )
    key = new_key(name, COSIGNER)
    create_key_file(file, key)
    print_line(key.verifier.to_text())


def _read_note(file: Path) -> bytes:
    """The bytes of a file, as far as a note may have them and one more."""
    from projections.evidence.formats.note import NOTE_BYTES_MAX

    with file.open("rb") as opened:
        return opened.read(NOTE_BYTES_MAX + 1)
