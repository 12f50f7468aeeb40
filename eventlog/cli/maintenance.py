"""The commands that check and maintain the log: verify, repair, compress.

Invariant: `verify` changes nothing in logs/; `repair` cuts nothing but an unacknowledged tail.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, cast

import click

from eventlog.cli.command import EXIT_PROBLEM, JSON_OPTION, CommandContext
from eventlog.cli.progress import progress_bar
from eventlog.cli.streams import bad_news, print_error, print_line, print_note, write_stdout
from eventlog.errors import EventLogError, printable
from eventlog.figures import count_text

if TYPE_CHECKING:
    from eventlog.replica.compare import StreamComparison
    from eventlog.replica.stream_rules import StreamSettings
    from eventlog.verify.verify import VerifyReport

BeforeLossPlugin = Callable[[str, Sequence[tuple[int, int]]], Iterable[str]]


@click.command()
@click.option(
    "--stream", "with_stream", is_flag=True, help="Compare each line with the mirror's stream too."
)
@JSON_OPTION
@click.pass_obj
def verify(obj: CommandContext, with_stream: bool, as_json: bool) -> None:
    """Verify the hash of every line and every signal.

    Takes no lock and changes nothing in logs/. Records its result in data/verified.json if data/
    exists and may be written. Exit code 1 if the log is damaged; each finding has the segment, the
    byte offset, the seq and the problem. An unacknowledged tail left by a crash is not damage: the
    next append cuts it.

    With --stream each line is then compared with the stream that EVENTLOG_STREAM and
    EVENTLOG_NATS_URL name. A stream that ends before the log lags, which is no fault. Exit code 1
    if a line differs, if lines are missing from the stream, or if it ends beyond the log.

    \b
    Example:
      eventlog verify
      eventlog verify --json | jq .findings
    """
    import orjson

    from eventlog.clock import now_recorded
    from eventlog.verify.verify import verify as verify_log
    from eventlog.verify.verify_record import write_verify_record

    settings = _stream_settings() if with_stream else None
    with progress_bar("verifying") as progress:
        report = verify_log(obj.home, progress=progress)
    write_verify_record(obj.home, report, at=now_recorded())
    if not as_json:
        _print_report(report)
    shown = report.to_json()
    is_same, failed = True, None
    if settings is not None:
        try:
            found = _compare_with_stream(obj.home, settings)
            shown["stream"] = found.to_json(settings.stream)
            is_same, text = found.ok, found.to_text(settings.stream)
        except EventLogError as error:  # what was verified is reported all the same
            shown["stream"] = {"name": settings.stream, "ok": None, "problem": error.what}
            is_same, text, failed = False, f"{settings.stream} was not compared", error
        if not as_json:
            print_line(printable(text) if is_same else bad_news(printable(text)))
    if as_json:
        write_stdout(orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE))
    if failed is not None and report.ok:
        raise failed
    if failed is not None:
        print_error(failed)
    if not (report.ok and is_same):
        sys.exit(EXIT_PROBLEM)


def _print_report(report: "VerifyReport") -> None:
    for finding in report.findings:
        text = (
            f"{finding.segment} at byte {finding.byte_offset}, seq {finding.seq}: {finding.problem}"
        )
        print_line(bad_news(printable(text)))
    found = count_text(report.findings_total, "finding")
    what = "whole" if report.ok else bad_news(f"DAMAGED: {found}")
    segments = count_text(report.segments, "segment")
    print_line(f"{what}: {count_text(report.entries, 'entry')} in {segments}")
    print_line(f"head: seq {report.last_seq}, chain {report.chain}")
    if report.torn_bytes:
        lost = ": nothing is lost" if report.ok else ""
        torn = count_text(report.torn_bytes, "unacknowledged byte")
        print_line(f"{torn} at the end{lost}")


def _stream_settings() -> "StreamSettings":
    from eventlog.cli.stream_environment import stream_settings
    from eventlog.replica.opening import require_client

    settings = stream_settings()
    require_client()
    return settings


def _compare_with_stream(home: str, settings: "StreamSettings") -> "StreamComparison":
    import asyncio

    from eventlog.replica.compare import compare
    from eventlog.replica.mirror_record import read_mirror_record
    from eventlog.replica.opening import open_stream

    record = read_mirror_record(home)
    acked = record.acked if record is not None and record.stream == settings.stream else 0

    async def run() -> "StreamComparison":
        engine = await open_stream(settings)
        try:
            with progress_bar("comparing") as progress:
                return await compare(engine, home, acked=acked, progress=progress)
        finally:
            await engine.close()

    return asyncio.run(run())


@click.command()
@click.option(
    "--from",
    "backup",
    metavar="BACKUP",
    type=click.Path(exists=True, file_okay=False),
    help="Restore original bytes from BACKUP: a home, its logs directory, or a copy of it.",
)
@click.option("--accept", is_flag=True, help="Record the entries that stay damaged as lost.")
@JSON_OPTION
@click.pass_obj
def repair(obj: CommandContext, backup: str | None, accept: bool, as_json: bool) -> None:
    """Repair a damaged log.

    Writers wait meanwhile. Only an unacknowledged tail is ever cut, and its bytes are kept in a
    file beside the segment. Damage before the tail is listed with exit code 1, and nothing is
    changed. --from restores the original bytes from a backup. Where no backup has them, --accept
    records the lost entries in logs/.accepted: readers then report a gap there, and
    `eventlog verify` goes on reporting them.

    \b
    Example:
      eventlog repair
      eventlog repair --from /backups/home
      eventlog repair --from /backups/home --accept
    """
    import orjson

    from eventlog.clock import now_recorded
    from eventlog.log import LOCK_TIMEOUT_S_DEFAULT
    from eventlog.repair.repair import repair as repair_log

    report = repair_log(
        obj.home,
        backup=backup,
        accept=accept,
        now=now_recorded(),
        lock_timeout_s=LOCK_TIMEOUT_S_DEFAULT,
        before_loss=_before_loss,
    )
    if as_json:
        write_stdout(orjson.dumps(report.to_json(), option=orjson.OPT_APPEND_NEWLINE))
    else:
        print_line("\n".join(report.to_text()))
    if not report.is_done:
        sys.exit(EXIT_PROBLEM)


def _before_loss(home: str, ranges: Sequence[tuple[int, int]]) -> None:
    """Lets each plug-in keep what it needs of entries that are about to count as lost."""
    from eventlog.plugins import BEFORE_LOSS, load_plugin, plugin_names

    for name in plugin_names(BEFORE_LOSS):
        keep = load_plugin(BEFORE_LOSS, name)
        if keep is not None:
            for text in cast("BeforeLossPlugin", keep)(home, ranges):
                print_note(text)


@click.command()
@click.option(
    "--keep",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Leave the newest N closed segments uncompressed.",
)
@JSON_OPTION
@click.pass_obj
def compress(obj: CommandContext, keep: int, as_json: bool) -> None:
    """Compress closed segments with zstd.

    Appends continue meanwhile. Every command reads compressed segments, and so does `zstd -dc`. A
    raw segment is removed only after the compressed one was read back from disk. If logs/closed
    exists, as a directory or as a link to one on a larger disk, compressed segments are moved
    there. Exit code 1 if a segment is damaged.

    \b
    Example:
      eventlog compress
      mkdir /archive/closed && ln -s /archive/closed home/logs/closed && eventlog compress
    """
    import orjson

    from eventlog.archive.compress import compress_log
    from eventlog.log import LOCK_TIMEOUT_S_DEFAULT

    with progress_bar("compressing") as progress:
        report = compress_log(
            obj.home, keep=keep, lock_timeout_s=LOCK_TIMEOUT_S_DEFAULT, progress=progress
        )
    if as_json:
        write_stdout(orjson.dumps(report.to_json(), option=orjson.OPT_APPEND_NEWLINE))
    else:
        print_line("\n".join(report.to_text()))
    if report.damaged:
        sys.exit(EXIT_PROBLEM)
