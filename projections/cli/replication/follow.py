"""The command `follow`: makes a home a replica, and keeps it one.

Invariant: SIGTERM and Ctrl-C end it after the write in progress, with exit code 0.
"""

import os
from pathlib import Path

import click

from eventlog.plumbing import CommandContext, print_note, stream_settings
from projections.cli.common import log_lifecycle


@click.command()
@click.option("--once", is_flag=True, help="Follow to the present end of the stream, then exit.")
@click.option(
    "--from-backup",
    is_flag=True,
    help="The home was restored from a backup: continue its log from the stream.",
)
@click.pass_obj
def follow(obj: CommandContext, once: bool, from_backup: bool) -> None:
    """Follow a stream: keep this home a replica of the primary's.

    It writes the lines that `eventlog project mirror` publishes on another machine into the log of
    this home, byte for byte and in the same segments. The home becomes a replica: appends are
    refused from then on, and everything that reads works as it does on the primary. EVENTLOG_STREAM
    names the stream, and EVENTLOG_NATS_URL its servers.

    It waits while the stream cannot be reached. A stream that holds another log than the home, or
    from which lines are missing, ends it with exit code 3. It stops cleanly on SIGTERM and Ctrl-C,
    and works under systemd (Type=notify). With --once it gives up after ten seconds without
    progress.

    \b
    Example:
      export EVENTLOG_STREAM=main EVENTLOG_NATS_URL=nats://10.0.0.1:4222,nats://10.0.0.2:4222
      eventlog --home /var/lib/replica follow
      eventlog --home /new restore /backups/signals && eventlog --home /new follow --from-backup
    """
    from eventlog.plumbing import require_client
    from projections.replication import follow as daemon

    settings = stream_settings()
    require_client()
    log_lifecycle(daemon.__name__)
    follower = daemon.follow(
        Path(obj.home),
        settings,
        once=once,
        from_backup=from_backup,
        notify_socket=os.environ.get("NOTIFY_SOCKET"),
    )
    if once:
        print_note(f"{settings.where}: {follower}")
