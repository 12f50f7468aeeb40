"""The flip sweep: every byte of a log that was closed is flipped, one at a time.

Damage to an acknowledged entry stops readers and writers; it is never cut, and never skipped.

Invariant: a flip that stops no reader changes nothing that a reader returns.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from eventlog.append.segment_writer import WriterSettings
from eventlog.errors import LogCorrupt, LogDiverged
from eventlog.read.reader import LogReader
from eventlog.verify.verify import verify
from tools.crash.check import HOME, Subject, recover
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Failure
from tools.crash.histories import FLUSH, work
from tools.crash.inodes import File, Folder, Inodes
from tools.crash.simulated_disk import World
from tools.crash.states import State, files_of, nothing, segments_of

# SETTINGS makes three segments of it. No line after the last batch could verify that batch.
WORKLOAD = (1, 2, 1, FLUSH, 3, 1, 2, 1, 3, 1)
SETTINGS = WriterSettings(segment_bytes=1100, dedupe_entries=100, lock_timeout_s=1.0)
SEGMENTS = 3
BITS = 8
VERIFY_EVERY = 16  # of the flips, if only one bit of each byte is flipped: verify is slow


@dataclass(slots=True)
class Counts:
    """The outcomes of the flips."""

    flips: int = 0
    halted: int = 0  # LogCorrupt or LogDiverged in the writer and the reader
    only_reader: int = 0  # before the watermark: a writer starts after it and cuts nothing
    torn: int = 0  # in the last batch, if no watermark covers it: the accepted limit
    harmless: int = 0  # in one slot of the watermark: the other slot is valid


def sweep(subject: Subject, *, all_bits: bool = False) -> Counts:
    """Flips bytes of a log without a watermark, then of a log with one, watermark included.

    Flips one bit of each byte, or each bit. Raises Failure.
    """
    counts = Counts()
    with_watermark = closed_log(subject)
    for log in (without(with_watermark, ".durable"), with_watermark):
        for dedupe_entries in (SETTINGS.dedupe_entries, 0):
            settings = SETTINGS._replace(dedupe_entries=dedupe_entries)
            verify_every = 1 if all_bits else VERIFY_EVERY
            one = Sweep(log, subject._replace(settings=settings), counts, verify_every)
            for ino, byte_offset in _bytes_to_flip(log):
                bits = range(BITS) if all_bits else (byte_offset % BITS,)
                for bit in bits:
                    one.flip(ino, byte_offset, bit)
    return counts


def closed_log(subject: Subject) -> State:
    """The log of the workload, with its watermark, after a reboot."""
    world, expected = World(), ExpectedLog()
    subject = subject._replace(settings=SETTINGS)
    work(subject.disk(world), expected, subject, WORKLOAD, "tick")
    return nothing(world.inodes)


def without(state: State, name: str) -> State:
    """The state without that name in any directory."""
    found: State = {}
    for ino, inode in state.items():
        found[ino] = inode
        if isinstance(inode, Folder) and name in inode.names:
            names = {other: child for other, child in inode.names.items() if other != name}
            found[ino] = Folder(names, names)
    return found


def _files(inodes: Inodes) -> Iterator[tuple[str, int, File]]:
    """The watermark, then the segments in order."""
    numbers = {id(inode): ino for ino, inode in inodes.items()}
    for path, inode in files_of(inodes):
        if isinstance(inode, File) and path.endswith((".jsonl", ".durable")):
            yield path, numbers[id(inode)], inode


def segments_in(log: State) -> Iterator[tuple[str, int, File]]:
    """Paths, inode numbers and segments, in order."""
    return (found for found in _files(log) if found[0].endswith(".jsonl"))


def _bytes_to_flip(log: State) -> Iterator[tuple[int, int]]:
    """Inode and offset of each used byte: between its slots the watermark is empty."""
    for path, ino, file in _files(log):
        for byte_offset, byte in enumerate(file.device):
            if byte or path.endswith(".jsonl"):
                yield ino, byte_offset


class Sweep:
    """Flips and other damages of one log."""

    def __init__(self, log: State, subject: Subject, counts: Counts, verify_every: int = 1) -> None:
        self._log = log
        self._verify_every = verify_every
        self._subject = subject
        self._counts = counts
        segments = [(ino, file) for _, ino, file in segments_in(log)]
        assert len(segments) == SEGMENTS, "the workload fills them"
        self._segments = dict(segments)
        self._has_watermark = len(list(_files(log))) > SEGMENTS
        self._whole = _bytes_of(log)
        self._last_ino, last = segments[-1]
        self._last_batch = _last_batch_start(last.device)

    def flip(self, ino: int, byte_offset: int, bit: int) -> None:
        """Flips one bit, then runs a reader and a writer. Raises Failure."""
        file = self._log[ino]
        assert isinstance(file, File)
        data = bytearray(file.device)
        data[byte_offset] ^= 1 << bit
        state = {**self._log, ino: File(bytes(data), bytes(data))}
        self._counts.flips += 1
        try:
            if ino not in self._segments:
                self._check_watermark(state)
            elif self._has_watermark or ino != self._last_ino or byte_offset < self._last_batch:
                self.check_damage(state)
            else:
                self._check_last_batch(state)
        except Violation as error:
            where = f"bit {bit} of byte {byte_offset} of inode {ino}"
            watermark = "with" if self._has_watermark else "without"
            raise Failure(
                f"{error} ({where}, {watermark} a watermark)", self._counts.flips, state
            ) from error

    def _verifies(self) -> bool:
        return self._counts.flips % self._verify_every == 0

    def check_damage(self, state: State) -> None:
        """Runs reader, verify and writer on damage to acknowledged entries. Raises Violation."""
        if self._read(state) is not None:
            raise Violation("a reader overlooks damage to an acknowledged entry")
        if self._verifies() and _verified(self._subject, state):
            raise Violation("verify overlooks damage to an acknowledged entry")
        after = self._recovered(state)
        if after is None:
            self._counts.halted += 1
        elif after == _bytes_of(state):
            self._counts.only_reader += 1
        else:
            raise Violation("a writer cuts an acknowledged entry")

    def _check_last_batch(self, state: State) -> None:
        safe = self._whole[: len(self._whole) - len(self._segments[self._last_ino].device)]
        safe = self._whole[: len(safe) + self._last_batch]
        given, after = self._read(state), self._recovered(state)
        for found in (given, after):
            if found is not None and not found.startswith(safe):
                raise Violation("damage to the last batch costs more than that batch")
        self._counts.torn += after is not None
        self._counts.halted += after is None

    def _check_watermark(self, state: State) -> None:
        if self._read(state) != self._whole or self._recovered(state) != self._whole:
            raise Violation("damage to one slot of the watermark stops the log")
        if self._verifies() and not _verified(self._subject, state):
            raise Violation("verify reports a watermark whose other slot is valid")
        self._counts.harmless += 1

    def _read(self, state: State) -> bytes | None:
        """The bytes that a reader returns, or None if it stops at damage."""
        reader = LogReader(self._subject.disk(World(dict(state), boot=2)), HOME)
        given = b""
        try:
            while lines := reader.read():
                given += b"".join(lines)
                if not self._whole.startswith(given):
                    raise Violation("a reader returns bytes that were never written")
        except (LogCorrupt, LogDiverged):
            return None
        finally:
            reader.close()
        return given

    def _recovered(self, state: State) -> bytes | None:
        """All segments after a recovery, or None if it stopped at damage and changed nothing."""
        world = World(dict(state), boot=2)
        try:
            recover(self._subject.open(self._subject.disk(world)))
        except (LogCorrupt, LogDiverged):
            if _bytes_of(world.inodes) != _bytes_of(state):
                raise Violation("a writer that stops at damage has changed the log") from None
            return None
        return _bytes_of(world.inodes)


def _verified(subject: Subject, state: State) -> bool:
    disk = subject.disk(World(dict(state), boot=2))
    return verify(HOME.root, disk=disk, processes=1).ok


def _bytes_of(inodes: Inodes) -> bytes:
    return b"".join(data for _, data in segments_of(inodes))


def _last_batch_start(segment: bytes) -> int:
    """The offset of the first line of the last batch in a segment."""
    batch = re.findall(rb'"batch":[0-9]+,', segment)[-1]
    return segment.rindex(b"\n", 0, segment.index(batch)) + 1
