"""The commands `backup` (with its restore drill) and `restore`.

Invariant: a backup holds the log and what was signed, because everything else is derived from it.
"""

import sys
from pathlib import Path

import click

from eventlog.plumbing import EXIT_PROBLEM, JSON_OPTION, CommandContext, WrongUsage
from projections.cli.common import print_result

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("dest", type=_DIRECTORY)
@click.option(
    "--verify",
    "is_drill",
    is_flag=True,
    help="Copy nothing; restore DEST into a scratch directory and check the result.",
)
@click.option(
    "--scratch",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where --verify makes its scratch directory. Default: DEST.",
)
@JSON_OPTION
@click.pass_obj
def backup(
    obj: CommandContext, dest: Path, is_drill: bool, scratch: Path | None, as_json: bool
) -> None:
    """Copy new log data into the backup directory DEST.

    Writers continue meanwhile. Files that DEST holds already are hashed again and kept; new data is
    verified, copied, synced and read back. If the command is killed, DEST stays a valid backup up
    to the position that it names, and the next run continues from there.

    With --verify, every chain and every sha256 of the restored log is checked, a database is built
    from it, and the result is compared with the log of this home. Exit code 1 if DEST cannot be
    restored or belongs to another log. `eventlog status` shows the age of the last successful
    check.

    \b
    Example:
      eventlog backup /mnt/disk/backup/eventlog
      eventlog backup --verify /mnt/disk/backup/eventlog
      eventlog status --json | jq .backup.age_seconds
    """
    from eventlog import back_up
    from eventlog.plumbing import progress_bar

    if scratch is not None and not is_drill:
        raise WrongUsage("--scratch needs --verify", do="add --verify, or leave out --scratch")
    if is_drill:
        _run_drill(obj, dest, scratch, as_json)
        return
    with progress_bar("backing up") as progress:
        done = back_up(obj.home, dest, now=_now(), progress=progress)
    print_result(done, as_json=as_json)


def _run_drill(obj: CommandContext, dest: Path, scratch: Path | None, as_json: bool) -> None:
    from eventlog.plumbing import progress_bar, refuse_in_home
    from projections.monitoring.restore_drill import run_restore_drill

    if scratch is not None:
        refuse_in_home(scratch, home=obj.home)
    result = run_restore_drill(
        Path(obj.home), dest, scratch_parent=scratch, now=_now(), progress_factory=progress_bar
    )
    print_result(result, as_json=as_json)
    if not result.ok:
        sys.exit(EXIT_PROBLEM)


@click.command()
@click.argument("src", type=_DIRECTORY)
@JSON_OPTION
@click.pass_obj
def restore(obj: CommandContext, src: Path, as_json: bool) -> None:
    """Restore the backup in directory SRC into a new home.

    The home that --home names must be missing or empty; otherwise it is refused and not touched.
    Each segment is checked against its hash, synced and read back. The log appears under its name
    only when it is complete. Then rebuild the database with `eventlog rebuild-database`. To repair
    an existing log from a backup, use `eventlog repair --from SRC`.

    \b
    Example:
      eventlog --home ./new-home restore /mnt/disk/backup/eventlog
      eventlog --home ./new-home rebuild-database
    """
    from eventlog import restore_home
    from eventlog.plumbing import progress_bar

    with progress_bar("restoring") as progress:
        restored = restore_home(src, obj.home, progress=progress)
    print_result(restored, as_json=as_json)


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
