"""The command `doctor`.

What it needs is imported when it runs, so that `eventlog --help` stays fast.

Invariant: data goes to stdout, messages to stderr; exit codes are those of eventlog.cli.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from projections.cli.common import EXIT_BAD_NEWS, SECONDS, GlobalOptions, print_json
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
    help="Try the disk that DIR is on, in a scratch directory below DIR.",
)
@click.option("--seconds", type=SECONDS, help=f"For --disk; default: {SECONDS_DEFAULT}.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def doctor(
    obj: GlobalOptions, directory: Path | None, seconds: float | None, as_json: bool
) -> None:
    """Say what could keep this home from holding its promises, and what to do about it.

    It looks at Python and SQLite, file systems, the time of a sync, file events, permissions, the
    clock, free space, and Alpine with its key, and changes nothing. With --disk it tries a disk
    instead: a real append is killed again and again, writes are torn, bits turned, and a limit run
    into. Exit code 1 when there is a problem.

    \b
    Example:
      eventlog doctor
      eventlog doctor --json | jq '.findings[] | select(.level != "ok")'
      eventlog doctor --disk /srv
    """
    from datetime import UTC, datetime

    from projections.doctor.finding import is_ok

    if directory is None and seconds is not None:
        raise click.UsageError("--seconds is for --disk DIR")
    more: dict[str, object] = {}
    if directory is None:
        from projections.doctor.doctor import examine_home

        findings = []
        for finding in examine_home(Path(obj.home), alpine_config(), now=datetime.now(UTC)):
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
        sys.exit(EXIT_BAD_NEWS)


def _try_disk(directory: Path, seconds: float) -> "tuple[list[DoctorFinding], dict[str, object]]":
    import logging
    import signal

    from projections.doctor.disk_trial import examine_disk

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the scratch directory is removed
    logging.getLogger("eventlog").setLevel(logging.ERROR)  # it warns of each tear that we make
    is_terminal = sys.stderr.isatty()

    def report_step(step: str) -> None:
        if is_terminal:
            click.echo(f"{step} ...", err=True)

    result = examine_disk(directory, seconds=seconds, report_step=report_step)
    return result.findings, {"measured": result.to_json()}


def _print_finding(finding: "DoctorFinding") -> None:
    from eventlog.plumbing import printable

    click.echo(printable(f"{finding.level:<8} {finding.check:<12} {finding.found}"))
    if finding.do is not None:
        click.echo(printable(f"{'':<21} do: {finding.do}"))
