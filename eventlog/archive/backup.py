"""Brings a backup up to the durable end of the log, while writers append.

Steps, in an order in which a crash after each is safe:

    lock the backup                 two runs would overwrite each other
    is it of this log?              its last entry must be in the log, with the same chain
    hash its copies                 a damaged copy is made again, if the log's segment is right
    for each new segment            verify its lines in the log, and write a copy
    for the one that grew           the same, after the listed bytes of its copy
    after each, or a few small ones sync, read back, rename, then list them in the manifest
    other directories that are kept copy what was there when the run began, then list it

Invariant: a backup gets only durable lines that continue the chain of the log, and the records of
the accepted gaps between them.
"""

import errno
import logging
import os
import sys
from bisect import bisect_left
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from eventlog.archive.backup_dir import BackupDir, locked_backup
from eventlog.archive.kept_copies import copy_kept, kept_names
from eventlog.archive.manifest import Manifest, SegmentCopy, kept_text
from eventlog.errors import BackupUnusable, EventLogError, LogCorrupt, LogDiverged
from eventlog.figures import bytes_text, count_text
from eventlog.format.durability import LogEnd
from eventlog.format.scan import CHAIN_UNKNOWN, Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.near_end import reader_near_end
from eventlog.read.reader import LogReader
from eventlog.storage.disk import Disk, RealDisk, opened, size_of
from eventlog.storage.durable_state import read_durable_end, require_log
from eventlog.storage.gap_file import GAP_FILE_NAME, read_gap_file
from eventlog.storage.home import Home, home_at, list_segments
from eventlog.storage.locks import CLOSED_LOCK_NAME
from eventlog.storage.output import refuse_in_home
from eventlog.storage.segment_disk import SegmentDisk, stored_segments

logger = logging.getLogger(__name__)

# Small copies are synced, renamed and listed together: each of these syncs waits for the device.
UNLISTED_COPIES_MAX = 64
UNLISTED_BYTES_MAX = 16 * 1024 * 1024  # what an interrupted run copies again
_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """The result of a backup run."""

    dest: str
    manifest: Manifest
    copied_segments: int  # in whole or in part
    copied_bytes: int
    repaired: tuple[str, ...]  # segments whose copies were damaged

    def to_json(self) -> dict[str, object]:
        """The report of `eventlog backup --json`."""
        return {
            "dest": self.dest,
            "last_seq": self.manifest.last_seq,
            "chain": self.manifest.chain,
            "segments": len(self.manifest.segments),
            "bytes": self.manifest.bytes,
            "copied_segments": self.copied_segments,
            "copied_bytes": self.copied_bytes,
            "mended": list(self.repaired),
            "kept_files": len(self.manifest.kept),
            "backed_up_at": self.manifest.backed_up_at,
        }

    def to_text(self) -> list[str]:
        """The report as lines of text."""
        manifest = self.manifest
        new = f"{bytes_text(self.copied_bytes)} of {count_text(self.copied_segments, 'segment')}"
        segments = count_text(len(manifest.segments), "segment")
        return [
            f"backed up to seq {manifest.last_seq}, chain {manifest.chain}",
            f"copied    {new if self.copied_segments else 'nothing: the log has nothing new'}",
            f"total     {bytes_text(manifest.bytes)} in {segments}",
            *kept_text(manifest),
            *(f"repaired  {name}: its copy was damaged" for name in self.repaired),
        ]


def back_up(
    home: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    now: str,
    progress: Callable[[int, int], object] | None = None,
    disk: Disk | None = None,
) -> BackedUp:
    """Brings the backup in `dest` up to the durable end of the log at `home`.

    `now` is the time that the backup records as its `backed_up_at`: text in UTC, such as
    `2025-11-18T02:00:00.123456Z`, stored as it is given. Takes no lock of the log. `progress` is
    called with the bytes done and the bytes in total. Raises LogNotFound; LogCorrupt at damage in
    new entries; BackupUnusable where `dest` is no backup, is of another log, or is ahead of the
    log; EventLogError where a disk fails. Copies that the manifest lists stay intact.
    """
    disk = SegmentDisk(disk or RealDisk())
    log_home = home_at(home)
    dest_home = Home(os.path.realpath(dest))  # a backup is laid out as a home
    if f"{dest_home.root}/".startswith(f"{os.path.realpath(log_home.root)}/"):
        raise BackupUnusable(
            "a backup inside the home would be lost with it",
            where=dest_home.root,
            do="name a directory on another disk",
        )
    try:
        require_log(disk, log_home)
        refuse_in_home(os.path.dirname(dest_home.root), disk=disk)
        with locked_backup(disk, dest_home) as directory:
            run = _BackupRun(disk, log_home, dest_home, now, progress or _no_progress)
            with closing(BackupDir(directory, run.count, _log_inodes(disk, log_home))) as copies:
                return run.run(copies)
    except OSError as error:
        raise _backup_failed(error, dest_home) from error


