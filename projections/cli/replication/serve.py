"""The command `serve`: appends what other machines send.

Invariant: SIGTERM and Ctrl-C end it once the requests that it took are answered, with exit code 0.
"""

import os
from pathlib import Path

import click

from eventlog.plumbing import CommandContext, stream_settings
from projections.cli.common import log_lifecycle


@click.command()
@click.pass_obj
def serve(obj: CommandContext) -> None:
    """Append what other machines send, and answer with receipts.

    It runs at the primary. `eventlog append --to` and `eventlog.connect` send signals and facts to
    it over the NATS servers of EVENTLOG_NATS_URL; EVENTLOG_STREAM names the stream, which need not
    exist. A reply is sent once its entries are durable. If several servers of one home run, each
    request goes to one of them.

    A replica or a fenced home is refused with exit code 3, also while it runs. It waits while the
    servers cannot be reached, stops cleanly on SIGTERM and Ctrl-C, and works under systemd
    (Type=notify).

    \b
    Example:
      export EVENTLOG_STREAM=main EVENTLOG_NATS_URL=nats://10.0.0.1:4222,nats://10.0.0.2:4222
      eventlog --home /var/lib/eventlog/main serve
    """
    from eventlog.plumbing import require_client
    from projections.replication import serve as daemon

    settings = stream_settings()
    require_client()
    log_lifecycle(daemon.__name__)
    daemon.serve(Path(obj.home), settings, notify_socket=os.environ.get("NOTIFY_SOCKET"))
