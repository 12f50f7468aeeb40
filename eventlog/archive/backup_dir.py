"""The backup directory: its lock, its manifest, and its copies of segments.

Invariant: a copy that the manifest lists exists at any moment, and a good copy is never
overwritten.
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
from eventlog.storage.disk import Disk, opened
from eventlog.storage.home import Home
from eventlog.storage.locks import FileLock

LOCK_NAME = "backup.lock"
_NAMES_IN_EMPTY_DIR = frozenset(
    {LOCK_NAME, temporary_name(MANIFEST_NAME), "lost+found"}
)  # of a directory without a backup


@contextmanager
def backup_lock(disk: Disk, dest_home: Home) -> Iterator[None]:
    """Holds the backup's lock during a block. Creates the directory where it is missing."""
    try:
        names = set(disk.names(dest_home.root))
    except FileNotFoundError:
        _make_dir(disk, dest_home)
        names = set()
    if MANIFEST_NAME not in names and names - _NAMES_IN_EMPTY_DIR:
        raise BackupUnusable(
            f"the directory is not empty, and no backup: it has no {MANIFEST_NAME}",
            where=dest_home.root,
            do="name an empty directory, or one that does not exist yet",
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
    """Makes the directory, but not its parents: a disk that is not mounted must not become one."""
    above = dest_home.root.rpartition("/")[0] or "/"
    if not disk.is_dir(above):
        raise BackupUnusable(
            "the parent directory of the backup does not exist",
            where=above,
            do="check that the disk is mounted, or make that directory",
        )
    disk.make_dir(dest_home.root)


class _HashDiffers(Exception):
    """The bytes copied do not have the expected hash, so the copy is discarded."""


class BackupDir:
    """The backup at `dest_home` during one run. The caller holds the lock."""

    def __init__(self, disk: Disk, dest_home: Home, on_bytes: OnBytes) -> None:
        self.manifest = Manifest()
        self._disk = disk
        self._dest_home = dest_home
        self._on_bytes = on_bytes
        self._last_digest = hashlib.sha256()  # of the last listed segment, up to its listed end

    def open(self) -> None:
        """Reads the manifest. A new backup gets an empty one first."""
        found = read_manifest(self._disk, self._dest_home.root)
        if found is None:
            with suppress(PermissionError):  # the parent belongs to another account
                self._disk.fsync_dir(self._dest_home.root.rpartition("/")[0] or "/")
            self.list(self.manifest)
        else:
            self.manifest = found
        log_dir = self._dest_home.log_dir
        if self._disk.link_target(log_dir) is not None:
            raise UnsafePath(
                "the directory of the backup's segments is a symbolic link",
                where=log_dir,
                do="replace the link with the directory itself",
            )
        if not self._disk.is_dir(log_dir):
            self._disk.make_dir(log_dir)
        self._disk.fsync_dir(self._dest_home.root)  # also where an interrupted run made it

    def remove_leftovers(self, expected: Iterable[str]) -> None:
        """Removes files of an interrupted run. Refuses names neither listed nor `expected`."""
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
                    "a foreign file is among the segments of the backup",
                    where=path,
                    do="move it away; if a program appended to the backup as if it were a home, "
                    "make a new backup in an empty directory",
                )

    def is_intact(self, segment_copy: SegmentCopy) -> bool:
        """Whether a copy on the device is as listed. Called in the order of the manifest."""
        digest = hashlib.sha256()
        try:
            with opened(self._disk, self._path(segment_copy.name)) as fd:
                size = self._disk.size(fd)
                if size < segment_copy.bytes:
                    return False
                self._disk.drop_cache(fd)
                hash_range(self._disk, fd, 0, segment_copy.bytes, digest, self._on_bytes)
        except FileNotFoundError:
            return False
        if digest.hexdigest() != segment_copy.sha256:
            return False
        if size > segment_copy.bytes:  # a run was interrupted before it listed these bytes
            with opened(self._disk, self._path(segment_copy.name), writable=True) as fd:
                self._disk.truncate(fd, segment_copy.bytes)
                self._disk.fdatasync(fd)
        self._last_digest = digest
        return True

    def replace_copy(self, source: int, segment_copy: SegmentCopy) -> bool:
        """Replaces a damaged copy with a new one, if `source` still has the same bytes."""
        name, size, sha256 = segment_copy.name, segment_copy.bytes, segment_copy.sha256
        return self._copy_whole(source, name, size, sha256) is not None

    def copy(self, source: int, name: str, byte_to: int) -> SegmentCopy:
        """Copies a segment up to `byte_to`: the last listed one, or the next."""
        listed = self.manifest.segments
        if listed and listed[-1].name == name:
            return self._copy_appended(source, listed[-1], byte_to)
        segment_copy = self._copy_whole(source, name, byte_to, None)
        assert segment_copy is not None, "no hash was expected"
        return segment_copy

    def list(self, manifest: Manifest) -> None:
        """Writes the manifest, durably."""
        write_manifest(self._disk, self._dest_home.root, manifest)
        self.manifest = manifest

    def _path(self, name: str) -> str:
        return f"{self._dest_home.log_dir}/{name}"

    def _copy_whole(
        self, source: int, name: str, byte_to: int, expected: str | None
    ) -> SegmentCopy | None:
        """Copies to a temporary file, then renames it; None where the hash is not as expected."""
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
        """Copies new bytes of the last listed segment, in place; they count once listed."""
        digest = self._last_digest
        with opened(self._disk, self._path(listed.name), writable=True) as out:
            try:
                copy(self._disk, source, out, listed.bytes, byte_to, digest, self._on_bytes)
            except BaseException:
                with suppress(OSError):  # the next run truncates it too
                    self._disk.truncate(out, listed.bytes)
                raise
        return replace(listed, bytes=byte_to, sha256=digest.hexdigest())
