"""The command `rebuild-database`.

Invariant: the old table stays until the new one is complete.
"""

from pathlib import Path

import click

from eventlog.plumbing import JSON_OPTION, CommandContext
from projections.cli.common import print_result


@click.command("rebuild-database")
@JSON_OPTION
@click.pass_obj
def rebuild_database(obj: CommandContext, as_json: bool) -> None:
    """Rebuild the signals table from the log and swap it in.

    Every chain and every sha256 is checked. Readers and a running daemon continue: they see either
    the complete old table or the complete new one. A damaged database is set aside and replaced. If
    the log is damaged, the command exits with code 3 and the old table stays. The output has the
    number of entries and rows, the rate, the digest of the new table, and how many rows were added,
    removed and changed against the old one.

    \b
    Example:
      eventlog rebuild-database
      eventlog rebuild-database --json | jq .digest
    """
    from eventlog.plumbing import progress_bar
    from projections.rebuild.rebuild import rebuild

    with progress_bar("rebuilding") as progress:
        rebuilt = rebuild(Path(obj.home), progress=progress)
    print_result(rebuilt, as_json=as_json)
