"""The group `evidence`.

Invariant: this module imports nothing that only one of its commands needs.
"""

import click

from projections.cli.evidence.anchoring import anchor
from projections.cli.evidence.exporting import export_
from projections.cli.evidence.growth import audit, consistency, cosigned, witness_key
from projections.cli.evidence.page import page
from projections.cli.evidence.proofs import check, prove
from projections.cli.evidence.publishing import publish
from projections.cli.evidence.signing import checkpoint, key, resume
from projections.cli.evidence.statements import check_statement, statement

COMMANDS = (
    *(key, checkpoint, resume, prove, check),
    *(consistency, audit, cosigned, witness_key),
    *(statement, check_statement, publish, anchor, page, export_),
)


@click.group()
def evidence() -> None:
    """Let an outsider prove that an entry is part of this log.

    `key` and `checkpoint` sign the log, `prove` writes a file of some two kilobytes about one
    entry, and `check` verifies such a file on any machine. `consistency` and `audit` do the same
    for the growth of the log; `witness-key` and `cosigned` are for witnesses, and `resume` is for a
    home that was restored. `statement` and `check-statement` are about all entries at once,
    `anchor` requests a time stamp, and `publish`, `page` and `export` write files for others. All
    but `page` need the extra `evidence`.

    \b
    Example:
      eventlog evidence key log.example.com/main
      eventlog evidence checkpoint
      eventlog evidence prove 1 --output entry-1.tlog-proof
    """


for _command in COMMANDS:
    evidence.add_command(_command)
