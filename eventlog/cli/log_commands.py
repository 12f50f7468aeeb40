"""The commands that append to the log and print it: append, cat, tail.

Invariant: every input line of `append` gets exactly one output line, in order.
"""

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from eventlog.cli.command import (
    EXIT_COULD_NOT_RUN,
    EXIT_INTERRUPTED,
    EXIT_PROBLEM,
    SECONDS,
    CommandContext,
    WrongUsage,
)
from eventlog.cli.streams import NoReader, print_lines, write_stdout
from eventlog.errors import printable, printable_value
from eventlog.figures import time_text
from eventlog.format.line import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventlog.cli.append_output import AppendOutput
    from eventlog.cli.pipe import HoldBack, StopSignal
    from eventlog.log import EventLog
    from eventlog.remote import RemoteLog

LOCK_TIMEOUT_S = 2.0  # of `append`, which retries and handles signals in between


@click.command()
@click.argument(
    "file", required=False, metavar="[FILE]", type=click.Path(allow_dash=True, readable=False)
)
@click.option(
    "--skip-invalid", is_flag=True, help="Continue after an invalid line. Default: stop there."
)
@click.option(
    "--segment-bytes",
    metavar="N",
    type=click.IntRange(min=1),
    help="Start a new segment at this size. Default: 64 MiB.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Report what would happen to each line, and write nothing.",
)
@click.option(
    "--stored",
    is_flag=True,
    help="The lines are those of a log, as `rejoin` has set aside: append them as new ones.",
)
@click.option(
    "--salt",
    is_flag=True,
    help="Add 16 random bytes as the key `salt` to each item that has none.",
)
@click.option(
    "--no-create", is_flag=True, help="Refuse a home without a log. Default: create the log."
)
@click.option(
    "--to",
    "urls",
    metavar="URL",
    help="Append to the log on another machine, by the servers of NATS at URL.",
)
@click.option(
    "--wait",
    "stage",
    type=click.Choice(["replicated"]),
    help="Print each receipt only once its entry has reached this stage.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=SECONDS,
    help="With --wait: give up after this time. Default: wait for ever.",
)
@click.pass_obj
def append(
    obj: CommandContext,
    file: str | None,
    skip_invalid: bool,
    segment_bytes: int | None,
    check: bool,
    stored: bool,
    salt: bool,
    no_create: bool,
    urls: str | None,
    stage: str | None,
    timeout_s: float | None,
) -> None:
    """Append signals and facts to the log.

    Reads JSON Lines from FILE, or from standard input. Each input line gets exactly one line on
    stdout, in order: a receipt once the entry is durable, or an object with `line`, `error` and
    `field`. Waiting lines are committed together, so a generator may use it as a long-running pipe.

    Without --skip-invalid the command stops at the first invalid line with exit code 1: the lines
    before it are durable, and none after it is written. With it, invalid lines are reported, the
    others are appended, and the exit code is 1 at the end.

    The first line that is appended to a home without a log creates the log, and a message on stderr
    says so; with --no-create the command exits with 3 instead.

    With --wait replicated a receipt is printed once a quorum of the stream's servers has its entry;
    a message says so where no mirror runs. After --timeout the exit code is 1.

    With --check nothing is written or created, and no lock is taken. Each line gets an object with
    `line` and `result`: `new` with the `seq` it would have, `duplicate` with the `seq` of the first
    entry, `conflict` or `invalid` with the `error`. The exit code is 1 if a line would be refused.

    With --to the lines go to the primary of the stream that EVENTLOG_STREAM names, where `eventlog
    serve` appends them; output and exit codes are the same. A line without an answer is sent again,
    and written once; after 30 seconds the command exits with 3. --home has no effect.

    \b
    Example:
      eventlog append signals.jsonl
      eventlog append --check signals.jsonl
      EVENTLOG_STREAM=main eventlog append --to nats://10.0.0.1:4222 signals.jsonl
      my-generator | eventlog append --skip-invalid > receipts.jsonl
    """
    from eventlog.cli.pipe import StopSignal

    _refuse_contradictions(check, stored, stage, timeout_s)
    is_local = any((check, stored, no_create, segment_bytes, stage))
    remote = None if urls is None else _remote_log(urls, is_local=is_local, salt=salt)
    fd, stop = _open_input(file), StopSignal()
    with _answers(fd, stop, "checking" if check else "appending") as output:
        if remote is not None:
            all_valid = _append_remotely(remote, fd, stop, output, skip_invalid=skip_invalid)
        elif check:
            all_valid = _check(obj.home, fd, stop, output, create=not no_create, salt=salt)
        else:
            with _local_log(obj.home, segment_bytes, create=not no_create, salt=salt) as log:
                hold_back = _hold_back(log, stage, timeout_s, stop, output)
                all_valid = _append(log, fd, stop, output, hold_back, skip_invalid, stored)
    _exit(stop, all_valid=all_valid)


