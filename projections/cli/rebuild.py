"""The command `rebuild-database`.

Invariant: the old table stays until the new one is complete.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass
from projections.cli.common import GlobalOptions, print_json


@click.command("rebuild-database")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def rebuild_database(obj: GlobalOptions, as_json: bool) -> None:
    """Build the signals table anew from the log, verified, and swap it in.

    Every chain and every sha256 is checked. Readers and a running daemon go on: they see the old
    table or the new one, whole. A damaged database is set aside and replaced; on a damaged log the
    old table stays. Ends with the number of entries and rows, the digest of the new table, and how
    many rows were added, removed and changed against the old one.

    \b
    Example:
      eventlog rebuild-database
      eventlog rebuild-database --json | jq .digest
    """
    import signal

    from eventlog.plumbing import Progress
    from projections.rebuild.rebuild import rebuild

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is removed
    with Progress("rebuilding") as progress:
        rebuilt = rebuild(Path(obj.home), progress=progress)
    if as_json:
        print_json(rebuilt.to_json())
    else:
        click.echo("\n".join(rebuilt.to_text()))
