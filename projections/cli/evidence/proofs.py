"""The commands `evidence prove` and `evidence check`.

Invariant: `check` needs neither home nor network.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from eventlog.plumbing import (
    JSON_OPTION,
    CommandContext,
    WrongUsage,
    print_line,
    print_note,
    printable,
    printable_value,
)
from projections.cli.common import print_result
from projections.cli.evidence.anchoring import given_stamp, stamp_options
from projections.cli.evidence.extra import SEQ_DIGITS_MAX, needs_extra
from projections.cli.evidence.keys_option import (
    exits_unless_proved,
    key_options,
    parse_checking_keys,
)

Command = TypeVar("Command", bound=Callable[..., Any])

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # safe on any file system


def size_option(command: Command) -> Command:
    """Adds --size."""
    text = "Choose the kept checkpoint of N entries. Default: the newest."
    sizes = click.IntRange(0, 10**SEQ_DIGITS_MAX)
    return click.option("--size", metavar="N", type=sizes, help=text)(command)


@click.command()
@click.argument("entry", metavar="SEQ|SIGNAL_ID")
@click.option("--signal-id", "is_id", is_flag=True, help="A number is a signal_id, not a seq.")
@size_option
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the proof. Default: ENTRY.tlog-proof in this directory, ENTRY as given.",
)
@click.pass_obj
def prove(
    obj: CommandContext, entry: str, is_id: bool, size: int | None, output: Path | None
) -> None:
    """Write the proof that an entry is in a checkpoint.

    A number is a seq, unless --signal-id is given; anything else is a signal_id, which the signals
    table finds. A signal and its end are two entries: `eventlog show` names the seq of each. The
    proof contains the line itself. It is verified before it is written. Exit code 1 if no
    checkpoint covers the entry yet.

    Witnesses and time stamp authorities answer later. If a newer checkpoint was signed by then,
    --size chooses the one that they have seen.

    \b
    Example:
      eventlog evidence prove 1 --output entry-1.tlog-proof
      eventlog evidence prove 1 --size 606 --output entry-1.tlog-proof
    """
    from eventlog.plumbing import output_file

    with needs_extra():
        from projections.evidence.proofs.proving import prove as prove_entry
        from projections.evidence.proofs.proving import prove_signal

    is_seq = entry.isascii() and entry.isdecimal() and not is_id
    if is_seq and not 1 <= len(entry.lstrip("0")) <= SEQ_DIGITS_MAX:
        raise WrongUsage(f"{entry[:80]} is no seq", do="the first entry has seq 1")
    if output is None and not is_seq and not FILE_NAME.fullmatch(entry):
        problem = (
            "a file is named by the signal_id, and that one holds other characters than names do"
        )
        raise WrongUsage(problem, do="add --output FILE")
    home = Path(obj.home)
    with exits_unless_proved(as_json=False):
        if is_seq:
            data = prove_entry(home, int(entry), size=size)
        else:
            data = prove_signal(home, entry, size=size)
    path = output or Path(f"{entry}.tlog-proof")
    with output_file(path, home=obj.home) as file:
        file.write(data)
    print_line(str(path))
    _note_what_it_proves(home, data, is_newest=size is None)


def _note_what_it_proves(home: Path, data: bytes, *, is_newest: bool) -> None:
    """Says on stderr which entry it is, and which older checkpoint others have seen."""
    from eventlog.plumbing import decode
    from projections.evidence.formats.checkpoint import parse_head
    from projections.evidence.formats.note import parse_note
    from projections.evidence.kept.seen_sizes import seen_sizes_hint
    from projections.evidence.proofs.proof import parse_proof

    proof = parse_proof(data)
    found = decode(proof.line + b"\n")
    size = parse_head(parse_note(proof.checkpoint).text).size
    signal_id = found.payload.get("signal_id")
    of = "" if signal_id is None else f" of {printable_value(signal_id)}"
    print_note(
        f"entry {found.seq}, {printable(found.event)}{of}, by the checkpoint of {size} entries"
    )
    if is_newest and (hint := seen_sizes_hint(home, found.seq, size)) is not None:
        print_note(hint)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@key_options
@stamp_options
@JSON_OPTION
def check(
    file: Path,
    vkeys: tuple[str, ...],
    quorum: int,
    tsr: Path | None,
    ca: Path | None,
    policy: str | None,
    as_json: bool,
) -> None:
    """Check the proof in FILE.

    It needs no home and no network. `recorded_at` is the operator's own clock; *not later than* is
    what a witness or a time stamp authority has signed. Exit code 1 with NOT PROVED if the file
    does not show that the log of that key holds the line, or if the time stamp does not verify.

    \b
    Example:
      eventlog evidence check entry-1.tlog-proof --key "$(cat vkey)"
    """
    with needs_extra():
        from projections.evidence.proofs.check import check_proof
        from projections.evidence.proofs.proof import PROOF_BYTES_MAX

    keys = parse_checking_keys(vkeys, quorum)
    with file.open("rb") as opened:
        data = opened.read(PROOF_BYTES_MAX + 1)
    stamp = given_stamp(tsr, ca, policy)
    with exits_unless_proved(as_json=as_json):
        found = check_proof(data, keys, quorum=quorum)
        if stamp is not None:
            found = replace(found, stamps=(stamp.verified(found.checkpoint),))
    print_result(found, as_json=as_json)
