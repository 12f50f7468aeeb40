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
from eventlog.storage.atomic import (
    OnBytes,
    copy,
    create_replacing,
    hash_range,
    is_temporary_name,
    read_back,
    temporary_name,
    write_range,
)
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
        self._unfinished: list[tuple[int, SegmentCopy]] = []  # each with its open file
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

    @property
    def directory(self) -> Directory:
        """The open directory of the backup."""
        return self._directory

    def close(self) -> None:
        """Discards unfinished copies, and closes the directory of the copies."""
        self.discard_unfinished()
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
        digest = hashlib.sha256()
        with suppress(_HashDiffers), self._logs.replacing(segment_copy.name) as out:
            copy(self._disk, source, out, 0, segment_copy.bytes, digest, self._on_bytes)
            if digest.hexdigest() != segment_copy.sha256:
                raise _HashDiffers
        return digest.hexdigest() == segment_copy.sha256

    def copy_grown(self, source: int, byte_to: int) -> SegmentCopy:
        """Copies the last listed segment up to `byte_to`, durably.

        The new file has the listed bytes, from the copy, and the log's bytes after them.
        """
        listed = self.manifest.segments[-1]
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

    def begin_copy(self, source: int, name: str, byte_to: int) -> SegmentCopy:
        """Writes a copy of a segment up to `byte_to`, which `finish_copies` makes durable."""
        fd = create_replacing(self._disk, temporary_name(name), dir_fd=self._logs.fd)
        try:
            sha256 = write_range(self._disk, source, fd, 0, byte_to, self._on_bytes)
            segment_copy = SegmentCopy(name=name, bytes=byte_to, sha256=sha256)
            self._unfinished.append((fd, segment_copy))
        except BaseException:
            self._discard(fd, name)
            raise
        return segment_copy

    def finish_copies(self) -> None:
        """Syncs the copies that were begun, reads them back and gives them their names, durably.

        Raises OSError and BackupUnusable; then none of them counts.
        """
        try:
            self._disk.fdatasync_all([fd for fd, _ in self._unfinished])
            for fd, begun in self._unfinished:
                read_back(self._disk, fd, 0, begun.bytes, begun.sha256)
            for _, begun in self._unfinished:
                self._logs.rename(temporary_name(begun.name), begun.name)
        except BaseException:
            self.discard_unfinished()
            raise
        self._close_unfinished()
        self._logs.sync()

    def discard_unfinished(self) -> None:
        """Removes the copies that were begun and have not got their names."""
        unfinished, self._unfinished = self._unfinished, []
        for fd, begun in unfinished:
            self._discard(fd, begun.name)

    def _discard(self, fd: int, name: str) -> None:
        with suppress(OSError):
            self._disk.close(fd)
        with suppress(OSError):
            self._logs.unlink(temporary_name(name))

    def _close_unfinished(self) -> None:
        unfinished, self._unfinished = self._unfinished, []
        for fd, _ in unfinished:
            self._disk.close(fd)

    def list(self, manifest: Manifest) -> None:
        """Writes the manifest, durably."""
        write_manifest(self._directory, manifest)
        self.manifest = manifest

    def replace_gap_file(self, data: bytes) -> None:
        """Makes the records of accepted gaps those of the log."""
        if data != read_gap_file(self._disk, GAP_FILE_NAME, dir_fd=self._logs.fd):
            self._logs.replace(GAP_FILE_NAME, data)
