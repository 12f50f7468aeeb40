"""The commands `evidence key`, `checkpoint`, `prove`, `check`, `consistency` and `audit`.

Invariant: a secret is never an argument; `check` and `audit` need neither home nor network.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from projections.cli.common import print_json, print_result

SEQ_DIGITS_MAX = 18  # more than any log has
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # safe on any file system


@click.group()
def evidence() -> None:
    """Let an outsider prove that an entry is part of this log.

    `key` and `checkpoint` sign the log, `prove` writes a file of some two kilobytes about one
    entry, and `check` verifies such a file on any machine. `consistency` and `audit` do the same
    for the growth of the log. All need the extra `evidence`.

    \b
    Example:
      eventlog evidence key log.example.com/main
      eventlog evidence checkpoint
      eventlog evidence prove 1 --output entry-1.tlog-proof
    """


@evidence.command()
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
    with _extra():
        from projections.evidence.keys import is_key_name
        from projections.evidence.signing import create_key

    if not is_key_name(origin):
        raise WrongUsage(
            "ORIGIN must be printable, without spaces and `+`, and at most 255 bytes long",
            do="name the log like log.example.com/main",
        )
    print_line(create_key(Path(obj.home), origin).to_text())


@evidence.command()
@JSON_OPTION
@click.pass_obj
def checkpoint(obj: CommandContext, as_json: bool) -> None:
    """Sign the log as it is now, and print the path of the checkpoint.

    It brings the tree in data/tree up to date first. Where nothing was appended since the last
    checkpoint, that one is printed. Nothing is signed if the last signed root is not one of this
    log, or if two calculations of the new root differ. With a mirror only replicated entries are
    signed. A replica signs nothing (exit code 3).

    \b
    Example:
      eventlog evidence checkpoint
    """
    with _extra():
        from projections.evidence.signing import sign_checkpoint

    signed = sign_checkpoint(Path(obj.home))
    if as_json:
        print_json({"path": signed.path, "size": signed.size, "is_new": signed.is_new})
    else:
        print_line(signed.path)


@evidence.command()
@click.argument("entry", metavar="SEQ|SIGNAL_ID")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the proof. Default: ENTRY.tlog-proof in this directory, ENTRY as given.",
)
@click.pass_obj
def prove(obj: CommandContext, entry: str, output: Path | None) -> None:
    """Write the proof that an entry is part of the newest checkpoint.

    A number is a seq; anything else is a signal_id, which the signals table finds. The proof
    contains the line itself. It is verified before it is written. Exit code 1 if no checkpoint
    covers the entry yet.

    \b
    Example:
      eventlog evidence prove 1 --output entry-1.tlog-proof
    """
    from eventlog.plumbing import output_file
    from projections.errors import NotProved

    with _extra():
        from projections.evidence.proving import prove as prove_entry
        from projections.evidence.proving import prove_signal

    is_seq = entry.isascii() and entry.isdecimal()
    if is_seq and not 1 <= len(entry.lstrip("0")) <= SEQ_DIGITS_MAX:
        raise WrongUsage(f"{entry[:80]} is no seq", do="the first entry has seq 1")
    if output is None and not is_seq and not FILE_NAME.fullmatch(entry):
        raise WrongUsage("that signal_id cannot be the name of a file", do="add --output FILE")
    try:
        home = Path(obj.home)
        data = prove_entry(home, int(entry)) if is_seq else prove_signal(home, entry)
    except NotProved as error:
        print_problem(f"NOT PROVED: {error}")
        sys.exit(EXIT_PROBLEM)
    path = output or Path(f"{entry}.tlog-proof")
    with output_file(path, home=obj.home) as file:
        file.write(data)
    print_line(str(path))


@evidence.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--key",
    "vkeys",
    metavar="VKEY",
    multiple=True,
    required=True,
    help="The vkey of the log; repeat it for each witness whose cosignature counts.",
)
@click.option(
    "--quorum",
    metavar="K",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many of these witnesses must have cosigned.",
)
@JSON_OPTION
def check(file: Path, vkeys: tuple[str, ...], quorum: int, as_json: bool) -> None:
    """Check the proof in FILE.

    It needs no home and no network. `recorded_at` is what the clock of the operator said; *not
    later than* is what a witness has signed. Exit code 1 with NOT PROVED if the file does not show
    that the log of that key holds the line.

    \b
    Example:
      eventlog evidence check entry-1.tlog-proof --key "$(cat vkey)"
    """
    from projections.errors import NotProved

    with _extra():
        from projections.evidence.check import check_proof
        from projections.evidence.keys import parse_vkey
        from projections.evidence.proof import PROOF_BYTES_MAX

    try:
        keys = [parse_vkey(vkey) for vkey in vkeys]
    except NotProved as error:
        raise WrongUsage(f"--key: {error.what}", do="give a vkey, NAME+ID+KEY") from None
    with file.open("rb") as opened:
        data = opened.read(PROOF_BYTES_MAX + 1)
    try:
        found = check_proof(data, keys, quorum=quorum)
    except NotProved as error:
        if as_json:
            print_json({"proved": False, "reason": str(error)})
        print_problem(f"NOT PROVED: {error}")
        sys.exit(EXIT_PROBLEM)
    print_result(found, as_json=as_json)


@evidence.command()
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
    """Print what shows that the newest checkpoint continues the log of SIZE entries.

    It is the file that `evidence audit` reads, and the body of a request that C2SP witnesses
    accept. Exit code 1 if no checkpoint has as many entries.

    \b
    Example:
      eventlog evidence consistency --from 0 > growth
    """
    from projections.errors import NotProved

    with _extra():
        from projections.evidence.proving import prove_growth

    try:
        data = prove_growth(Path(obj.home), old_size)
    except NotProved as error:
        print_problem(f"NOT PROVED: {error}")
        sys.exit(EXIT_PROBLEM)
    print_line(data.decode().removesuffix("\n"))


@evidence.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("kept", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", "vkey", metavar="VKEY", required=True, help="The vkey of the log.")
@JSON_OPTION
def audit(file: Path, kept: Path, vkey: str, as_json: bool) -> None:
    """Accept the checkpoint in FILE if it continues the one in KEPT, and keep it there.

    FILE is what `evidence consistency` prints. It needs no home and no network. Exit code 1 if FILE
    does not show that the log has only grown; KEPT is unchanged then. If the reason begins with
    FORK, keep both files: signed by one key, they show that its owner has two logs.

    \b
    Example:
      eventlog evidence audit growth kept.checkpoint --key "$(cat vkey)"
    """
    from projections.errors import NotProved

    with _extra():
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


@contextmanager
def _extra() -> Iterator[None]:
    """Names the extra where `cryptography` is not installed."""
    from projections.errors import ProjectionError

    try:
        yield
    except ModuleNotFoundError as error:
        raise ProjectionError(
            f"evidence needs a package that is not installed: {error.name}",
            do="run `pip install 'signal-eventlog[evidence]'`, or `pip install '.[evidence]'` in a"
            " checkout",
        ) from None
