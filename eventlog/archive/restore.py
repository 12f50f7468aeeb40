"""Restores a backup into a new home.

The log is restored in the hidden directory `.restoring` of the home, and renamed to `logs` once all
of it is durable. It gets a watermark, so that a lost end of the restored log is detected; the first
writer adds the lock record. Other directories that the backup keeps are restored before that, each
with a mark that says where it comes from.

Invariant: the home has no log, or all of the log that the manifest lists; a home that is not empty
is never changed.
"""

import errno
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from eventlog.archive.kept_copies import may_restore_over, restore_kept
from eventlog.archive.manifest import (
    MANIFEST_NAME,
    Manifest,
    SegmentCopy,
    kept_text,
    read_manifest,
    require_last_entry,
)
from eventlog.errors import BackupUnusable, EventLogError
from eventlog.figures import bytes_text, count_text, time_text
from eventlog.format.durability import LogEnd, Watermark, encode_slot, slot_offset
from eventlog.storage.atomic import copy, replace_file
from eventlog.storage.directory import Directory
from eventlog.storage.disk import Disk, RealDisk, closing_fd, opened, size_of
from eventlog.storage.gap_file import GAP_FILE_NAME, read_gap_file
from eventlog.storage.home import Home, home_at, make_durable_dir
from eventlog.storage.locks import FileLock
from eventlog.storage.segment_disk import SegmentDisk

SCRATCH_NAME = ".restoring"
_LOCK_NAME = ".lock"  # the later lock of the log's writers, held until the log is complete
_NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredHome:
    """A home that was restored."""

    home: str
    manifest: Manifest

    @property
    def next(self) -> tuple[str, ...]:
        """The commands to run next."""
        return (f"eventlog --home {shlex.quote(self.home)} rebuild-database",)

    def to_json(self) -> dict[str, object]:
        """The report of `eventlog restore --json`."""
        return {
            "home": self.home,
            "last_seq": self.manifest.last_seq,
            "chain": self.manifest.chain,
            "segments": len(self.manifest.segments),
            "bytes": self.manifest.bytes,
            "kept_files": len(self.manifest.kept),
            "backed_up_at": self.manifest.backed_up_at,
            "next": list(self.next),
        }

    def to_text(self) -> list[str]:
        """The report as lines of text."""
        manifest = self.manifest
        segments = count_text(len(manifest.segments), "segment")
        return [
            f"restored up to seq {manifest.last_seq}, chain {manifest.chain}: "
            f"{bytes_text(manifest.bytes)} in {segments}",
            f"backed up at {time_text(manifest.backed_up_at)}",
            *kept_text(manifest),
            *(f"next: {command}" for command in self.next),
        ]


def restore_home(
    source: str | os.PathLike[str],
    home: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], object] | None = None,
    disk: Disk | None = None,
) -> RestoredHome:
    """Restores the log of the backup `source`, durably, into a new home at `home`.

    Each segment is checked against its hash and read back. Raises BackupUnusable where `source` is
    no backup or is damaged, and EventLogError where the home is not empty or the disk fails; then
    the home has no log.
    """
    disk = SegmentDisk(disk or RealDisk())
    log_home = home_at(home)
    backup = Home(os.path.realpath(source))
    try:
        manifest = _read_manifest(disk, backup)
        refuse_non_empty(disk, log_home)
        if not disk.is_dir(log_home.root):
            make_durable_dir(disk, log_home.root)
        with _scratch_dir(disk, log_home) as scratch_dir:
            _restore_files(disk, backup, scratch_dir, manifest, progress)
            restore_kept(disk, backup, log_home, manifest.kept)
            disk.rename(scratch_dir, log_home.log_dir)
            disk.fsync_dir(log_home.root)
    except OSError as error:
        raise _restore_failed(error, log_home) from error
    return RestoredHome(home=os.fspath(home), manifest=manifest)


def read_backup_end(source: str | os.PathLike[str], *, disk: Disk | None = None) -> Manifest:
    """What a backup lists, if each copy has its length, and the last one ends with its last entry.

    The end is read from the device; no hash of a whole copy is checked, so it costs no more for a
    long log. Raises BackupUnusable, OSError.
    """
    disk = SegmentDisk(disk or RealDisk())
    backup = Home(os.path.realpath(source))
    manifest = _read_manifest(disk, backup)
    for segment_copy in manifest.segments:
        path = f"{backup.log_dir}/{segment_copy.name}"
        try:
            size = size_of(disk, path)
        except FileNotFoundError:
            size = 0
        if size < segment_copy.bytes:
            raise BackupUnusable(
                f"{segment_copy.name} is missing or cut in the backup",
                where=path,
                do="run `eventlog backup`, which makes that copy again",
            )
    if manifest.segments:
        path = f"{backup.log_dir}/{manifest.segments[-1].name}"
        with opened(disk, path) as fd:
            disk.drop_cache(fd)
            require_last_entry(disk, fd, manifest, path)
    return manifest


