"""The commands `evidence statement` and `evidence check-statement`.

Invariant: `check-statement` needs neither home nor network.
"""

import sys
from dataclasses import replace
from pathlib import Path

import click

from eventlog.plumbing import JSON_OPTION, CommandContext, print_line, print_lines, print_note
from projections.cli.common import print_json
from projections.cli.evidence.anchoring import given_stamp, stamp_options
from projections.cli.evidence.extra import needs_extra
from projections.cli.evidence.keys_option import (
    exits_unless_proved,
    key_options,
    parse_checking_keys,
)
from projections.cli.evidence.proofs import size_option
from projections.cli.signals import print_figures, print_groups

STDOUT = "-"


@click.command()
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(allow_dash=True, readable=False),
    default=STDOUT,
    help="Output file. Default: -, standard output.",
)
@size_option
@click.pass_obj
def statement(obj: CommandContext, output: str, size: int | None) -> None:
    """Write all lines with the checkpoint that covers them.

    It is the newest checkpoint, or with --size an older one, which witnesses have seen. With it a
    client sees that no signal was left out: `evidence check-statement` accepts only all lines up to
    the checkpoint, in order. Exit code 1 if nothing was signed yet. FILE appears complete or not at
    all.

    \b
    Example:
      eventlog evidence statement --output 2025-11.statement
    """
    from eventlog.plumbing import output_file, printable_value, progress_bar

    with needs_extra():
        from projections.evidence.handover.write_statement import write_statement
        from projections.evidence.kept.seen_sizes import seen_sizes_hint

    home = Path(obj.home)
    with exits_unless_proved(as_json=False), progress_bar("writing", "line") as progress:
        if output == STDOUT:
            write_statement(home, sys.stdout.buffer, size=size, progress=progress)
            sys.stdout.buffer.flush()
            return
        with output_file(output, home=home) as file:
            head = write_statement(home, file, size=size, progress=progress)
    print_line(f"{head.size} entries of {head.origin} to {printable_value(output)}")
    if size is None and (hint := seen_sizes_hint(home, 1, head.size)) is not None:
        print_note(hint)


@click.command("check-statement")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@key_options
@click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the table of the lines is made. Default: the directory for temporary files.",
)
@stamp_options
@JSON_OPTION
def check_statement(
    file: Path,
    vkeys: tuple[str, ...],
    quorum: int,
    scratch: Path | None,
    tsr: Path | None,
    ca: Path | None,
    policy: str | None,
    as_json: bool,
) -> None:
    """Check that FILE holds all lines of a log, in order.

    It prints their figures, and needs no home and no network. The figures are those of `eventlog
    stats` over exactly these lines, together and by strategy. Exit code 1 with NOT PROVED if a line
    is missing, was changed, added or moved, if the checkpoint is not signed by the key of the log,
    or if the time stamp does not verify. The table that the figures come from takes as much space
    as FILE, and is removed at the end.

    \b
    Example:
      eventlog evidence check-statement 2025-11.statement --key "$(cat vkey)"
    """
    import tempfile

    from eventlog.plumbing import progress_bar

    with needs_extra():
        from projections.evidence.handover.check_statement import check_statement as check

    keys = parse_checking_keys(vkeys, quorum)
    stamp = given_stamp(tsr, ca, policy)
    parent = scratch or Path(tempfile.gettempdir())
    with (
        exits_unless_proved(as_json=as_json),
        progress_bar("checking", "line") as progress,
        file.open("rb") as opened,
    ):
        found = check(opened, keys, quorum=quorum, scratch_parent=parent, progress=progress)
        if stamp is not None:
            found = replace(found, stamps=(stamp.verified(found.checkpoint),))
    if as_json:
        print_json(found.to_json())
        return
    print_lines([*found.to_text(), ""])
    print_figures(found.stats)
    if found.by_strategy:
        print_line("")
        print_groups(found.by_strategy, "strategy")
