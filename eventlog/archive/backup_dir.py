"""The directory of a backup, for the run that brings it up: its lock, its list, its copies.

Invariant: what the manifest lists is there, at any moment, and a good copy of a segment is never
written over.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from eventlog.archive.manifest import (
    MANIFEST_NAME,
    Manifest,
    SegmentCopy,
    read_manifest,
    write_manifest,
)
from eventlog.errors import BackupUnusable, EventLogError, UnsafePath
from eventlog.storage.atomic import (
    OnBytes,
    copy,
    hash_range,
    is_temporary_name,
    replacing,
    temporary_name,
)
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home
from eventlog.storage.locks import FileLock

LOCK_NAME = "backup.lock"
_NAMES_IN_EMPTY_DIR = frozenset(
    {LOCK_NAME, temporary_name(MANIFEST_NAME), "lost+found"}
)  # nothing is in there yet


@contextmanager
def backup_lock(disk: Disk, dest_home: Home) -> Iterator[None]:
    """Holds the backup's lock. The directory is made where it is missing."""
    try:
        names = set(disk.names(dest_home.root))
    except FileNotFoundError:
        _make_dir(disk, dest_home)
        names = set()
    if MANIFEST_NAME not in names and names - _NAMES_IN_EMPTY_DIR:
        raise BackupUnusable(
            f"the directory is not empty, and no backup: it has no {MANIFEST_NAME}",
            where=dest_home.root,
            do="name an empty directory, or one that is not there yet",
        )
    lock = FileLock(f"{dest_home.root}/{LOCK_NAME}", disk=disk, covers_directory=True)
    try:
        if not lock.try_take():
            raise EventLogError(
                "another run is at work on this backup",
                where=dest_home.root,
                do="wait until it ends",
            )
        yield
    finally:
        lock.drop()


def _make_dir(disk: Disk, dest_home: Home) -> None:
    """Not what is above it: a disk that is not mounted must not become a directory."""
    above = dest_home.root.rpartition("/")[0] or "/"
    if not disk.is_dir(above):
        raise BackupUnusable(
            "there is no directory for the backup to be in",
            where=above,
            do="see whether the disk is mounted, or make that directory",
        )
    disk.make_dir(dest_home.root)


class _HashDiffers(Exception):
    """The bytes copied do not have the expected hash, so the copy is discarded."""


class BackupDir:
    """What one run knows of the backup at `dest_home`. The caller holds the lock."""

    def __init__(self, disk: Disk, dest_home: Home, on_bytes: OnBytes) -> None:
        self.manifest = Manifest()
        self._disk = disk
        self._dest_home = dest_home
        self._on_bytes = on_bytes
        self._last_digest = hashlib.sha256()  # of the last listed segment, as far as it is listed

    def open(self) -> None:
        """Reads what it holds. A new one gets an empty list before anything else."""
        found = read_manifest(self._disk, self._dest_home.root)
        if found is None:
            with suppress(
                PermissionError
            ):  # what is above it may not be ours; then we did not make it
                self._disk.fsync_dir(self._dest_home.root.rpartition("/")[0] or "/")
            self.list(self.manifest)
        else:
            self.manifest = found
        log_dir = self._dest_home.log_dir
        if self._disk.link_target(log_dir) is not None:
            raise UnsafePath(
                "a symbolic link stands where the backup has its segments",
                where=log_dir,
                do="put the directory itself there",
            )
        if not self._disk.is_dir(log_dir):
            self._disk.make_dir(log_dir)
        self._disk.fsync_dir(self._dest_home.root)  # also where a run died that made it

    def remove_leftovers(self, expected: Iterable[str]) -> None:
        """Removes what a run that died left, and refuses what is neither listed nor `expected`."""
        expected_names = {
            *expected,
            *(segment_copy.name for segment_copy in self.manifest.segments),
        }
        for name in sorted(self._disk.names(self._dest_home.log_dir)):
            path = f"{self._dest_home.log_dir}/{name}"
            if is_temporary_name(name):
                self._disk.unlink(path)
            elif name not in expected_names:
                raise BackupUnusable(
                    "a foreign file stands among the segments of the backup",
                    where=path,
                    do="move it away; if a program appended to the backup as if it were a home, "
                    "make a new backup in an empty directory",
                )

    def is_intact(self, segment_copy: SegmentCopy) -> bool:
        """Whether a copy is as it was listed, by what the device says. In the order of the list."""
        try:
            fd = self._disk.open(self._path(segment_copy.name), writable=False)
        except FileNotFoundError:
            return False
        digest = hashlib.sha256()
        try:
            size = self._disk.size(fd)
            if size < segment_copy.bytes:
                return False
            self._disk.drop_cache(fd)
            hash_range(self._disk, fd, 0, segment_copy.bytes, digest, self._on_bytes)
            if digest.hexdigest() != segment_copy.sha256:
                return False
        finally:
            self._disk.close(fd)
        if size > segment_copy.bytes:  # a run died before it could list that
            self._truncate(segment_copy)
        self._last_digest = digest
        return True

    def replace_copy(self, source: int, segment_copy: SegmentCopy) -> bool:
        """Puts a new copy in the place of a damaged one, if `source` still has the same bytes."""
        return (
            self._copy_whole(source, segment_copy.name, segment_copy.bytes, segment_copy.sha256)
            is not None
        )

    def copy(self, source: int, name: str, byte_to: int) -> SegmentCopy:
        """Makes it hold a segment up to there: the last one that it lists, or the next."""
        listed = self.manifest.segments
        if listed and listed[-1].name == name:
            return self._copy_appended(source, listed[-1], byte_to)
        segment_copy = self._copy_whole(source, name, byte_to, None)
        assert segment_copy is not None, "nothing was expected of it"
        return segment_copy

    def list(self, manifest: Manifest) -> None:
        """From here on it holds this."""
        write_manifest(self._disk, self._dest_home.root, manifest)
        self.manifest = manifest

    def _truncate(self, segment_copy: SegmentCopy) -> None:
        fd = self._disk.open(self._path(segment_copy.name), writable=True)
        try:
            self._disk.truncate(fd, segment_copy.bytes)
            self._disk.fdatasync(fd)
        finally:
            self._disk.close(fd)

    def _path(self, name: str) -> str:
        return f"{self._dest_home.log_dir}/{name}"

    def _copy_whole(
        self, source: int, name: str, byte_to: int, expected: str | None
    ) -> SegmentCopy | None:
        """Under its name once it is whole; None where its hash is not as expected."""
        digest = hashlib.sha256()
        with suppress(_HashDiffers), replacing(self._disk, self._dest_home.log_dir, name) as out:
            copy(self._disk, source, out, 0, byte_to, digest, self._on_bytes)
            if expected not in (None, digest.hexdigest()):
                raise _HashDiffers
        found = digest.hexdigest()
        if expected not in (None, found):
            return None
        self._last_digest = digest
        return SegmentCopy(name=name, bytes=byte_to, sha256=found)

    def _copy_appended(self, source: int, listed: SegmentCopy, byte_to: int) -> SegmentCopy:
        """What was appended to the last segment, in place: it counts once it is listed."""
        out = self._disk.open(self._path(listed.name), writable=True)
        try:
            copy(self._disk, source, out, listed.bytes, byte_to, self._last_digest, self._on_bytes)
        except BaseException:
            with suppress(OSError):  # the next run does it, too
                self._disk.truncate(out, listed.bytes)
            raise
        finally:
            self._disk.close(out)
        return replace(listed, bytes=byte_to, sha256=self._last_digest.hexdigest())