def _read_manifest(disk: Disk, backup: Home) -> Manifest:
    manifest = None
    with suppress(FileNotFoundError), Directory.open(backup.root, disk=disk) as directory:
        manifest = read_manifest(directory)
    if manifest is None:
        raise BackupUnusable(
            f"this is no backup: it has no {MANIFEST_NAME}",
            where=backup.root,
            do="name a directory that `eventlog backup` made; to restore any other copy, copy "
            "its logs/ into a new home",
        )
    return manifest


def refuse_non_empty(disk: Disk, home: Home) -> None:
    """Raises EventLogError unless the home has only empty directories, `run/`, and leftovers."""
    try:
        names = disk.names(home.root)
    except FileNotFoundError:
        return
    for name in sorted(names):
        path = f"{home.root}/{name}"
        is_empty_dir = (
            name in ("logs", "data", "run")
            and disk.link_target(path) is None
            and disk.is_dir(path)
            and (name == "run" or not disk.names(path))  # it holds nothing that lasts
        )
        if name != SCRATCH_NAME and not is_empty_dir and not may_restore_over(disk, home, name):
            raise EventLogError(
                f"the home is not empty: it holds {name}",
                where=home.root,
                do="nothing was changed: name a new home with --home, or repair the log that is "
                "there with `eventlog repair --from`",
            )


@contextmanager
def _scratch_dir(disk: Disk, home: Home) -> Iterator[str]:
    """The directory in which the log is restored, under the log's own lock."""
    scratch_dir = f"{home.root}/{SCRATCH_NAME}"
    with suppress(FileExistsError):
        disk.make_dir(scratch_dir)
    # A link would lead to files that are not ours, and these are removed below.
    disk.close(disk.open_dir(scratch_dir, follow=False))
    lock = FileLock(f"{scratch_dir}/{_LOCK_NAME}", disk=disk)
    try:
        if not lock.try_take():
            raise EventLogError(
                "another restore is at work here", where=home.root, do="wait until it ends"
            )
        _clear_scratch_dir(disk, scratch_dir)  # of an interrupted run
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
    """Writes all files of the log, durably."""
    done = 0

    def count(byte_count: int) -> None:
        nonlocal done
        done += byte_count
        if progress is not None:
            progress(done, manifest.bytes)

    for segment_copy in manifest.segments:
        _restore_segment(disk, backup, scratch_dir, segment_copy, count)
    gaps = read_gap_file(disk, f"{backup.log_dir}/{GAP_FILE_NAME}")
    if gaps:
        replace_file(disk, scratch_dir, GAP_FILE_NAME, gaps)
    if manifest.segments:
        last = manifest.segments[-1]
        with opened(disk, f"{scratch_dir}/{last.name}") as fd:
            require_last_entry(disk, fd, manifest, f"{backup.log_dir}/{last.name}")
        end = LogEnd(last.segment, last.bytes, manifest.last_seq, manifest.chain)
        slots = bytes(slot_offset(1)) + encode_slot(Watermark(1, end))
        replace_file(disk, scratch_dir, ".durable", slots)  # which syncs the other names too


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
        size = size_of(disk, path)
    except FileNotFoundError:
        raise _damaged_backup(path, "is missing in the backup") from None
    if size < segment_copy.bytes:
        raise _damaged_backup(path, "is cut in the backup")
    new = f"{scratch_dir}/{segment_copy.name}"
    with opened(disk, path) as source, closing_fd(disk, disk.create(new)) as out:
        copy(disk, source, out, 0, segment_copy.bytes, digest, count)
    if digest.hexdigest() != segment_copy.sha256:
        raise _damaged_backup(path, "is damaged in the backup: its hash does not match")


def _damaged_backup(path: str, how: str) -> BackupUnusable:
    name = os.path.basename(path)
    return BackupUnusable(
        f"{name} {how}",
        where=path,
        do="nothing was restored: use another backup; while the log is whole, `eventlog backup` "
        "makes that copy again",
    )


def _restore_failed(error: OSError, home: Home) -> EventLogError:
    if error.errno in _NO_SPACE_ERRNOS:
        return EventLogError(
            f"no space for the log: {error.strerror}",
            where=home.root,
            do="nothing was restored: free space, then run it again",
        )
    return EventLogError(
        f"the log could not be restored: {error.strerror or error}",
        where=error.filename or home.root,
        do="nothing was restored: check that disk, then run it again",
    )
