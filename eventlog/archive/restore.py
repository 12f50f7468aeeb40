"""A new home from a backup.

The log is put together in `.restoring` of the home, hidden from everybody, and gets its name
`logs` in one step, when all of it is durable. It comes with a watermark of its own, so that a
restored log which loses its end is noticed; the writer's word comes with the first writer.

Invariant: a home has no log, or the whole one that the backup lists; one that holds anything is
not touched.
"""

import errno
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from eventlog.archive.manifest import MANIFEST_NAME, Manifest, SegmentCopy, read_manifest
from eventlog.errors import BackupUnusable, EventLogError
from eventlog.format.durability import LogEnd, Watermark, encode_slot, slot_offset
from eventlog.storage.atomic import copy, replace_file
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.gap_file import GAP_FILE_NAME
from eventlog.storage.home import Home, home_at, make_durable_dir
from eventlog.storage.locks import FileLock
from eventlog.storage.segment_disk import SegmentDisk

SCRATCH_NAME = ".restoring"
_LOCK_NAME = ".lock"  # the writer's own: it is held until the log stands under its name
_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredHome:
    """A home that was restored."""

    home: str
    manifest: Manifest

    @property
    def next(self) -> tuple[str, ...]:
        """What to do now: commands."""
        return (f"eventlog --home {shlex.quote(self.home)} rebuild-database",)

    def to_json(self) -> dict[str, object]:
        """What `eventlog restore --json` prints."""
        return {
            "home": self.home,
            "last_seq": self.manifest.last_seq,
            "chain": self.manifest.chain,
            "segments": len(self.manifest.segments),
            "bytes": self.manifest.bytes,
            "backed_up_at": self.manifest.backed_up_at,
            "next": list(self.next),
        }

    def to_text(self) -> list[str]:
        """The same for a person."""
        manifest = self.manifest
        return [
            f"restored up to seq {manifest.last_seq}, chain {manifest.chain}: "
            f"{manifest.bytes} bytes in {len(manifest.segments)} segments",
            f"backed up at {manifest.backed_up_at}",
            *(f"next: {command}" for command in self.next),
        ]


def restore_home(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], object] | None = None,
    disk: Disk | None = None,
) -> RestoredHome:
    """Restores the log of the backup `source`, durably, into a home at `path`.

    Each segment is checked against its hash and read back. Raises BackupUnusable where `source` is
    no backup or is damaged, and EventLogError where the home holds anything or the disk refuses;
    the home then has no log.
    """
    disk = SegmentDisk(disk or RealDisk())
    home = home_at(path)
    backup = Home(os.path.realpath(source))
    try:
        manifest = read_manifest(disk, backup.root)
        if manifest is None:
            raise BackupUnusable(
                f"this is no backup: it has no {MANIFEST_NAME}",
                where=backup.root,
                do="name a directory that `eventlog backup` made; the log of any other copy is "
                "brought back by copying its logs/ into a new home",
            )
        refuse_non_empty(disk, home)
        if not disk.is_dir(home.root):
            make_durable_dir(disk, home.root)
        with _scratch_dir(disk, home) as scratch_dir:
            _restore_files(disk, backup, scratch_dir, manifest, progress)
            disk.rename(scratch_dir, home.log_dir)
            disk.fsync_dir(home.root)
    except OSError as error:
        raise _restore_failed(error, home) from error
    return RestoredHome(home=os.fspath(path), manifest=manifest)


def refuse_non_empty(disk: Disk, home: Home) -> None:
    """Raises EventLogError where the home holds anything but empty directories of a home."""
    try:
        names = disk.names(home.root)
    except FileNotFoundError:
        return
    for name in sorted(names):
        path = f"{home.root}/{name}"
        is_empty_dir = (
            name in ("logs", "data")
            and disk.link_target(path) is None
            and disk.is_dir(path)
            and not disk.names(path)
        )
        if name != SCRATCH_NAME and not is_empty_dir:
            raise EventLogError(
                f"the home is not empty: it holds {name}",
                where=home.root,
                do="nothing was touched: name a new home with --home, or, to mend a log that is "
                "there, use `eventlog repair --from`",
            )


