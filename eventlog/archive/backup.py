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

from eventlog.archive.backup_dir import Vault, locked
from eventlog.archive.manifest import Copied, Manifest
from eventlog.errors import BackupUnusable, EventLogError, LogDiverged
from eventlog.format.scan import CHAIN_UNKNOWN, Tip
from eventlog.format.segment import Position, segment_name
from eventlog.read.reader import LogReader
from eventlog.storage.atomic import put
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.durable_state import read_watermark, read_word
from eventlog.storage.gap_file import ACCEPTED_NAME
from eventlog.storage.home import Home, home_at, list_segments, no_log
from eventlog.storage.locks import CLOSED_LOCK_NAME
from eventlog.storage.segment_disk import Shelf

logger = logging.getLogger(__name__)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """What a run did, and what the backup holds now."""

    dest: str
    manifest: Manifest
    copied_segments: int  # wholly or in part
    copied_bytes: int
    mended: tuple[str, ...]  # segments whose copies had been damaged

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
            "mended": list(self.mended),
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
            *(f"mended    {name}: its copy had been damaged" for name in self.mended),
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
    disk = Shelf(disk or RealDisk())
    home = home_at(path)
    place = Home(os.path.realpath(dest))  # a backup is laid out as a home
    if f"{place.root}/".startswith(f"{os.path.realpath(home.root)}/"):
        raise BackupUnusable(
            "a backup inside the home is lost with it",
            where=place.root,
            do="name a directory on another disk",
        )
    try:
        if not list_segments(disk, home) and read_watermark(disk, home) is None:
            raise no_log(home)
        with locked(disk, place):
            return _Run(disk, home, place, now, progress or _ignored).run()
    except OSError as error:
        raise _refused(error, place) from error


class _Run:
    """One run, under the lock of the backup."""

    def __init__(
        self,
        disk: Disk,
        home: Home,
        place: Home,
        now: str,
        progress: Callable[[int, int], object],
    ) -> None:
        self._disk = disk
        self._home = home
        self._place = place
        self._vault = Vault(disk, place, self._count)
        self._now = now
        self._progress = progress
        self._copied: dict[str, int] = {}  # bytes, by segment
        self._mended: list[str] = []
        self._done = 0  # bytes hashed, verified and copied
        self._total = 0

    def run(self) -> BackedUp:
        """The whole of it."""
        vault = self._vault
        vault.open()
        reader = self._reader()
        try:
            segments = list_segments(self._disk, self._home)
            # The lock is what `compress` of the backup leaves.
            vault.sweep({ACCEPTED_NAME, CLOSED_LOCK_NAME, *map(segment_name, segments)})
            new = sum(map(self._size_of, segments)) - vault.manifest.bytes
            self._total = vault.manifest.bytes + 2 * max(0, new)
            for copied in vault.manifest.segments:
                if not vault.is_good(copied):
                    self._mend(copied)
            self._copy_accepted()
            self._follow(reader)
        finally:
            reader.close()
        vault.list(replace(vault.manifest, backed_up_at=self._now))
        return BackedUp(
            dest=self._place.root,
            manifest=vault.manifest,
            copied_segments=len(self._copied),
            copied_bytes=sum(self._copied.values()),
            mended=tuple(self._mended),
        )

    def _reader(self) -> LogReader:
        """A reader behind what the backup holds. Raises where that is not in the log."""
        held = self._vault.manifest
        word = read_word(self._disk, self._home)
        until = word.end if word is not None else None
        if until is not None and until.seq < held.last_seq:
            raise self._ahead(f", which ends at entry {until.seq},")
        last = held.segments[-1] if held.segments else None
        hint = Position(last.segment, last.bytes) if last is not None else None
        try:
            reader = LogReader(self._disk, self._home, after=held.last_seq, hint=hint, until=until)
        except LogDiverged:
            raise self._ahead("") from None
        if reader.tip.chain not in (held.chain, CHAIN_UNKNOWN):
            reader.close()
            raise BackupUnusable(
                f"entry {held.last_seq} of the log is not the one in the backup",
                where=self._place.root,
                do="nothing was changed: it is the backup of another log, or the log was rolled "
                "back and written on; then stop the writers and find out which of the two is right",
            )
        return reader

    def _ahead(self, ends: str) -> BackupUnusable:
        return BackupUnusable(
            f"THE BACKUP IS AHEAD: it holds entry {self._vault.manifest.last_seq}, and the "
            f"log{ends} does not",
            where=self._place.root,
            do="nothing was changed. Stop the writers: the log was rolled back, or this is another "
            "log's backup. What is missing may be in the backup alone: `eventlog restore` brings "
            "it into a new home",
        )

    def _mend(self, copied: Copied) -> None:
        """Makes a damaged copy anew."""
        logger.warning("backup_copy_damaged segment=%s dest=%s", copied.name, self._place.root)
        try:
            source = self._disk.open(self._home.segment_path(copied.segment), writable=False)
        except FileNotFoundError:
            raise self._lost(copied) from None
        try:
            if self._disk.size(source) < copied.bytes or not self._vault.copy_anew(source, copied):
                raise self._lost(copied)
        finally:
            self._disk.close(source)
        self._mended.append(copied.name)

    def _lost(self, copied: Copied) -> BackupUnusable:
        return BackupUnusable(
            f"{copied.name} is damaged in the backup, and the log's own is not what was copied",
            where=self._place.segment_path(copied.segment),
            do="nothing was changed: run `eventlog verify` on the log; if that is whole, make a "
            "new backup in an empty directory",
        )

    def _copy_accepted(self) -> None:
        """Which damage was accepted. Its records say nothing but of the bytes that they name."""
        found = self._bytes_of(f"{self._home.log_dir}/{ACCEPTED_NAME}")
        if found and found != self._bytes_of(f"{self._place.log_dir}/{ACCEPTED_NAME}"):
            put(self._disk, self._place.log_dir, ACCEPTED_NAME, found)

    def _follow(self, reader: LogReader) -> None:
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
        listed = self._vault.manifest.segments
        first = listed[-1].segment if listed else 0
        for segment in list_segments(self._disk, self._home):
            if first <= segment < below:
                self._copy(segment, self._size_of(segment), tip)

    def _copy(self, segment: int, byte_to: int, tip: Tip) -> None:
        """Makes the backup hold the segment up to there, and lists it."""
        held = {copied.segment: copied for copied in self._vault.manifest.segments}
        before = held[segment].bytes if segment in held else 0
        if before >= byte_to:
            return
        name = segment_name(segment)
        source = self._disk.open(self._home.segment_path(segment), writable=False)
        try:
            held[segment] = self._vault.copy(source, name, byte_to)
        finally:
            self._disk.close(source)
        self._copied[name] = self._copied.get(name, 0) + byte_to - before
        self._vault.list(
            Manifest(
                segments=tuple(held.values()),
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


def _ignored(_done: int, _total: int) -> None:
    """Nobody watches."""


def _refused(error: OSError, place: Home) -> EventLogError:
    if error.errno in _FULL:
        return EventLogError(
            f"no room for the backup: {error.strerror}",
            where=place.root,
            do="what it held before is good: make room there, then run it again",
        )
    return EventLogError(
        f"the backup could not be made: {error.strerror or error}",
        where=error.filename or place.root,
        do="what it held before is good: see to that disk, then run it again",
    )
