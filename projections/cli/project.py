"""The command `project`: the daemon, as a person or systemd starts it.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from projections.cli.common import SECONDS, GlobalOptions
from projections.cli.settings import alpine_config

if TYPE_CHECKING:
    from projections.monitoring.endpoints import ListenConfig


# Longer than a rebuild's swap or a restart of Alpine takes; shorter than it takes a person to
# notice a table that stands still.
UNHEALTHY_AFTER_S = 60.0


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...|all")
@click.option("--once", is_flag=True, help="Catch up with the log and exit.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Entries in one transaction, at most.",
)
@click.option(
    "--batch-timeout",
    type=SECONDS,
    default=0.0,
    show_default=True,
    help="Seconds to wait for a batch to fill; 0 commits what is there.",
)
@click.option("--compress", is_flag=True, help="Compress closed segments too, as they come.")
@click.option("--listen", metavar="HOST:PORT", help="Answer /health and /metrics there.")
@click.option(
    "--unhealthy-after",
    type=SECONDS,
    default=UNHEALTHY_AFTER_S,
    show_default=True,
    help="Seconds that a trouble lasts before /health calls it one.",
)
@click.pass_obj
def project(
    obj: GlobalOptions,
    names: tuple[str, ...],
    once: bool,
    batch_size: int,
    batch_timeout: float,
    compress: bool,
    listen: str | None,
    unhealthy_after: float,
) -> None:
    """Keep projections up to the log: a daemon for systemd or a terminal.

    Stops cleanly on SIGTERM and Ctrl-C. `--batch-size 50 --batch-timeout 5` gives the batches of
    the old tracker.

    \b
    Example:
      eventlog project sqlite
      eventlog project all --listen 127.0.0.1:9464
      eventlog project sqlite --once && sqlite3 data/signals.db 'SELECT count(*) FROM signals'
    """
    from projections.errors import ProjectionError
    from projections.runtime.batcher import Pace
    from projections.runtime.daemon import Service, run
    from projections.runtime.registry import projection_names

    chosen = projection_names() if "all" in names else list(dict.fromkeys(names))
    if once and chosen == ["alpine"] and (reason := alpine_config().disabled):
        # As a daemon, or beside others, it says so and stays idle; whoever asks for this alone
        # must not think that it was done.
        raise ProjectionError(f"nothing is delivered: {reason}", where=obj.home)
    home = Path(obj.home)
    services: list[Service] = []
    if (address := _listen_config(listen, unhealthy_after, once=once)) is not None:
        from projections.monitoring.endpoints import serving_endpoints

        services.append(lambda projectors, _stop: serving_endpoints(home, projectors, address))
    if compress:
        from projections.runtime.compaction import compress_in_background

        services.append(
            lambda _projectors, stop: compress_in_background(home, once=once, stop=stop)
        )
    run(
        home,
        chosen,
        Pace(batch_entries=batch_size, batch_timeout_s=batch_timeout),
        once=once,
        notify_socket=os.environ.get("NOTIFY_SOCKET"),
        services=services,
    )


def _listen_config(
    text: str | None, unhealthy_after_s: float, *, once: bool
) -> "ListenConfig | None":
    from projections.monitoring.endpoints import ListenConfig
    from projections.monitoring.http_server import parse_address

    if text is None:
        return None
    if once:
        raise click.UsageError("--listen is for the daemon, and --once ends by itself")
    try:
        return ListenConfig(parse_address(text), unhealthy_after_s)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from None
