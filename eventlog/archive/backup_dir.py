"""The backup directory: its lock, its manifest, and its copies of segments.

The directory and its `logs` are opened once, and reached through their descriptors from then on:
a link that is put in their place meanwhile leads nowhere. A file that stands is never written to,
because it may share its bytes with another one, which a hard link makes: a new file replaces it.

Invariant: a copy that the manifest lists exists at any moment, and a good copy is never
overwritten.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from eventlog.archive.manifest import (
    MANIFEST_NAME,
    Manifest,
    SegmentCopy,
    read_manifest,
    require_last_entry,
    write_manifest,
)
from eventlog.errors import BackupUnusable, EventLogError
from eventlog.storage.atomic import OnBytes, copy, hash_range, is_temporary_name, temporary_name
from eventlog.storage.directory import Directory
from eventlog.storage.disk import Disk
from eventlog.storage.gap_file import GAP_FILE_NAME, read_gap_file
from eventlog.storage.home import Home
from eventlog.storage.locks import FileLock

LOCK_NAME = "backup.lock"
_NAMES_IN_EMPTY_DIR = frozenset(
    {LOCK_NAME, temporary_name(MANIFEST_NAME), "lost+found"}
)  # of a directory without a backup


@contextmanager
def locked_backup(disk: Disk, dest_home: Home) -> Iterator[Directory]:
    """The backup's directory, locked for the block. It is created where it is missing."""
    with _open_dir(disk, dest_home) as directory:
        names = set(directory.names())
        if MANIFEST_NAME not in names and names - _NAMES_IN_EMPTY_DIR:
            raise BackupUnusable(
                f"the directory is not empty, and no backup: it has no {MANIFEST_NAME}",
                where=dest_home.root,
                do="name an empty directory, or one that does not exist yet",
            )
        lock = FileLock(LOCK_NAME, disk=disk, covers_directory=True, dir_fd=directory.fd)
        try:
            if not lock.try_take():
                raise EventLogError(
                    "another run is at work on this backup",
                    where=dest_home.root,
                    do="wait until it ends",
                )
            yield directory
        finally:
            lock.drop()