@contextmanager
def _answers(fd: int, stop: "StopSignal", title: str) -> "Iterator[AppendOutput]":
    """The output of the results. Ends with exit code 3 where no process reads them."""
    from eventlog.cli.append_output import append_output

    try:
        with append_output(fd, stop, title) as output:
            yield output
    except NoReader:
        sys.exit(EXIT_COULD_NOT_RUN)  # the reader of the receipts does not know what is durable


def _exit(stop: "StopSignal", *, all_valid: bool) -> None:
    """Ends with the exit code of an `append` that the log did not refuse."""
    if stop.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if not all_valid:
        sys.exit(EXIT_PROBLEM)


def _refuse_contradictions(
    check: bool, stored: bool, stage: str | None, timeout_s: float | None
) -> None:
    if check and stored:
        raise WrongUsage("--check does not work with --stored", do="leave out one of them")
    if stage is None and timeout_s is not None:
        raise WrongUsage("--timeout needs --wait", do="add --wait replicated, or leave it out")
    if stage is not None and check:
        raise WrongUsage("--check does not work with --wait", do="leave out one of them")


def _local_log(home: str, segment_bytes: int | None, *, create: bool, salt: bool) -> "EventLog":
    from eventlog.format.segment import SEGMENT_BYTES_DEFAULT
    from eventlog.log import EventLog

    return EventLog(
        home,
        segment_bytes=segment_bytes or SEGMENT_BYTES_DEFAULT,
        lock_timeout_s=LOCK_TIMEOUT_S,
        create=create,
        salt=salt,
    )


def _remote_log(urls: str, *, is_local: bool, salt: bool) -> "RemoteLog":
    """The log of the primary that the servers at `urls` reach. Raises WrongUsage, EventLogError."""
    from eventlog.cli.stream_environment import stream_settings
    from eventlog.remote import RemoteLog
    from eventlog.replica.opening import require_client

    if is_local:
        raise WrongUsage(
            "--check, --stored, --no-create, --segment-bytes and --wait are about a log on this "
            "machine",
            do="leave them out, or leave out --to",
        )
    if "@" in urls:
        raise WrongUsage(
            "--to must not hold a user or a password: other processes can read it",
            do="set EVENTLOG_NATS_NKEY_FILE or EVENTLOG_NATS_CREDS_FILE",
        )
    require_client()
    settings = stream_settings([url.strip() for url in urls.split(",") if url.strip()])
    return RemoteLog(settings, salt=salt)


def _hold_back(
    log: "EventLog",
    stage: str | None,
    timeout_s: float | None,
    stop: "StopSignal",
    output: "AppendOutput",
) -> "HoldBack | None":
    """What holds receipts back. Raises NotReplicated where none would ever be printed."""
    if stage is None:
        return None
    from eventlog.cli.replicated_receipts import ReplicatedReceipts

    return ReplicatedReceipts(log.home, timeout_s, stop, output.note).hold_back


def _append(
    log: "EventLog",
    fd: int,
    stop: "StopSignal",
    output: "AppendOutput",
    hold_back: "HoldBack | None",
    skip_invalid: bool,
    stored: bool,
) -> bool:
    """Appends the lines from `fd`, and says so if that created the log."""
    from eventlog.cli.pipe import LineResult, StoredLineParser, append_lines
    from eventlog.schema.json_input import parse_json_line

    is_reported = False

    def show(answers: list[LineResult]) -> None:
        nonlocal is_reported
        if log.created and not is_reported:
            is_reported = True
            output.note(f"created a new log at {printable(log.home)}")
        output.show(answers)

    return append_lines(
        log,
        fd,
        stop,
        skip_invalid=skip_invalid,
        parse=StoredLineParser() if stored else parse_json_line,
        hold_back=hold_back,
        on_results=show,
    )