class _BackupRun:
    """One run, under the lock of the backup."""

    def __init__(
        self,
        disk: Disk,
        home: Home,
        dest_home: Home,
        now: str,
        progress: Callable[[int, int], object],
    ) -> None:
        self._disk = disk
        self._home = home
        self._dest_home = dest_home
        self._backup_dir: BackupDir
        self._now = now
        self._progress = progress
        self._copied: dict[str, int] = {}  # bytes, by segment
        self._repaired: list[str] = []
        self._segments: list[int] = []  # as they were last listed
        self._unlisted = Manifest()  # the next manifest on disk, which lacks these copies:
        self._unlisted_copies = self._unlisted_bytes = 0
        self._done = 0  # bytes hashed, verified and copied
        self._total = 0

    def run(self, backup_dir: BackupDir) -> BackedUp:
        """Runs the backup."""
        self._backup_dir = backup_dir
        backup_dir.refuse_log_dir(self._home.log_dir)
        names = kept_names(self._disk, self._home)  # before the end of the log is read
        until = read_durable_end(self._disk, self._home)
        with closing(self._reader(until)) as reader:
            last_seq = until.seq if until is not None else self._last_seq()
            self._segments = segments = list_segments(self._disk, self._home)
            # `compress` of the backup leaves this lock file.
            backup_dir.remove_leftovers(
                {GAP_FILE_NAME, CLOSED_LOCK_NAME, *map(segment_name, segments)}
            )
            new = sum(map(self._size_of, segments)) - backup_dir.manifest.bytes
            self._total = backup_dir.manifest.bytes + 2 * max(0, new)
            for segment_copy in backup_dir.manifest.segments:
                if not backup_dir.is_intact(segment_copy):
                    self._repair_copy(segment_copy)
            self._copy_accepted()
            self._unlisted = backup_dir.manifest
            try:
                self._copy_verified(reader, last_seq)
            except BaseException:
                # The disk may be full; and what was interrupted may be what this would do.
                with suppress(OSError, EventLogError):
                    self._list_copies()
                raise
        self._list_copies()
        kept, problem = copy_kept(
            self._disk, self._home, backup_dir.directory, names, backup_dir.manifest.kept
        )
        backup_dir.list(replace(backup_dir.manifest, backed_up_at=self._now, kept=kept))
        if problem is not None:
            raise problem
        return BackedUp(
            dest=self._dest_home.root,
            manifest=backup_dir.manifest,
            copied_segments=len(self._copied),
            copied_bytes=sum(self._copied.values()),
            repaired=tuple(self._repaired),
        )

    def _reader(self, until: LogEnd | None) -> LogReader:
        """A reader after the last entry of the backup. Raises where the log lacks that entry."""
        backed_up = self._backup_dir.manifest
        if until is not None and until.seq < backed_up.last_seq:
            raise self._backup_ahead(f", which ends at entry {until.seq},")
        last = backed_up.segments[-1] if backed_up.segments else None
        hint = Position(last.segment, last.bytes) if last is not None else None
        try:
            reader = LogReader(
                self._disk, self._home, after=backed_up.last_seq, hint=hint, until=until
            )
        except LogDiverged:
            raise self._backup_ahead("") from None
        if reader.tip.chain not in (backed_up.chain, CHAIN_UNKNOWN):
            reader.close()
            raise BackupUnusable(
                f"entry {backed_up.last_seq} of the log is not the one in the backup",
                where=self._dest_home.root,
                do="nothing was changed: it is the backup of another log, or the log was rolled "
                "back and continued; then stop the writers and find out which of the two is right",
            )
        return reader

    def _last_seq(self) -> int:
        """The last entry now, where no lock record states it: writers may go on meanwhile."""
        try:
            with closing(reader_near_end(self._disk, self._home)) as reader:
                while reader.read():
                    pass
                return reader.tip.seq
        except LogCorrupt:
            return sys.maxsize  # the reader that copies reports the damage

    def _backup_ahead(self, ends: str) -> BackupUnusable:
        return BackupUnusable(
            f"THE BACKUP IS AHEAD: it holds entry {self._backup_dir.manifest.last_seq}, and the "
            f"log{ends} does not",
            where=self._dest_home.root,
            do="nothing was changed. Stop the writers: the log was rolled back, or this is another "
            "log's backup. The missing entries may be in the backup only: `eventlog restore` "
            "restores it into a new home",
        )

    def _repair_copy(self, segment_copy: SegmentCopy) -> None:
        """Replaces a damaged copy with a new one."""
        logger.warning(
            "backup_copy_damaged segment=%s dest=%s", segment_copy.name, self._dest_home.root
        )
        try:
            size = self._size_of(segment_copy.segment)
        except FileNotFoundError:
            size = 0
        if size < segment_copy.bytes:
            raise self._copy_lost(segment_copy)
        with opened(self._disk, self._home.segment_path(segment_copy.segment)) as source:
            if not self._backup_dir.replace_copy(source, segment_copy):
                raise self._copy_lost(segment_copy)
        self._repaired.append(segment_copy.name)

    def _copy_lost(self, segment_copy: SegmentCopy) -> BackupUnusable:
        return BackupUnusable(
            f"{segment_copy.name} is damaged in the backup, and the log no longer has its bytes",
            where=self._dest_home.segment_path(segment_copy.segment),
            do="nothing was changed: run `eventlog verify` on the log; if it is whole, make a new "
            "backup in an empty directory",
        )

    def _copy_accepted(self) -> None:
        """Copies the records of accepted gaps, each of which names its bytes."""
        found = read_gap_file(self._disk, f"{self._home.log_dir}/{GAP_FILE_NAME}")
        if found:
            self._backup_dir.replace_gap_file(found)

    def _copy_verified(self, reader: LogReader, last_seq: int) -> None:
        """Copies what the reader verified, up to `last_seq` at least, each segment once read."""
        tip, at = reader.tip, reader.position
        while tip.seq < last_seq and (lines := reader.read()):
            if reader.position.segment > at.segment:
                self._copy_closed(reader.position.segment, tip)
            tip, at = reader.tip, reader.position
            self.count(sum(map(len, lines)))
        self._copy_closed(at.segment, tip)
        self._copy(at.segment, at.byte_offset, tip)

    def _copy_closed(self, below: int, tip: Tip) -> None:
        """Copies the segments before `below`, which end with `tip` and do not change any more."""
        if not self._segments or below > self._segments[-1]:
            self._segments = list_segments(self._disk, self._home)
        copies = self._unlisted.segments
        first = bisect_left(self._segments, copies[-1].segment) if copies else 0
        for segment in self._segments[first : bisect_left(self._segments, below)]:
            self._copy(segment, self._size_of(segment), tip)

    def _copy(self, segment: int, byte_to: int, tip: Tip) -> None:
        """Copies the segment up to `byte_to`, and lists it: at once, or with a few small ones."""
        copies = self._unlisted.segments
        is_grown = bool(copies) and copies[-1].segment == segment
        before = copies[-1].bytes if is_grown else 0
        if before >= byte_to:
            return
        name = segment_name(segment)
        with opened(self._disk, self._home.segment_path(segment)) as source:
            if is_grown:
                self._list_copies()
                segment_copy = self._backup_dir.copy_grown(source, byte_to)
            else:
                segment_copy = self._backup_dir.begin_copy(source, name, byte_to)
        self._copied[name] = self._copied.get(name, 0) + byte_to - before
        self._unlisted = replace(
            self._unlisted,
            segments=(*(copies[:-1] if is_grown else copies), segment_copy),
            last_seq=tip.seq,
            chain=tip.chain,
            backed_up_at=self._now,
        )
        self._unlisted_copies += 1
        self._unlisted_bytes += byte_to - before
        if (
            # The groups grow: a run that is interrupted early has listed half of its copies.
            self._unlisted_copies >= min(UNLISTED_COPIES_MAX, len(self._copied) / 2)
            or self._unlisted_bytes >= UNLISTED_BYTES_MAX
        ):
            self._list_copies()

    def _list_copies(self) -> None:
        """Makes the copies durable that are not yet, then lists them."""
        if self._unlisted_copies:
            self._unlisted_copies = self._unlisted_bytes = 0
            self._backup_dir.finish_copies()
            self._backup_dir.list(self._unlisted)

    def _size_of(self, segment: int) -> int:
        return size_of(self._disk, self._home.segment_path(segment))

    def count(self, done: int) -> None:
        """Adds to the bytes that are done."""
        self._done += done
        self._progress(self._done, max(self._done, self._total))


def _log_inodes(disk: Disk, home: Home) -> set[tuple[int, int]]:
    """Device and inode of each file that stores a segment of the log, wherever it is."""
    paths = (path for _, path in stored_segments(disk, home.log_dir))
    found = (disk.identity_at(path) for path in paths)
    return {identity[:2] for identity in found if identity is not None}


def _no_progress(_done: int, _total: int) -> None:
    """Ignores the progress."""


def _backup_failed(error: OSError, dest_home: Home) -> EventLogError:
    # A file that was reached through its directory's descriptor is named without the directory.
    is_path = isinstance(error.filename, str) and os.path.isabs(error.filename)
    if error.errno in _NO_SPACE_ERRNOS:
        return EventLogError(
            f"no space for the backup: {error.strerror}",
            where=dest_home.root,
            do="the copies made before are intact: free space there, then run it again",
        )
    return EventLogError(
        f"the backup could not be made: {error.strerror or error}",
        where=error.filename if is_path else dest_home.root,
        do="the copies made before are intact: check that disk, then run it again",
    )
