"""Commands for the day on which the log is lost: backup, its proof, and restore.

What a command needs is imported when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import sys
from pathlib import Path

import click

from projections.cli.common import EXIT_BAD_NEWS, GlobalOptions, print_json

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("dest", type=_DIRECTORY)
@click.option("--verify", "is_drill", is_flag=True, help="Prove that DEST can be restored.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where --verify restores it to, for a while. Default: in DEST.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def backup(
    obj: GlobalOptions, dest: Path, is_drill: bool, scratch: Path | None, as_json: bool
) -> None:
    """Bring the backup in the directory DEST up to the log, while writers go on.

    Only the log is copied, for all else is built from it. What DEST holds already is hashed again
    and stays; what is new is verified, copied, synced and read back. Killed at any moment it
    leaves a backup that is good up to what it says, and running it again goes on from there.

    With --verify nothing is copied: DEST is restored into a scratch directory, every chain and
    every sha256 is checked, a database is built, and the result is compared with the log. Exit
    code 1 when it cannot be restored, or is not of this log. `eventlog status` shows the age of
    the last proof.

    \b
    Example:
      eventlog backup /mnt/disk/backup/eventlog
      eventlog backup --verify /mnt/disk/backup/eventlog
      eventlog status --json | jq .backup.age_seconds
    """
    from eventlog import back_up
    from eventlog.plumbing import Progress

    if scratch is not None and not is_drill:
        raise click.UsageError("--scratch goes with --verify")
    _interrupt_on_sigterm()
    if is_drill:
        _run_drill(obj, dest, scratch, as_json)
        return
    with Progress("backing up") as progress:
        done = back_up(obj.home, dest, now=_now(), progress=progress)
    if as_json:
        print_json(done.to_json())
    else:
        click.echo("\n".join(done.to_text()))


def _run_drill(obj: GlobalOptions, dest: Path, scratch: Path | None, as_json: bool) -> None:
    from eventlog.plumbing import Progress
    from projections.monitoring.restore_drill import run_restore_drill

    result = run_restore_drill(
        Path(obj.home), dest, scratch_parent=scratch, now=_now(), progress_factory=Progress
    )
    if as_json:
        print_json(result.to_json())
    else:
        click.echo("\n".join(result.to_text()))
    if not result.ok:
        sys.exit(EXIT_BAD_NEWS)


@click.command()
@click.argument("src", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def restore(obj: GlobalOptions, src: Path, as_json: bool) -> None:
    """Restore the log of the backup in SRC into a new home.

    The home that --home names must be new or empty: one that holds anything is refused, and not
    touched. Each segment is checked against its hash, synced and read back, and the log gets its
    name when all of it is there. Then rebuild the database. To mend a log that is there, use
    `eventlog repair --from SRC`.

    \b
    Example:
      eventlog --home ./new-home restore /mnt/disk/backup/eventlog
      eventlog --home ./new-home rebuild-database
    """
    from eventlog import restore_home
    from eventlog.plumbing import Progress

    _interrupt_on_sigterm()
    with Progress("restoring") as progress:
        restored = restore_home(src, obj.home, progress=progress)
    if as_json:
        print_json(restored.to_json())
    else:
        click.echo("\n".join(restored.to_text()))


def _interrupt_on_sigterm() -> None:
    """SIGTERM ends it as Ctrl-C does: what was begun is removed."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