def _open_dir(disk: Disk, dest_home: Home) -> Directory:
    try:
        return Directory.open(dest_home.root, disk=disk)
    except FileNotFoundError:
        _make_dir(disk, dest_home)
        return Directory.open(dest_home.root, disk=disk)


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
    """The backup in an open directory during one run. The caller holds the lock.

    `log_inodes` are device and inode of the files that store the log's own segments.
    """

    def __init__(
        self, directory: Directory, on_bytes: OnBytes, log_inodes: Collection[tuple[int, int]]
    ) -> None:
        self.manifest = Manifest()
        self._disk = directory.disk
        self._directory = directory
        self._on_bytes = on_bytes
        self._log_inodes = log_inodes
        found = read_manifest(directory)
        if found is None:
            with suppress(PermissionError):  # the parent belongs to another account
                self._disk.fsync_dir(directory.path.rpartition("/")[0] or "/")
            self.list(self.manifest)
        else:
            self.manifest = found
        self._logs = directory.subdirectory("logs", create=True)
        try:
            directory.sync()  # also where an interrupted run made `logs`
        except BaseException:
            self._logs.close()
            raise

    def close(self) -> None:
        """Closes the directory of the copies."""
        self._logs.close()

    def refuse_log_dir(self, log_dir: str) -> None:
        """Raises BackupUnusable where the copies would be written into the log's own directory."""
        with Directory.open(log_dir, follow=True, disk=self._disk) as directory:
            log, copies = (self._disk.identity_of(d.fd) for d in (directory, self._logs))
        if log[:2] == copies[:2]:
            raise BackupUnusable(
                "the directory of the copies is the log's own directory",
                where=self._logs.path,
                do="name another directory, or unmount what is mounted there",
            )

    def remove_leftovers(self, expected: Iterable[str]) -> None:
        """Removes files of an interrupted run. Refuses names neither listed nor `expected`."""
        expected_names = {
            *expected,
            *(segment_copy.name for segment_copy in self.manifest.segments),
        }
        for name in sorted(self._logs.names()):
            if is_temporary_name(name):
                self._logs.unlink(name)
            elif name not in expected_names:
                raise BackupUnusable(
                    "a foreign file is among the segments of the backup",
                    where=f"{self._logs.path}/{name}",
                    do="move it away; if a program appended to the backup as if it were a home, "
                    "make a new backup in an empty directory",
                )

    def is_intact(self, segment_copy: SegmentCopy) -> bool:
        """Whether a copy on the device is as listed.

        One that is, but is longer than listed or has another name, is replaced by a file of its
        own: `hardlink` and `cp -al` give a file several names, and the other may be the log's.
        """
        digest = hashlib.sha256()
        try:
            with self._logs.opened(segment_copy.name) as fd:
                size = self._disk.size(fd)
                if size < segment_copy.bytes:
                    return False
                self._disk.drop_cache(fd)
                hash_range(self._disk, fd, 0, segment_copy.bytes, digest, self._on_bytes)
                if digest.hexdigest() != segment_copy.sha256:
                    return False
                if segment_copy == self.manifest.segments[-1]:
                    where = f"{self._logs.path}/{segment_copy.name}"
                    require_last_entry(self._disk, fd, self.manifest, where)
                if size > segment_copy.bytes or self._is_shared(fd):
                    return self.replace_copy(fd, segment_copy)
        except FileNotFoundError:
            return False
        return True

    def _is_shared(self, fd: int) -> bool:
        """Whether the file has another name, or is one of the log's."""
        if self._disk.link_count(fd) > 1:
            return True
        return self._disk.identity_of(fd)[:2] in self._log_inodes

    def replace_copy(self, source: int, segment_copy: SegmentCopy) -> bool:
        """Replaces a copy with a new file, if `source` has the bytes that are listed."""
        name, size, sha256 = segment_copy.name, segment_copy.bytes, segment_copy.sha256
        return self._copy_whole(source, name, size, sha256) is not None

    def copy(self, source: int, name: str, byte_to: int) -> SegmentCopy:
        """Copies a segment up to `byte_to`: the last listed one, or the next."""
        listed = self.manifest.segments
        if listed and listed[-1].name == name:
            return self._copy_grown(source, listed[-1], byte_to)
        segment_copy = self._copy_whole(source, name, byte_to, None)
        assert segment_copy is not None, "no hash was expected"
        return segment_copy

    def list(self, manifest: Manifest) -> None:
        """Writes the manifest, durably."""
        write_manifest(self._directory, manifest)
        self.manifest = manifest

    def replace_gap_file(self, data: bytes) -> None:
        """Makes the records of accepted gaps those of the log."""
        if data != read_gap_file(self._disk, GAP_FILE_NAME, dir_fd=self._logs.fd):
            self._logs.replace(GAP_FILE_NAME, data)

    def _copy_whole(
        self, source: int, name: str, byte_to: int, expected: str | None
    ) -> SegmentCopy | None:
        """Copies to a temporary file, then renames it; None where the hash is not as expected."""
        digest = hashlib.sha256()
        with suppress(_HashDiffers), self._logs.replacing(name) as out:
            copy(self._disk, source, out, 0, byte_to, digest, self._on_bytes)
            if expected not in (None, digest.hexdigest()):
                raise _HashDiffers
        found = digest.hexdigest()
        if expected not in (None, found):
            return None
        return SegmentCopy(name=name, bytes=byte_to, sha256=found)

    def _copy_grown(self, source: int, listed: SegmentCopy, byte_to: int) -> SegmentCopy:
        """A new file with the listed bytes, from the copy, and the log's bytes after them."""
        digest = hashlib.sha256()
        with self._logs.opened(listed.name) as old, self._logs.replacing(listed.name) as out:
            copy(self._disk, old, out, 0, listed.bytes, digest, lambda _: None)
            if digest.hexdigest() != listed.sha256:
                raise BackupUnusable(
                    f"{listed.name} was changed in the backup while it was copied",
                    where=self._logs.path,
                    do="nothing was replaced: find out what writes there, then run it again",
                )
            copy(self._disk, source, out, listed.bytes, byte_to, digest, self._on_bytes)
        return replace(listed, bytes=byte_to, sha256=digest.hexdigest())
