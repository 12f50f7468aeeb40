"""Brings a backup up to the log, while writers go on.

Steps, in an order that each crash must find safe:

    lock the backup                 two runs would write over each other
    is it of this log?              its last entry must be in the log, with the same chain
    hash what it holds              a copy that is damaged is made anew, if the log's is right
    for each segment that is new    verify its lines in the log, copy, sync, read back, name it
    for the one that grew           the same behind its listed end, in place
    after each of them              list it in the manifest

Invariant: nothing is copied but lines of the log that are durable and continue its chain, or what
`.accepted` says of the gaps between them.
"""

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from eventlog.archive.backup_dir import BackupDir, backup_lock
from eventlog.archive.manifest import Manifest, SegmentCopy
from eventlog.errors import BackupUnusable, EventLogError, LogDiverged
from eventlog.format.scan import CHAIN_UNKNOWN, Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.reader import LogReader
from eventlog.storage.atomic import replace_file
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.durable_state import read_durable_end, require_log
from eventlog.storage.gap_file import GAP_FILE_NAME
from eventlog.storage.home import Home, home_at, list_segments
from eventlog.storage.locks import CLOSED_LOCK_NAME
from eventlog.storage.segment_disk import SegmentDisk

logger = logging.getLogger(__name__)

_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What a run did, and what the backup holds now."""

    dest: str
    manifest: Manifest
    copied_segments: int  # wholly or in part
    copied_bytes: int
    repaired: tuple[str, ...]  # segments whose copies had been damaged

    def to_json(self) -> dict[str, object]:
        """What `eventlog backup --json` prints."""
        return {
            "dest": self.dest,
            "last_seq": self.manifest.last_seq,
            "chain": self.manifest.chain,
            "segments": len(self.manifest.segments),
            "bytes": self.manifest.bytes,
            "copied_segments": self.copied_segments,
            "copied_bytes": self.copied_bytes,
            "mended": list(self.repaired),
            "backed_up_at": self.manifest.backed_up_at,
        }

    def to_text(self) -> list[str]:
        """The same for a person."""
        manifest = self.manifest
        new = f"{self.copied_bytes} bytes of {self.copied_segments} segments"
        return [
            f"backed up to seq {manifest.last_seq}, chain {manifest.chain}",
            f"copied    {new if self.copied_segments else 'nothing: there is nothing new'}",
            f"in all    {manifest.bytes} bytes in {len(manifest.segments)} segments",
            *(f"mended    {name}: its copy had been damaged" for name in self.repaired),
        ]


def back_up(
    path: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    now: str,
    progress: Callable[[int, int], object] | None = None,
    disk: Disk | None = None,
) -> BackedUp:
    """Brings the backup in `dest` up to the durable end of the log at `path`; `now` is noted.

    Takes no lock of the log. `progress` is called with the bytes done and the bytes in all. Raises
    LogNotFound; LogCorrupt at damage in what is new; BackupUnusable where `dest` is no backup, or
    is of another log or of more of it than there is; EventLogError where a disk refuses. What was
    listed in the backup before stays good.
    """
    disk = SegmentDisk(disk or RealDisk())
    home = home_at(path)
    dest_home = Home(os.path.realpath(dest))  # a backup is laid out as a home
    if f"{dest_home.root}/".startswith(f"{os.path.realpath(home.root)}/"):
        raise BackupUnusable(
            "a backup inside the home is lost with it",
            where=dest_home.root,
            do="name a directory on another disk",
        )
    try:
        require_log(disk, home)
        with backup_lock(disk, dest_home):
            return _BackupRun(disk, home, dest_home, now, progress or _no_progress).run()
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
        self._backup_dir = BackupDir(disk, dest_home, self._count)
        self._now = now
        self._progress = progress
        self._copied: dict[str, int] = {}  # bytes, by segment
        self._repaired: list[str] = []
        self._done = 0  # bytes hashed, verified and copied
        self._total = 0

    def run(self) -> BackedUp:
        """The whole of it."""
        backup_dir = self._backup_dir
        backup_dir.open()
        reader = self._reader()
        try:
            segments = list_segments(self._disk, self._home)
            # The lock is what `compress` of the backup leaves.
            backup_dir.remove_leftovers(
                {GAP_FILE_NAME, CLOSED_LOCK_NAME, *map(segment_name, segments)}
            )
            new = sum(map(self._size_of, segments)) - backup_dir.manifest.bytes
            self._total = backup_dir.manifest.bytes + 2 * max(0, new)
            for segment_copy in backup_dir.manifest.segments:
                if not backup_dir.is_intact(segment_copy):
                    self._repair_copy(segment_copy)
            self._copy_accepted()
            self._copy_verified(reader)
        finally:
            reader.close()
        backup_dir.list(replace(backup_dir.manifest, backed_up_at=self._now))
        return BackedUp(
            dest=self._dest_home.root,
            manifest=backup_dir.manifest,
            copied_segments=len(self._copied),
            copied_bytes=sum(self._copied.values()),
            repaired=tuple(self._repaired),
        )

    def _reader(self) -> LogReader:
        """A reader behind what the backup holds. Raises where that is not in the log."""
        backed_up = self._backup_dir.manifest
        until = read_durable_end(self._disk, self._home)
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
                "back and written on; then stop the writers and find out which of the two is right",
            )
        return reader

    def _backup_ahead(self, ends: str) -> BackupUnusable:
        return BackupUnusable(
            f"THE BACKUP IS AHEAD: it holds entry {self._backup_dir.manifest.last_seq}, and the "
            f"log{ends} does not",
            where=self._dest_home.root,
            do="nothing was changed. Stop the writers: the log was rolled back, or this is another "
            "log's backup. What is missing may be in the backup alone: `eventlog restore` brings "
            "it into a new home",
        )

    def _repair_copy(self, segment_copy: SegmentCopy) -> None:
        """Makes a damaged copy anew."""
        logger.warning(
            "backup_copy_damaged segment=%s dest=%s", segment_copy.name, self._dest_home.root
        )
        try:
            source = self._disk.open(self._home.segment_path(segment_copy.segment), writable=False)
        except FileNotFoundError:
            raise self._copy_lost(segment_copy) from None
        try:
            if self._disk.size(source) < segment_copy.bytes or not self._backup_dir.replace_copy(
                source, segment_copy
            ):
                raise self._copy_lost(segment_copy)
        finally:
            self._disk.close(source)
        self._repaired.append(segment_copy.name)

    def _copy_lost(self, segment_copy: SegmentCopy) -> BackupUnusable:
        return BackupUnusable(
            f"{segment_copy.name} is damaged in the backup, and the log's own is not what was copied",
            where=self._dest_home.segment_path(segment_copy.segment),
            do="nothing was changed: run `eventlog verify` on the log; if that is whole, make a "
            "new backup in an empty directory",
        )

    def _copy_accepted(self) -> None:
        """Which damage was accepted. Its records say nothing but of the bytes that they name."""
        found = self._bytes_of(f"{self._home.log_dir}/{GAP_FILE_NAME}")
        if found and found != self._bytes_of(f"{self._dest_home.log_dir}/{GAP_FILE_NAME}"):
            replace_file(self._disk, self._dest_home.log_dir, GAP_FILE_NAME, found)

    def _copy_verified(self, reader: LogReader) -> None:
        """Copies what the reader finds good, each segment when it is through with it."""
        tip, at = reader.tip, reader.position
        while lines := reader.read():
            if reader.position.segment > at.segment:
                self._copy_closed(reader.position.segment, tip)
            tip, at = reader.tip, reader.position
            self._count(sum(map(len, lines)))
        self._copy_closed(at.segment, tip)
        self._copy(at.segment, at.byte_offset, tip)

    def _copy_closed(self, below: int, tip: Tip) -> None:
        """The segments before `below`, which end with `tip`. They do not change any more."""
        listed = self._backup_dir.manifest.segments
        first = listed[-1].segment if listed else 0
        for segment in list_segments(self._disk, self._home):
            if first <= segment < below:
                self._copy(segment, self._size_of(segment), tip)

    def _copy(self, segment: int, byte_to: int, tip: Tip) -> None:
        """Makes the backup hold the segment up to there, and lists it."""
        backed_up = {
            segment_copy.segment: segment_copy
            for segment_copy in self._backup_dir.manifest.segments
        }
        before = backed_up[segment].bytes if segment in backed_up else 0
        if before >= byte_to:
            return
        name = segment_name(segment)
        source = self._disk.open(self._home.segment_path(segment), writable=False)
        try:
            backed_up[segment] = self._backup_dir.copy(source, name, byte_to)
        finally:
            self._disk.close(source)
        self._copied[name] = self._copied.get(name, 0) + byte_to - before
        self._backup_dir.list(
            Manifest(
                segments=tuple(backed_up.values()),
                last_seq=tip.seq,
                chain=tip.chain,
                backed_up_at=self._now,
            )
        )

    def _bytes_of(self, path: str) -> bytes:
        try:
            fd = self._disk.open(path, writable=False)
        except FileNotFoundError:
            return b""
        try:
            return self._disk.pread(fd, self._disk.size(fd), 0)
        finally:
            self._disk.close(fd)

    def _size_of(self, segment: int) -> int:
        fd = self._disk.open(self._home.segment_path(segment), writable=False)
        try:
            return self._disk.size(fd)
        finally:
            self._disk.close(fd)

    def _count(self, done: int) -> None:
        self._done += done
        self._progress(self._done, max(self._done, self._total))


def _no_progress(_done: int, _total: int) -> None:
    """Nobody watches."""


def _backup_failed(error: OSError, dest_home: Home) -> EventLogError:
    if error.errno in _NO_SPACE_ERRNOS:
        return EventLogError(
            f"no room for the backup: {error.strerror}",
            where=dest_home.root,
            do="what it held before is good: make room there, then run it again",
        )
    return EventLogError(
        f"the backup could not be made: {error.strerror or error}",
        where=error.filename or dest_home.root,
        do="what it held before is good: see to that disk, then run it again",
    )
