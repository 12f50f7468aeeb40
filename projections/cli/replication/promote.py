"""The command `promote`: makes the replica of this home the primary.

Invariant: it is started by a person; no process promotes a home by itself.
"""

import os
import socket
import sys
from pathlib import Path

import click

from eventlog.plumbing import (
    EXIT_PROBLEM,
    CommandContext,
    WrongUsage,
    print_line,
    print_note,
    print_problem,
    printable,
    stream_settings,
)

HOST_CHARS_MAX = 255


@click.command()
@click.option(
    "--host",
    metavar="NAME",
    help="The name of this primary. Default: the names of the host and the home.",
)
@click.option(
    "--epoch",
    metavar="N",
    type=click.IntRange(min=2),
    help="Only as this epoch. Default: the one after the last that this home knows.",
)
@click.pass_obj
def promote(obj: CommandContext, host: str | None, epoch: int | None) -> None:
    """Make this replica the primary of its stream.

    It follows the stream to its end, and then publishes the entry `promoted` as the next line. If
    several replicas are promoted at once, exactly one gets that line and becomes the primary; the
    others report which one it is, and exit with 1. From then on this home takes appends, and
    `eventlog project mirror` publishes them.

    Until the old primary learns of it, it still acknowledges appends: these are durable there, but
    not replicated. Stop it first where you can. `eventlog rejoin` makes it a replica again, and
    sets aside what only it has.

    Stop `eventlog follow` of this home first. A run that was interrupted can be started again.
    After exit code 1 another home is the primary: a further run would depose it, unless --epoch is
    given.

    \b
    Example:
      systemctl stop eventlog-follow@main
      eventlog --home /var/lib/eventlog/main promote
    """
    from eventlog.plumbing import Overtaken, require_client
    from projections.replication.failover import promote as promote_home

    settings = stream_settings()
    require_client()
    # A host may have several homes.
    name = host if host is not None else f"{socket.gethostname()}:{os.path.realpath(obj.home)}"
    if not (0 < len(name) <= HOST_CHARS_MAX and name.isprintable()):
        raise WrongUsage(
            f"--host must be 1 to {HOST_CHARS_MAX} printable characters",
            do="name this primary with --host, for example by its host",
        )
    found = promote_home(Path(obj.home), settings, host=name, epoch=epoch)
    if isinstance(found, Overtaken):
        print_problem(
            f"{printable(found.host)} was promoted (epoch {found.epoch}): this home stays a "
            "replica; let it follow again"
        )
        sys.exit(EXIT_PROBLEM)
    print_line(
        f"{printable(name)} is the primary of {settings.stream}: epoch {found.epoch}, from "
        f"seq {found.seq} on"
    )
    print_note("start `eventlog project` here, and let the generators append to this home")
