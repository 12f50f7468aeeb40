"""The `eventlog` command. The one module of this package that reads the environment.

Data goes to stdout, messages to stderr. Exit codes: 0 done; 1 the answer is bad news; 2 usage;
3 could not run. Further commands join by the entry-point group `eventlog.commands`.

Invariant: an expected failure is told as what, where and what to do, never as a traceback.
"""

import logging
import os
import signal
import sys
from typing import NamedTuple, NoReturn

import click

from eventlog.errors import EventLogError, NobodyReads, printable
from eventlog.streams import (
    explain,
    flush_standard_streams,
    open_standard_streams,
    tell,
    write_out,
)

EXIT_BAD_NEWS = 1
EXIT_COULD_NOT_RUN = 3
EXIT_INTERRUPTED = 130  # what a shell expects of a program that ended by Ctrl-C

_QUIET_LOGGERS = ("httpx", "httpcore", "watchfiles", "aiosqlite", "asyncio")


LOCK_TIMEOUT_S = 2.0  # of `append`, which tries again and sees a signal in between


class Context(NamedTuple):
    """What the options before the command said."""

    home: str


class Commands(click.Group):
    """Our commands and those of plug-ins, which are loaded when they are called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from eventlog.plugins import COMMANDS, plugin_names

        return sorted({*super().list_commands(ctx), *plugin_names(COMMANDS)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        from eventlog.plugins import COMMANDS, load_plugin

        found = load_plugin(COMMANDS, cmd_name)
        return found if isinstance(found, click.Command) else None


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"eventlog {version('eventlog')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
@click.option(
    "--home",
    metavar="DIR",
    envvar="EVENTLOG_HOME",
    default=".",
    help="Where the log and its projections live. Default: EVENTLOG_HOME, else this directory.",
)
@click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for debugging.")
@click.option("-q", "--quiet", is_flag=True, help="Say errors only.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How messages on stderr are written. Default: text.",
)
@click.pass_context
def cli(ctx: click.Context, home: str, verbose: int, quiet: bool, log_format: str) -> None:
    """An append-only, hash-chained log of trading signals, and what is built from it.

    \b
    Example:
      echo '{"symbol":"AAPL","action":"BUY","entry_price":150.5,"target_price":158.25,
             "stop_price":147,"confidence":85.5,"strategy":"demo"}' | tr -d '\\n' |
        eventlog --home ./home append
      eventlog --home ./home tail -n 5
      eventlog --home ./home verify
    """
    ctx.obj = Context(home or ".")
    level = logging.ERROR if quiet else max(logging.DEBUG, logging.WARNING - 10 * verbose)
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(levelname)s %(name)s %(message)s")
    handler.setFormatter(_JsonFormatter() if log_format == "json" else plain)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


@cli.command()
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--skip-invalid", is_flag=True, help="Answer a bad line with its error and go on.")
@click.option(
    "--segment-bytes", type=click.IntRange(min=1), help="Size that ends a segment. Default: 64 MiB."
)
@click.pass_obj
def append(obj: Context, file: str | None, skip_invalid: bool, segment_bytes: int | None) -> None:
    """Append signals and facts: JSON Lines from FILE or stdin.

    Each line of input gets exactly one line on stdout, in order: a receipt, once it is durable, or
    an object with line, error and field. What waits on stdin is committed together, so this also
    serves as a long-lived pipe for a generator in any language. Without --skip-invalid it ends
    at the first bad line, exit code 1: lines before it are durable, none after it is written.

    \b
    Example:
      eventlog append signals.jsonl
      my-generator | eventlog append --skip-invalid > receipts.jsonl
    """
    from eventlog.log import EventLog
    from eventlog.pipe import Answer, Stop, append_lines
    from eventlog.segments import SEGMENT_BYTES_DEFAULT

    def answer(answers: list[Answer]) -> None:
        stop.write(1, b"".join(found.to_json() for found in answers))
        for number, result in answers:
            if isinstance(result, EventLogError):
                tell(f"line {number}: {result}")

    fd = 0
    if file is not None and file != "-":
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            os.read(fd, 0)  # a directory opens, but does not read
        except OSError as error:
            raise click.UsageError(printable(f"cannot read {file}: {error.strerror}")) from None
    stop = Stop()
    with EventLog(
        obj.home,
        segment_bytes=segment_bytes or SEGMENT_BYTES_DEFAULT,
        lock_timeout_s=LOCK_TIMEOUT_S,
    ) as log:
        all_valid = append_lines(log, fd, stop, skip_invalid=skip_invalid, answer=answer)
    if stop.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if not all_valid:
        sys.exit(EXIT_BAD_NEWS)


@cli.command()
@click.option("--after", type=click.IntRange(min=0), default=0, help="Start after this seq.")
@click.option("--limit", type=click.IntRange(min=0), help="At most so many lines.")
@click.pass_obj
def cat(obj: Context, after: int, limit: int | None) -> None:
    """Print raw lines of the log.

    \b
    Example:
      eventlog cat --after 100 --limit 10 | jq -r .symbol
    """
    from eventlog.views import raw_lines

    for lines in raw_lines(obj.home, after=after, limit=limit):
        write_out(b"".join(lines))


@cli.command()
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=10, help="How many. Default: 10."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is appended, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Raw lines instead of a summary.")
@click.pass_obj
def tail(obj: Context, lines: int, follow: bool, as_json: bool) -> None:
    """Show the last entries, and with -f those that come.

    \b
    Example:
      eventlog tail -n 3
      eventlog tail -f --json | jq .confidence
    """
    from eventlog.line import decode
    from eventlog.show import entry_line
    from eventlog.views import end_seq, follow_lines, raw_lines

    def show(found: list[bytes]) -> None:
        if as_json:
            write_out(b"".join(found))
        else:
            write_out("".join(f"{entry_line(decode(line))}\n" for line in found).encode())

    if follow:  # before the first line comes out: whoever read it may ask to stop
        # As Ctrl-C, which asyncio knows to end by; an exception out of nowhere would be lost in it.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        # Which it does not know where a script started us behind itself: there SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    end = end_seq(obj.home)
    for found in raw_lines(obj.home, after=max(0, end - lines)):
        show(found)
        end = decode(found[-1]).seq
    if follow:
        follow_lines(obj.home, end, show)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
@click.pass_obj
def verify(obj: Context, as_json: bool) -> None:
    """Re-hash every line and every signal. Reads only; takes no lock.

    Exit code 1 when something is wrong. An unacknowledged tail, left by a crash, is nothing wrong:
    the next append cuts it.

    \b
    Example:
      eventlog verify
      eventlog verify --json | jq .findings
    """
    import orjson

    from eventlog.progress import Progress
    from eventlog.verify import verify as verify_log

    with Progress("verifying") as progress:
        report = verify_log(obj.home, progress=progress)
    if as_json:
        write_out(orjson.dumps(report.to_json(), option=orjson.OPT_APPEND_NEWLINE))
    else:
        for finding in report.findings:
            click.echo(
                printable(
                    f"{finding.segment} at byte {finding.byte_offset}, seq {finding.seq}:"
                    f" {finding.problem}"
                )
            )
        what = "whole" if report.ok else f"DAMAGED: {len(report.findings)} findings"
        click.echo(f"{what}: {report.entries} entries in {report.segments} segments")
        click.echo(f"head: seq {report.last_seq}, chain {report.chain}")
        if report.torn_bytes:
            click.echo(f"{report.torn_bytes} unacknowledged bytes at the end: nothing is lost")
    if not report.ok:
        sys.exit(EXIT_BAD_NEWS)


@cli.command()
@click.option(
    "--from",
    "backup",
    metavar="BACKUP",
    type=click.Path(exists=True, file_okay=False),
    help="Put original bytes back from there: a home, its logs directory, or a copy of it.",
)
@click.option("--accept", is_flag=True, help="Record what stays damaged as lost, and go on.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def repair(obj: Context, backup: str | None, accept: bool, as_json: bool) -> None:
    """Mend the log, while writers wait. Only an unacknowledged tail is ever cut, and it is kept.

    Damage before it is listed, with exit code 1, and nothing is changed. Put the original bytes
    back with --from. Where no backup has them, --accept records what is lost in logs/.accepted:
    readers go on behind it, and verify goes on reporting it.

    \b
    Example:
      eventlog repair
      eventlog repair --from /backups/home
      eventlog repair --from /backups/home --accept
    """
    import orjson

    from eventlog.clock import now_recorded
    from eventlog.log import LOCK_TIMEOUT_S_DEFAULT
    from eventlog.repair import repair as repair_log

    report = repair_log(
        obj.home,
        backup=backup,
        accept=accept,
        now=now_recorded(),
        lock_timeout_s=LOCK_TIMEOUT_S_DEFAULT,
    )
    if as_json:
        write_out(orjson.dumps(report.to_json(), option=orjson.OPT_APPEND_NEWLINE))
    else:
        click.echo("\n".join(report.to_text()))
    if not report.is_done:
        sys.exit(EXIT_BAD_NEWS)


@cli.command()
@click.option("--keep", type=click.IntRange(min=0), default=0, help="Leave so many as they are.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for machines.")
@click.pass_obj
def compress(obj: Context, keep: int, as_json: bool) -> None:
    """Compress closed segments, but for the newest --keep of them. Appends go on meanwhile.

    Every command reads them as before, and so does `zstd -dc`. A raw segment is removed only when
    the compressed one was read back from the disk. Where logs/closed is a directory, or a link to
    one on a larger disk, compressed segments are put there. Exit code 1 when one is damaged.

    \b
    Example:
      eventlog compress
      mkdir /archive/closed && ln -s /archive/closed home/logs/closed && eventlog compress
    """
    import orjson

    from eventlog.compress import compress_log
    from eventlog.log import LOCK_TIMEOUT_S_DEFAULT
    from eventlog.progress import Progress

    with Progress("compressing") as progress:
        report = compress_log(
            obj.home, keep=keep, lock_timeout_s=LOCK_TIMEOUT_S_DEFAULT, progress=progress
        )
    if as_json:
        write_out(orjson.dumps(report.to_json(), option=orjson.OPT_APPEND_NEWLINE))
    else:
        click.echo("\n".join(report.to_text()))
    if report.damaged:
        sys.exit(EXIT_BAD_NEWS)


def _run() -> int:
    """Not by click's own main: that one ends with 1, our bad news, when nobody reads stdout."""
    if "_EVENTLOG_COMPLETE" in os.environ:  # a shell asks what could be typed
        cli.main(prog_name="eventlog")
    with cli.make_context("eventlog", sys.argv[1:]) as context:
        cli.invoke(context)
    return 0


def main() -> NoReturn:
    """Runs the command and exits with its code."""
    open_standard_streams()
    try:
        code = _run()
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:  # --help, --version
        code = exit_.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except EventLogError as error:
        explain(error)
        code = EXIT_COULD_NOT_RUN
    except (NobodyReads, BrokenPipeError):
        code = EXIT_COULD_NOT_RUN  # whoever read our output has gone
    except OSError as error:
        what, where = f"the system refused: {error.strerror or error}", str(error.filename or "")
        do = "see whether this account may do that there, and whether the disk is well"
        explain(EventLogError(what, where=where, do=do))
        code = EXIT_COULD_NOT_RUN
    except (KeyboardInterrupt, click.Abort):
        code = EXIT_INTERRUPTED
    finally:
        flush_standard_streams()
    sys.exit(code)
