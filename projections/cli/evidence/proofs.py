"""The commands `evidence prove` and `evidence check`.

Invariant: `check` needs neither home nor network.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventlog.plumbing import JSON_OPTION, CommandContext, WrongUsage, print_line
from projections.cli.common import print_result
from projections.cli.evidence.anchoring import PEM, policy_option, trusted_authorities
from projections.cli.evidence.extra import SEQ_DIGITS_MAX, needs_extra
from projections.cli.evidence.keys_option import exits_unless_proved, key_options, parse_vkeys

if TYPE_CHECKING:
    from projections.evidence.checkpoint import Stamp
    from projections.evidence.stamp import TrustedAuthorities

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)  # safe on any file system


@click.command()
@click.argument("entry", metavar="SEQ|SIGNAL_ID")
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the proof. Default: ENTRY.tlog-proof in this directory, ENTRY as given.",
)
@click.pass_obj
def prove(obj: CommandContext, entry: str, output: Path | None) -> None:
    """Write the proof that an entry is in the newest checkpoint.

    A number is a seq; anything else is a signal_id, which the signals table finds. The proof
    contains the line itself. It is verified before it is written. Exit code 1 if no checkpoint
    covers the entry yet.

    \b
    Example:
      eventlog evidence prove 1 --output entry-1.tlog-proof
    """
    from eventlog.plumbing import output_file

    with needs_extra():
        from projections.evidence.proving import prove as prove_entry
        from projections.evidence.proving import prove_signal

    is_seq = entry.isascii() and entry.isdecimal()
    if is_seq and not 1 <= len(entry.lstrip("0")) <= SEQ_DIGITS_MAX:
        raise WrongUsage(f"{entry[:80]} is no seq", do="the first entry has seq 1")
    if output is None and not is_seq and not FILE_NAME.fullmatch(entry):
        raise WrongUsage("that signal_id cannot be the name of a file", do="add --output FILE")
    home = Path(obj.home)
    with exits_unless_proved(as_json=False):
        data = prove_entry(home, int(entry)) if is_seq else prove_signal(home, entry)
    path = output or Path(f"{entry}.tlog-proof")
    with output_file(path, home=obj.home) as file:
        file.write(data)
    print_line(str(path))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@key_options
@click.option(
    "--tsr", metavar="FILE", type=PEM, help="A time stamp of the checkpoint. Default: none."
)
@click.option(
    "--tsa-ca",
    "ca",
    metavar="PEM",
    type=PEM,
    help="The root certificate that --tsr is verified by, and others between.",
)
@policy_option
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

    It needs no home and no network. `recorded_at` is what the clock of the operator said; *not
    later than* is what a witness or a time stamp authority has signed. Exit code 1 with NOT PROVED
    if the file does not show that the log of that key holds the line, or if the time stamp does not
    verify.

    \b
    Example:
      eventlog evidence check entry-1.tlog-proof --key "$(cat vkey)"
    """
    with needs_extra():
        from projections.evidence.check import check_proof
        from projections.evidence.proof import PROOF_BYTES_MAX

    keys = parse_vkeys(vkeys)
    with file.open("rb") as opened:
        data = opened.read(PROOF_BYTES_MAX + 1)
    if (tsr is None) != (ca is None) or (policy is not None and tsr is None):
        raise WrongUsage("--tsr and --tsa-ca belong together", do="give both, or neither")
    trusted = None if ca is None else trusted_authorities(ca, policy)
    with exits_unless_proved(as_json=as_json):
        found = check_proof(data, keys, quorum=quorum)
        if tsr is not None and trusted is not None:
            found = replace(found, stamps=(_verified_stamp(tsr, data, trusted),))
    print_result(found, as_json=as_json)


def _verified_stamp(path: Path, proof: bytes, trusted: "TrustedAuthorities") -> "Stamp":
    from projections.evidence.proof import parse_proof
    from projections.evidence.stamp import REPLY_BYTES_MAX, verify_stamp

    with path.open("rb") as opened:
        reply = opened.read(REPLY_BYTES_MAX + 1)
    return verify_stamp(reply, parse_proof(proof).checkpoint, trusted)
