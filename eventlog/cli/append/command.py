"""The command `append`.

Invariant: every input line gets exactly one output line, in order.
"""

import os
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
from eventlog.cli.streams import NoReader, print_problem
from eventlog.errors import AppendTimeout, printable
from eventlog.figures import count_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventlog.cli.append.output import AppendOutput
    from eventlog.cli.append.pipe import HoldBack, StopSignal
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
    from eventlog.cli.append.pipe import StopSignal

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
    from eventlog.cli.append.output import append_output

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
    from eventlog.cli.append.replicated_receipts import ReplicatedReceipts

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
    from eventlog.cli.append.pipe import LineResult, StoredLineParser, append_lines
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
    from eventlog.append.batch import Receipt
    from eventlog.cli.append.pipe import LineResult, append_lines
    from eventlog.replica.engine import StreamUnavailable

    acknowledged = 0

    def show(answers: list[LineResult]) -> None:
        nonlocal acknowledged
        acknowledged += sum(isinstance(answer.result, Receipt) for answer in answers)
        output.show(answers)

    stop.on_signal = log.stop_waiting
    with log:
        problem = ""
        try:
            all_valid = append_lines(log, fd, stop, skip_invalid=skip_invalid, on_results=show)
        except (StreamUnavailable, AppendTimeout) as error:
            if stop.signal is None:
                raise
            problem, all_valid = "; ".join(["", error.what, error.do]), False
        if stop.signal is not None:
            print_problem(f"stopped with {count_text(acknowledged, 'line')} acknowledged{problem}")
        if problem:
            sys.exit(EXIT_INTERRUPTED)
        return all_valid


def _check(
    home: str, fd: int, stop: "StopSignal", output: "AppendOutput", *, create: bool, salt: bool
) -> bool:
    from eventlog.cli.append.check import check_lines  # rarely needed
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
