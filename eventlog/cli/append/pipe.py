"""`eventlog append` as a long-lived pipe: each line of input gets one line of output, in order.

All lines that wait on the input are committed together. So a generator that writes many lines at
once causes one sync, and one that waits for each answer gets it once its line is durable.

Invariant: a receipt is written only after its entry is durable, and each line that is read from
the input gets exactly one answer, in order.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple, Protocol

import orjson

from eventlog.append.batch import Receipt
from eventlog.cli.streams import NoReader
from eventlog.errors import (
    EventLogError,
    InvalidSignal,
    LogLocked,
    NotReplicated,
    SignalConflict,
    WaitTimeout,
)
from eventlog.format.line import RESERVED_KEYS
from eventlog.log import Item
from eventlog.schema.json_input import INPUT_BYTES_MAX, parse_json_line

LOCK_TRIES_MAX = 15  # each for the log's lock_timeout_s; signals are handled in between
WRITE_GRACE_S = 5.0  # for the reader of the answers, once a signal asked to stop
PIPE_BUF_BYTES = 4096  # a pipe that polls as writable accepts these without blocking
READ_BYTES = 1 << 20  # read from the input for one commit: a few thousand lines


_REFUSALS = InvalidSignal | SignalConflict  # of one line
_LATE = WaitTimeout | NotReplicated  # the line is durable

Result = Receipt | EventLogError
HoldBack = Callable[[list[Result]], list[Result]]
Parse = Callable[[bytes], dict[str, object]]  # a line of input -> the item; raises InvalidSignal


class LineResult(NamedTuple):
    """The result of one line of input."""

    line: int  # 1 is the first
    result: Result

    def to_json(self) -> bytes:
        """The line of output, newline included."""
        if isinstance(self.result, Receipt):
            receipt = self.result._asdict()
            if not self.result.warnings:
                del receipt["warnings"]
            return orjson.dumps(receipt, option=orjson.OPT_APPEND_NEWLINE)
        found: dict[str, object] = {"line": self.line, "error": str(self.result)}
        field = getattr(self.result, "field", None)
        if field:
            found["field"] = field
        return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


class StopSignal:
    """SIGTERM and SIGINT end the input. Lines read before are committed and answered."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.on_signal: Callable[[], object] = lambda: None  # called by the handler
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.on_signal()

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.signal == signal.SIGINT

    def wait_for(self, fd: int, timeout_s: float | None = None) -> bool:
        """Waits until `fd` can be read; False after a signal or after `timeout_s`."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._reader, select.POLLIN)
        ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
        return self.signal is None and any(found == fd for found, _ in ready)

    def write(self, fd: int, data: bytes) -> None:
        """Writes all of `data`. Raises NoReader, also if no reader takes it after a signal."""
        view = memoryview(data)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        give_up_s: float | None = None
        while view:
            if self.signal is not None:
                give_up_s = give_up_s or time.monotonic() + WRITE_GRACE_S
                if time.monotonic() >= give_up_s:
                    raise NoReader
            if poll.poll(200):
                try:
                    view = view[os.write(fd, view[:PIPE_BUF_BYTES]) :]
                except BrokenPipeError:
                    raise NoReader from None


class AppendsEach(Protocol):
    """The part of EventLog and RemoteLog that appends the lines of an input."""

    def append_each(
        self, items: Iterable[Item], *, stop_at_refusal: bool = False
    ) -> list[Result]: ...


def append_lines(
    log: AppendsEach,
    fd: int,
    stop: StopSignal,
    *,
    skip_invalid: bool,
    parse: Parse = parse_json_line,
    on_results: Callable[[list[LineResult]], object],
    hold_back: HoldBack | None = None,
) -> bool:
    """Appends the lines from `fd` until its end or a signal; True if all were valid.

    Without `skip_invalid` it ends after the first bad line: the lines before it are durable, those
    after it are not written. `parse` turns a line into an item. `hold_back` returns the results of
    one commit once they may be shown; it may turn a receipt into WaitTimeout or NotReplicated,
    which end the input. Raises EventLogError where the log refuses lines, after answering.
    """
    all_valid = True
    number = 0
    for lines in read_lines(fd, stop):
        results = append_each_line(log, lines, skip_invalid=skip_invalid, parse=parse)
        for _ in range(LOCK_TRIES_MAX):
            locked = any(isinstance(result, LogLocked) for result in results)
            if not locked or stop.signal is not None:
                break
            # None of them was written.
            results = append_each_line(log, lines, skip_invalid=skip_invalid, parse=parse)
        if hold_back is not None:
            results = hold_back(results)
        on_results([LineResult(number + i, result) for i, result in enumerate(results, 1)])
        number += len(lines)
        for result in results:
            if isinstance(result, EventLogError):
                if not isinstance(result, _REFUSALS | _LATE):
                    raise result
                all_valid = False
        is_late = any(isinstance(result, _LATE) for result in results)
        if is_late or not (all_valid or skip_invalid):
            break
    return all_valid


def append_each_line(
    log: AppendsEach,
    lines: Sequence[bytes],
    *,
    skip_invalid: bool,
    parse: Parse = parse_json_line,
) -> list[Result]:
    """The result of each line; without `skip_invalid`, up to and including the first bad one."""
    items: list[dict[str, object]] = []
    invalid: dict[int, EventLogError] = {}
    for index, line in enumerate(lines):
        try:
            items.append(parse(line))
        except InvalidSignal as error:
            invalid[index] = error
            if not skip_invalid:
                break
    taken = iter(log.append_each(items, stop_at_refusal=not skip_invalid))
    results: list[Result] = []
    for index in range(len(items) + len(invalid)):
        result = invalid.get(index) or next(taken, None)
        if result is None:
            break  # an item was refused after the parse, and those after it were not tried
        results.append(result)
        if isinstance(result, EventLogError) and not skip_invalid:
            break
    return results


class StoredLineParser:
    """Turns the lines of a log into items: without the keys that the log itself gives.

    A seq of that log means nothing in another one. The logs may share what is before the first
    line, as where `rejoin` has set the lines aside.
    """

    def __init__(self) -> None:
        self._first_seq: int | None = None

    def __call__(self, line: bytes) -> dict[str, object]:
        """The item of a line. Raises InvalidSignal."""
        item = parse_json_line(line)
        given = {key: item.pop(key, None) for key in RESERVED_KEYS - {"event"}}
        seq, voids = given["seq"], item.get("voids")
        if self._first_seq is None and isinstance(seq, int):
            self._first_seq = seq
        if self._first_seq is not None and isinstance(voids, int) and voids >= self._first_seq:
            raise InvalidSignal(
                "is the seq of a fact in the log that these lines come from",
                field="voids",
                value=voids,
                do="append the others, then void that fact by the seq that it has here",
            )
        return item


def read_lines(fd: int, stop: StopSignal) -> Iterator[list[bytes]]:
    """Yields lists of lines without newline: all that wait, at most about READ_BYTES."""
    rest = b""
    too_long = b""  # the start of a line that is too long, until its end is read
    while stop.wait_for(fd):
        data = _read_available(fd, stop)
        if not data:
            if rest or too_long:
                yield [too_long or rest]
            return
        *lines, rest = (rest + data).split(b"\n")
        if too_long and lines:
            lines[0], too_long = too_long, b""
        if len(rest) > INPUT_BYTES_MAX:
            too_long = too_long or rest[: INPUT_BYTES_MAX + 1]
        if too_long:
            rest = b""
        if lines:
            yield lines


def _read_available(fd: int, stop: StopSignal) -> bytes:
    """The bytes that wait on the input, a pipe buffer at a time; empty at its end."""
    data = os.read(fd, READ_BYTES)
    parts = [data]
    size = len(data)
    while data and size < READ_BYTES and stop.wait_for(fd, 0):
        data = os.read(fd, READ_BYTES - size)
        parts.append(data)
        size += len(data)
    return b"".join(parts)
