"""The command `doctor`.

Invariant: it changes nothing except its own scratch directory.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventlog.plumbing import (
    EXIT_PROBLEM,
    JSON_OPTION,
    SECONDS,
    CommandContext,
    WrongUsage,
    print_lines,
    print_message,
)
from projections.cli.common import print_json
from projections.cli.settings import alpine_config

if TYPE_CHECKING:
    from projections.doctor.finding import DoctorFinding


SECONDS_DEFAULT = 20


@click.command()
@click.option(
    "--disk",
    "directory",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Test the disk of DIR instead, in a scratch directory below DIR.",
)
@click.option(
    "--seconds",
    type=SECONDS,
    help=f"About how long --disk takes. Default: {SECONDS_DEFAULT}.",
)
@JSON_OPTION
@click.pass_obj
def doctor(
    obj: CommandContext, directory: Path | None, seconds: float | None, as_json: bool
) -> None:
    """Check this home and this machine for problems.

    Each finding is `ok`, `note`, `warning` or `problem`, and says what to do. Checked are the
    versions of Python and SQLite, the log and the table, file systems, the duration of a sync, file
    events, permissions, the clock, free space, and Alpine with its key. Nothing is changed.

    With --disk a disk is tested instead: a real append is killed repeatedly, writes are torn, bits
    are flipped, and a file size limit is reached. Exit code 1 if there is a problem.

    \b
    Example:
      eventlog doctor
      eventlog doctor --json | jq '.findings[] | select(.level != "ok")'
      eventlog doctor --disk /srv
    """
    from datetime import UTC, datetime

    from projections.doctor.finding import is_ok

    if directory is None and seconds is not None:
        raise WrongUsage("--seconds needs --disk DIR", do="name a directory to test with --disk")
    more: dict[str, object] = {}
    if directory is None:
        from eventlog.plumbing import stream_settings
        from projections.cli.replication.settings import setting
        from projections.doctor.doctor import examine_home

        findings = []
        stream = stream_settings if setting("EVENTLOG_STREAM") else None
        now = datetime.now(UTC)
        for finding in examine_home(Path(obj.home), alpine_config(), now=now, stream=stream):
            findings.append(finding)
            if not as_json:
                _print_finding(finding)
    else:
        findings, more = _try_disk(directory, SECONDS_DEFAULT if seconds is None else seconds)
        for finding in () if as_json else findings:
            _print_finding(finding)
    if as_json:
        print_json({"ok": is_ok(findings), "findings": [f.to_json() for f in findings], **more})
    if not is_ok(findings):
        sys.exit(EXIT_PROBLEM)


def _try_disk(directory: Path, seconds: float) -> "tuple[list[DoctorFinding], dict[str, object]]":
    import logging

    from eventlog.plumbing import refuse_in_home
    from projections.doctor.disk_trial import examine_disk

    refuse_in_home(directory)
    logging.getLogger("eventlog").setLevel(logging.ERROR)  # it warns of each torn write we make
    is_terminal = sys.stderr.isatty()

    def report_step(step: str) -> None:
        if is_terminal:
            print_message(f"{step} ...")

    result = examine_disk(directory, seconds=seconds, report_step=report_step)
    return result.findings, {"measured": result.to_json()}


def _print_finding(finding: "DoctorFinding") -> None:
    from eventlog.plumbing import bad_news, printable
    from projections.doctor.finding import PROBLEM, WARNING

    level = f"{finding.level:<8}"
    if finding.level in (PROBLEM, WARNING):
        level = bad_news(level, "red" if finding.level == PROBLEM else "yellow")
    lines = [level + printable(f" {finding.check:<12} {finding.found}")]
    if finding.do is not None:
        lines.append(printable(f"{'':<21} do: {finding.do}"))
    print_lines(lines)