def _append_remotely(
    log: "RemoteLog", fd: int, stop: "StopSignal", output: "AppendOutput", *, skip_invalid: bool
) -> bool:
    """Appends the lines from `fd` to the log on another machine."""
    from eventlog.cli.pipe import append_lines

    with log:
        return append_lines(log, fd, stop, skip_invalid=skip_invalid, on_results=output.show)


def _check(
    home: str, fd: int, stop: "StopSignal", output: "AppendOutput", *, create: bool, salt: bool
) -> bool:
    from eventlog.cli.check import check_lines  # rarely needed
    from eventlog.read.inspect import require_home

    if not create:
        require_home(home)
    return check_lines(home, fd, stop, output.show, salt=salt)


def _open_input(file: str | None) -> int:
    """The descriptor of the input. Raises WrongUsage."""
    if file is None or file == "-":
        return 0
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        os.read(fd, 0)  # a directory opens, but does not read
    except OSError as error:
        raise WrongUsage(
            f"cannot read {file}: {error.strerror}",
            do="name a file of JSON Lines, or none to read standard input",
        ) from None
    return fd


@click.command()
@click.option(
    "--after",
    metavar="SEQ",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Start with the entry after SEQ.",
)
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=0), help="At most N lines. Default: all."
)
@click.pass_obj
def cat(obj: CommandContext, after: int, limit: int | None) -> None:
    """Print the lines of the log as they are stored.

    \b
    Example:
      eventlog cat --after 100 --limit 10 | jq -r .symbol
    """
    from eventlog.read.inspect import raw_lines

    for lines in raw_lines(obj.home, after=after, limit=limit):
        write_stdout(b"".join(lines))


@click.command()
@click.option(
    "-n",
    "--lines",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Number of entries.",
)
@click.option("-f", "--follow", is_flag=True, help="Then print new entries, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the stored lines, not a summary.")
@click.pass_obj
def tail(obj: CommandContext, lines: int, follow: bool, as_json: bool) -> None:
    """Print the newest entries, and new ones with -f.

    \b
    Example:
      eventlog tail -n 3
      eventlog tail -f --json | jq .confidence
    """
    from eventlog.format.line import decode
    from eventlog.read.inspect import end_seq, raw_lines, tail_raw_lines

    def show(found: list[bytes]) -> None:
        if as_json:
            write_stdout(b"".join(found))
        else:
            print_lines(entry_line(decode(line)) for line in found)

    if follow:  # before the first line is printed, after which a reader may send a signal
        # In the background of a script SIGINT is ignored, and asyncio would leave it so.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    end = end_seq(obj.home)
    for found in raw_lines(obj.home, after=max(0, end - lines)):
        show(found)
        end = decode(found[-1]).seq
    if follow:
        tail_raw_lines(obj.home, end, show)


_FACT_KEYS_MAX = 6  # further keys are left out; `--json` shows all


def entry_line(entry: Entry) -> str:
    """`42  2025-11-18T02:00:00.123+00:00  signal    AAPL BUY 150.5 ...`, without a newline."""
    when = time_text(entry.recorded_at, places=3)
    return f"{entry.seq:>8}  {when}  {printable_value(entry.event):<9}  {_details(entry)}"


def _details(entry: Entry) -> str:
    def text(name: str) -> str:
        return printable_value(entry.payload.get(name))

    signal_id = printable_value(entry.payload.get("signal_id", "-"))
    if entry.event == "signal":
        return (
            f"{text('symbol')} {text('action')} at {text('entry_price')}"
            f" target {text('target_price')} stop {text('stop_price')}"
            f" confidence {text('confidence')} {text('strategy')}  {signal_id}"
        )
    pairs = [(key, value) for key, value in entry.payload.items() if key != "signal_id"]
    details = " ".join(
        f"{printable_value(key)}={printable_value(value)}" for key, value in pairs[:_FACT_KEYS_MAX]
    )
    return f"{details}  {signal_id}" if details else signal_id
