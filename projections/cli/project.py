"""The command `project`: starts the projector daemon, from a terminal or from systemd.

Invariant: SIGTERM and Ctrl-C end it after the current batch, with exit code 0.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventlog.plumbing import SECONDS, CommandContext, WrongUsage, printable_value
from projections.cli.common import listen_address, log_lifecycle, require_host_names
from projections.cli.replication.settings import setting
from projections.cli.settings import alpine_config

if TYPE_CHECKING:
    from projections.monitoring.endpoints import ListenConfig
    from projections.runtime.daemon import Service, Services


# Longer than the swap of a rebuild or a restart of Alpine takes, and short enough that the alarm
# comes before a person notices a table that no longer changes.
UNHEALTHY_AFTER_S = 60.0
ALL = "all"


def _complete_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The registered projections that are not named yet."""
    from projections.runtime.registry import projection_names

    given = ctx.params["names"] or ()
    names = [*projection_names(), ALL]
    return [name for name in names if name.startswith(incomplete) and name not in given]


@click.command()
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME...|all", shell_complete=_complete_names
)
@click.option("--once", is_flag=True, help="Apply what the log holds now, then exit.")
@click.option(
    "--batch-size",
    metavar="N",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="At most N entries in one transaction.",
)
@click.option(
    "--batch-timeout",
    type=SECONDS,
    default=0.0,
    show_default=True,
    help="How long to wait until a batch is full; 0 commits what is there.",
)
@click.option("--compress", is_flag=True, help="Also compress each segment once it is closed.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Serve /health and /metrics over HTTP at this address. Default: not served.",
)
@click.option(
    "--listen-name",
    metavar="HOST",
    multiple=True,
    help="A further host name by which clients of --listen address it; repeatable.",
)
@click.option(
    "--unhealthy-after",
    type=SECONDS,
    default=UNHEALTHY_AFTER_S,
    show_default=True,
    help="How long a failure must persist before /health reports it.",
)
@click.pass_obj
def project(
    obj: CommandContext,
    names: tuple[str, ...],
    once: bool,
    batch_size: int,
    batch_timeout: float,
    compress: bool,
    listen: str | None,
    listen_name: tuple[str, ...],
    unhealthy_after: float,
) -> None:
    """Run the daemon that keeps projections up to date.

    It follows the log and applies each new entry to the named projections: `sqlite` builds the
    signals table, `alpine` delivers signals to Alpine, `mirror` copies the log to a stream of NATS,
    `tree` hashes its lines for `evidence`, and installed plug-ins add others. `all` runs every one,
    `mirror` where EVENTLOG_STREAM is set and `tree` where this home has a key to sign with. On a
    replica `all` leaves out `alpine` and `mirror`. It waits for a log that does not exist yet. A
    projection that fails is restarted, and stops no other. It stops cleanly on SIGTERM and Ctrl-C,
    works under systemd (Type=notify), and continues from its checkpoint when it is started again.
    `--batch-size 50 --batch-timeout 5` gives the batches of the old tracker.

    \b
    Example:
      eventlog project sqlite
      eventlog project all --listen 127.0.0.1:9464
      eventlog project sqlite --once && sqlite3 data/signals.db 'SELECT count(*) FROM signals'
    """
    from projections.runtime.batcher import Pace
    from projections.runtime.daemon import run

    home = Path(obj.home)
    chosen = _chosen_names(names, home)
    _require_settings(chosen, home, once=once)
    log_lifecycle("projections.runtime.daemon")
    run(
        home,
        chosen,
        Pace(batch_entries=batch_size, batch_timeout_s=batch_timeout),
        once=once,
        notify_socket=os.environ.get("NOTIFY_SOCKET"),
        services=_services(
            home,
            _listen_config(listen, listen_name, unhealthy_after, once=once),
            compress=compress,
            once=once,
        ),
    )


def _require_settings(chosen: list[str], home: Path, *, once: bool) -> None:
    """Raises EventLogError for a setting that is wrong, before any projection starts."""
    from projections.errors import ProjectionError

    if "alpine" in chosen:
        config = alpine_config()
        config.require_valid()
        if once and chosen == ["alpine"] and config.disabled:
            # A daemon logs this and stays idle. With --once and no other projection, exit code 0
            # would wrongly say that the signals were delivered.
            raise ProjectionError(
                f"delivery is disabled: {config.disabled}",
                where=str(home),
                do="set ALPINE_API_URL and ALPINE_API_KEY_FILE",
            )
    if "mirror" in chosen:
        from projections.cli.replication.settings import mirror_projection

        mirror_projection()


def _chosen_names(names: tuple[str, ...], home: Path) -> list[str]:
    """The projections to run. Raises WrongUsage for a name that is not registered."""
    from projections.runtime.registry import names_in_all, projection_names

    registered = projection_names()
    unknown = [name for name in names if name not in (ALL, *registered)]
    if unknown:
        raise WrongUsage(
            f"there is no projection {printable_value(unknown[0])}",
            do=f"choose from: {', '.join([*registered, ALL])}",
        )
    if ALL not in names:
        return list(dict.fromkeys(names))
    in_all = names_in_all(home, has_stream=bool(setting("EVENTLOG_STREAM")))
    return [name for name in registered if name in names or name in in_all]


def _services(
    home: Path, address: "ListenConfig | None", *, compress: bool, once: bool
) -> "Services":
    """What the options let run beside the projections."""
    from projections.runtime.daemon import Services

    from_start: list[Service] = []
    with_log: list[Service] = []
    if address is not None:
        from projections.monitoring.endpoints import serving_endpoints

        from_start.append(lambda supervisors, _stop: serving_endpoints(home, supervisors, address))
    if once:
        from projections.cli.once_progress import showing_progress

        with_log.append(lambda supervisors, _stop: showing_progress(home, supervisors))
    if compress:
        from projections.runtime.compaction import compress_in_background

        with_log.append(
            lambda _supervisors, stop: compress_in_background(home, once=once, stop=stop)
        )
    return Services(from_start, with_log)


def _listen_config(
    text: str | None, names: tuple[str, ...], unhealthy_after_s: float, *, once: bool
) -> "ListenConfig | None":
    from projections.monitoring.endpoints import ListenConfig

    if text is None:
        if names:
            raise WrongUsage("--listen-name needs --listen", do="add --listen HOST:PORT")
        return None
    if once:
        raise WrongUsage(
            "--listen serves a running daemon, and --once starts none", do="leave out one of them"
        )
    require_host_names("--listen-name", names)
    return ListenConfig(listen_address(text), unhealthy_after_s, names)
