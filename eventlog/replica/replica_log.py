"""Writes the lines of a stream into the home of a replica, byte for byte, in the same segments.

One durable write holds as many batches of the primary as arrive together: a backlog of single
appends would else cost one sync for each of them. A power loss may then lose the sectors of a first
batch and keep a later one, which in any other log is evidence of damage. Where `.replica` is there,
`evidence_after` takes no line as evidence: a bad line beyond the watermark and its lock record is
torn, is cut, and comes from the stream again. Below the watermark, and before a later segment, it
stays damage. Each segment is synced before the next one is created.

Invariant: before a byte is written, each line has been checked to continue the chain of the log;
and while lines are written, `.replica` is there, and was durable before them.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby

from eventlog.append.dedupe import DedupeWindow
from eventlog.append.segment_writer import SegmentWriter, WriterSettings
from eventlog.errors import EventLogError, LogDiverged
from eventlog.format.line import parse_header, stored_chain
from eventlog.format.promotion import Promotion, encode_promotion, promotion_of
from eventlog.format.scan import Tip, scan, tip_of
from eventlog.format.segment import segment_name
from eventlog.replica.engine import StreamLine
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.home import Home, home_at
from eventlog.storage.replica_file import (
    ReplicaState,
    is_replica,
    read_replica_state,
    remove_replica_state,
    write_replica_state,
)
from eventlog.storage.segment_disk import SegmentDisk

_LOCK_TIMEOUT_S = 10.0  # of a backup, a compress or a command that recovers the log
_SEGMENT_BYTES = 1 << 62  # the stream alone decides where a segment begins
_SETTINGS = WriterSettings(
    segment_bytes=_SEGMENT_BYTES,
    dedupe_entries=0,  # no append is retried here
    lock_timeout_s=_LOCK_TIMEOUT_S,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPart:
    """Consecutive lines, which one durable write adds to one segment."""

    segment: int  # its first seq
    lines: tuple[bytes, ...]
    bytes: int
    tip: Tip  # after the last of the lines
    promotions: tuple[Promotion, ...] = ()  # that the lines record

    def settle(self, dedupe_window: DedupeWindow, segment: int, byte_offset: int) -> None:
        """Does nothing: no append waits for a receipt."""


def parts_of(lines: Sequence[StreamLine]) -> Iterator[ReplicaPart]:
    """Cuts consecutive lines where a segment ends."""
    for segment, group in groupby(lines, key=lambda line: line.segment):
        part = tuple(line.line for line in group)
        yield ReplicaPart(
            segment=segment,
            lines=part,
            bytes=sum(map(len, part)),
            tip=tip_of(part[-1]),
            promotions=tuple(filter(None, map(promotion_of, part))),
        )


class ReplicaLog(SegmentWriter):
    """The log of a replica, written from a stream. Not thread-safe.

    Blocks for as long as the disk takes; `close` it when done.
    """

    def __init__(
        self,
        disk: Disk,
        home: Home,
        *,
        pid: int | None = None,
        settings: WriterSettings = _SETTINGS,
    ) -> None:
        super().__init__(disk, home, settings, os.getpid() if pid is None else pid)

    @classmethod
    def open(cls, home: str | os.PathLike[str]) -> "ReplicaLog":
        """The log of the home at `home`, which need not exist. Raises ForeignHome, UnsafePath."""
        return cls(SegmentDisk(RealDisk()), home_at(home))

    @property
    def tip(self) -> Tip:
        """The last entry, as this object has last seen it."""
        return self._state.tip

    @property
    def home(self) -> str:
        """The absolute path of the home."""
        return self._home.root

    @property
    def state(self) -> ReplicaState | None:
        """What the home follows; None where it is no replica. Raises UnsafePath."""
        return read_replica_state(self._disk, self._home)

    def catch_up(self) -> Tip:
        """Recovers where needed, and returns the last entry. Creates the home where it is missing.

        Raises EventLogError.
        """
        with self._locked("the log could not be read"):
            return self._state.tip

    def begin(self, state: ReplicaState, tip: Tip) -> None:
        """Makes the home a replica: from here on it takes no appends. Creates it where missing.

        `tip` is the last entry of the log, which the caller has found in the stream. Raises
        LogDiverged where the log has another one by now.
        """
        with self._locked("the home could not become a replica"):
            if (self._state.tip.seq, self._state.tip.chain) != (tip.seq, tip.chain):
                raise LogDiverged(
                    f"the log was appended to: it ends at seq {self._state.tip.seq}",
                    where=self._home.log_dir,
                    do="nothing was changed: stop what appends to this home, then follow again",
                )
            write_replica_state(self._disk, self._home, state)

    def write(self, lines: Sequence[StreamLine]) -> Tip:
        """Adds lines of the stream, durably; those that the log has are passed over.

        Returns the last entry. Raises LogDiverged where a line does not continue the log: then
        nothing was written. After DiskFull and AppendFailed the first segments may be durable.
        """
        with self._locked("the log could not be written"):
            self._require_replica()
            new = [line for line in lines if line.seq > self._state.tip.seq]
            self._check(new)
            for part in parts_of(new):
                self._start_segment(part.segment)
                if part.promotions:
                    self._note_promotion(part)
                self._write(part)
        return self._state.tip

    def _note_promotion(self, part: ReplicaPart) -> None:
        """Notes who is primary from here on. A promotion of this home that lost is forgotten.

        Before the line is written: so the epoch is never less than that of a line of the log.
        """
        state, promotion = self.state, part.promotions[-1]
        assert state is not None, "it was just looked for"
        is_own = state.promotion.encode() in part.lines
        write_replica_state(
            self._disk,
            self._home,
            ReplicaState(
                stream=state.stream,
                epoch=max(promotion.epoch, state.epoch),
                primary=promotion.host,
                promotion=state.promotion if is_own else "",
            ),
        )

    def prepare_promotion(self, promotion: Promotion, recorded_at: str) -> StreamLine:
        """The line with which this home is promoted, if the stream takes it as its next one.

        It begins a segment, and stays the same until the stream has gone on: an attempt whose
        outcome is unknown is repeated byte for byte. Raises EventLogError.
        """
        with self._locked("the promotion could not be noted"):
            self._require_replica()
            state, tip = self.state, self._state.tip
            assert state is not None, "it was just looked for"
            line = state.promotion.encode()
            if not line or parse_header(line).seq != tip.seq + 1:
                line = encode_promotion(promotion, secrets.token_hex(16), recorded_at, tip)
                state = replace(state, promotion=line.decode())
                write_replica_state(self._disk, self._home, state)
            return StreamLine(tip.seq + 1, tip.seq + 1, line)

    def finish_promotion(self) -> bytes | None:
        """Makes this home the primary where the log ends with its own promotion.

        Returns its line; None where the log ends otherwise. From here on the home takes appends.
        """
        with self._locked("the promotion could not be finished"):
            state, tip = self.state, self._state.tip
            if state is None or not state.promotion:
                return None
            own = state.promotion.encode()
            if (parse_header(own).seq, stored_chain(own)) != (tip.seq, tip.chain):
                return None
            remove_replica_state(self._disk, self._home)
            return own

    def _check(self, lines: Sequence[StreamLine]) -> None:
        """Raises LogDiverged unless the lines continue the log, each by its chain."""
        stored = [line.line for line in lines]
        found = scan(b"".join(stored), self._state.tip)
        if found.problem is None and found.lines == stored:
            return
        problem = found.problem or "is not one whole line"
        raise LogDiverged(
            f"entry {found.tip.seq + 1} of the stream {problem}: it does not continue this log",
            where=self._home.log_dir,
            do="nothing of it was written: find out which log the stream holds, and follow it with "
            "a new home",
        )

    def _start_segment(self, segment: int) -> None:
        """Goes on in the segment of the primary, which is new where it begins with the next line.

        Raises LogDiverged where that is not possible.
        """
        next_seq, active = self._state.tip.seq + 1, self._state.end.segment
        if segment == next_seq and (segment != active or self._fd < 0):
            self._rotate(may_defer=False)
        elif segment != active or self._fd < 0:
            raise LogDiverged(
                f"the stream has entry {next_seq} in {segment_name(max(1, segment))}, and this home"
                f" ends in {segment_name(max(1, active))}"
                + ("" if segment != active else ", which is compressed"),
                where=self._home.log_dir,
                do="nothing more was written: follow with a new home",
            )

    def _require_replica(self) -> None:
        """Raises EventLogError where the home is no replica, or no longer. The lock is held."""
        if not is_replica(self._disk, self._home):
            raise EventLogError(
                "this home is no replica",
                where=self._home.root,
                do="nothing was written: run `eventlog follow` on a home of its own",
            )

    @contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        """Holds the writer's lock, after catching up. An OSError becomes AppendFailed."""
        try:
            self._lock_and_catch_up()
            try:
                yield
            finally:
                self._lock.release()
        except EventLogError:
            raise
        except OSError as error:
            raise self._append_failed(what, error) from error
        except BaseException:
            self._poisoned("a write was interrupted")
            with suppress(OSError):
                self._lock.drop()
            raise
