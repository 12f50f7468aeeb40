"""The command `rejoin`: makes the home of an old primary a replica of the new one.

Invariant: an entry that only this home has is in a file before it is cut from the log.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from eventlog.plumbing import (
    CommandContext,
    count_text,
    print_line,
    printable,
    stream_settings,
)


@click.command()
@click.pass_obj
def rejoin(obj: CommandContext) -> None:
    """Make the home of an old primary a replica of the new one.

    It finds the last entry that this log shares with the stream, and moves the entries after it to
    `logs/forked-<seq>.aside`. It discards the projections that have applied them: the table is
    built again by the next `eventlog project`. Then the home is a replica, and follows the stream
    to its end.

    At the end it prints the command that appends the entries in that file to the new primary. Those
    that a generator has sent there meanwhile are recognised by their signal_id, so none is there
    twice.

    Stop `eventlog project` of this home first. It may be killed at any moment, and run again.

    \b
    Example:
      systemctl stop eventlog-project@main
      eventlog --home /var/lib/eventlog/main rejoin
    """
    from eventlog.plumbing import require_client
    from projections.cli.replication.discard import discard_beyond, stopped_projections
    from projections.replication.failover import rejoin as rejoin_home

    settings = stream_settings()
    require_client()
    home = Path(obj.home)
    with stopped_projections(home):
        found = rejoin_home(home, settings, discard=lambda seq: discard_beyond(home, seq))
    for line in found.discarded:
        print_line(line)
    if found.fence is None:
        print_line(f"this home is a replica already; it has followed to seq {found.last_seq}")
        _print_aside(found.aside)
        return
    if found.entries:
        cut = count_text(found.entries, "entry")
        print_line(f"cut {cut} after seq {found.fence.seq}: the stream does not hold them")
    print_line(f"this home is a replica of {settings.stream}, and ends at seq {found.last_seq}")
    if not found.aside:
        print_line("nothing was set aside: the stream holds all that this home had")
    _print_aside(found.aside)


def _print_aside(paths: Sequence[str]) -> None:
    """Says how the entries of these files reach the new primary."""
    for path in paths:
        name = os.path.basename(path)
        print_line(f"set aside in {printable(path)}")
        print_line("copy that file to the primary, and append its entries there once:")
        print_line(f"  eventlog append --stored --skip-invalid {shlex.quote(name)}")