@contextmanager
def _scratch_dir(disk: Disk, home: Home) -> Iterator[str]:
    """The directory in which the log is put together, under the lock that it will have."""
    scratch_dir = f"{home.root}/{SCRATCH_NAME}"
    with suppress(FileExistsError):
        disk.make_dir(scratch_dir)
    lock = FileLock(f"{scratch_dir}/{_LOCK_NAME}", disk=disk)
    try:
        if not lock.try_take():
            raise EventLogError(
                "another restore is at work here", where=home.root, do="wait until it ends"
            )
        _clear_scratch_dir(disk, scratch_dir)  # of a run that died
        try:
            yield scratch_dir
        except BaseException:
            with suppress(OSError):
                _clear_scratch_dir(disk, scratch_dir)
            raise
    finally:
        lock.drop()


def _clear_scratch_dir(disk: Disk, scratch_dir: str) -> None:
    for name in disk.names(scratch_dir):
        if name != _LOCK_NAME:
            disk.unlink(f"{scratch_dir}/{name}")


def _restore_files(
    disk: Disk,
    backup: Home,
    scratch_dir: str,
    manifest: Manifest,
    progress: Callable[[int, int], object] | None,
) -> None:
    """All that a log has, durably."""
    done = 0

    def count(byte_count: int) -> None:
        nonlocal done
        done += byte_count
        if progress is not None:
            progress(done, manifest.bytes)

    for segment_copy in manifest.segments:
        _restore_segment(disk, backup, scratch_dir, segment_copy, count)
    with suppress(FileNotFoundError):
        fd = disk.open(f"{backup.log_dir}/{GAP_FILE_NAME}", writable=False)
        try:
            replace_file(disk, scratch_dir, GAP_FILE_NAME, disk.pread(fd, disk.size(fd), 0))
        finally:
            disk.close(fd)
    if manifest.segments:
        last = manifest.segments[-1]
        end = LogEnd(last.segment, last.bytes, manifest.last_seq, manifest.chain)
        slot = encode_slot(Watermark(1, end))
        replace_file(
            disk, scratch_dir, ".durable", bytes(slot_offset(1)) + slot
        )  # syncs the other names, too


def _restore_segment(
    disk: Disk,
    backup: Home,
    scratch_dir: str,
    segment_copy: SegmentCopy,
    count: Callable[[int], object],
) -> None:
    path = f"{backup.log_dir}/{segment_copy.name}"
    digest = hashlib.sha256()
    try:
        source = disk.open(path, writable=False)
    except FileNotFoundError:
        raise _damaged_backup(path, "is missing in the backup") from None
    try:
        if disk.size(source) < segment_copy.bytes:
            raise _damaged_backup(path, "is cut in the backup")
        out = disk.create(f"{scratch_dir}/{segment_copy.name}")
        try:
            copy(disk, source, out, 0, segment_copy.bytes, digest, count)
        finally:
            disk.close(out)
    finally:
        disk.close(source)
    if digest.hexdigest() != segment_copy.sha256:
        raise _damaged_backup(path, "is damaged in the backup: its hash is another")


def _damaged_backup(path: str, how: str) -> BackupUnusable:
    name = os.path.basename(path)
    return BackupUnusable(
        f"{name} {how}",
        where=path,
        do="nothing was restored: use another backup; while the log is whole, `eventlog backup` "
        "makes that copy anew",
    )


def _restore_failed(error: OSError, home: Home) -> EventLogError:
    if error.errno in _NO_SPACE_ERRNOS:
        return EventLogError(
            f"no room for the log: {error.strerror}",
            where=home.root,
            do="nothing was restored: make room, then run it again",
        )
    return EventLogError(
        f"the log could not be restored: {error.strerror or error}",
        where=error.filename or home.root,
        do="nothing was restored: see to that disk, then run it again",
    )
