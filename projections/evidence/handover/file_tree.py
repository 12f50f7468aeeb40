"""Files below a directory that are handed over, each written whole: for all to read, or private.

Invariant: a file under its final name is whole and on the device, and so is its name.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from eventlog.plumbing import Directory, Disk, write_all

TEMPORARY = ".{}.new"
FILES_AT_ONCE = 256  # are synced together; open files are limited


class Modes(NamedTuple):
    """The modes of files and of directories, whatever the umask."""

    file: int
    directory: int


PUBLIC = Modes(0o644, 0o755)  # a web server reads them
PRIVATE = Modes(0o600, 0o700)


class FileTree:
    """An open directory, and what is below it."""

    def __init__(self, directory: Directory, modes: Modes) -> None:
        self._directory = directory
        self._modes = modes

    @property
    def path(self) -> str:
        """For messages."""
        return self._directory.path

    def names(self) -> list[str]:
        """The names in it."""
        return self._directory.names()

    def sync(self) -> None:
        """Returns when the names in it are on the device."""
        self._directory.sync()

    def read(self, path: str, bytes_max: int) -> bytes:
        """All bytes of a file at a path below it. Raises FileNotFoundError."""
        *folders, name = path.split("/")
        with self._below(folders, create=False) as folder:
            return folder.read(name, bytes_max)

    def has(self, path: str, size: int | None) -> bool:
        """Whether there is a file at a path below it, of that many bytes unless None."""
        *folders, name = path.split("/")
        with suppress(FileNotFoundError), self._below(folders, create=False) as folder:
            found = folder.identity(name)
            return found is not None and size in (None, folder.stat(name).st_size)
        return False

    @contextmanager
    def created(self, name: str) -> Iterator[BinaryIO]:
        """A new file in it that is written piece by piece, and synced at the block's end."""
        fd = self._directory.create(name)
        with os.fdopen(os.dup(fd), "wb") as file:
            try:
                os.fchmod(fd, self._modes.file)
                yield file
                file.flush()
                self._directory.disk.fdatasync(fd)
            finally:
                self._directory.disk.close(fd)
        self._directory.sync()

    def write(self, path: str, data: bytes) -> None:
        """Writes one file at a path below it."""
        folder, _, name = path.rpartition("/")
        self.write_all(folder, {name: data})

    def write_all(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Writes files of one folder below it, many of which are synced together."""
        with self._below(folder.split("/") if folder else [], create=True) as directory:
            for name in directory.names():
                if name.startswith(".") and name.endswith(".new"):
                    directory.unlink(name)  # left by a run that died
            names = iter(files)
            while some := list(islice(names, FILES_AT_ONCE)):
                self._write(directory, {name: files[name] for name in some})

    def _write(self, directory: Directory, files: Mapping[str, bytes]) -> None:
        fds: list[int] = []
        try:
            for name, data in files.items():
                fds.append(directory.create(TEMPORARY.format(name)))
                os.fchmod(fds[-1], self._modes.file)
                write_all(directory.disk, fds[-1], data, 0)
            directory.disk.fdatasync_all(fds)
        finally:
            for fd in fds:
                directory.disk.close(fd)
        for name in files:
            directory.rename(TEMPORARY.format(name), name)
        directory.sync()

    def remove_folder(self, path: str) -> None:
        """Removes a folder with its files, where it is there."""
        *folders, name = path.split("/")
        with suppress(FileNotFoundError), self._below(folders, create=False) as above:
            with above.subdirectory(name) as folder:
                for each in folder.names():
                    folder.unlink(each)
            os.rmdir(name, dir_fd=above.fd)

    @contextmanager
    def _below(self, folders: list[str], *, create: bool) -> Iterator[Directory]:
        if not folders:
            yield self._directory
            return
        with (
            _subdirectory(self._directory, folders[0], create and self._modes) as found,
            FileTree(found, self._modes)._below(folders[1:], create=create) as last,
        ):
            yield last


def _subdirectory(above: Directory, name: str, modes: Modes | Literal[False]) -> Directory:
    """A directory in another one; with `modes` it is made where it is missing."""
    if modes:
        with suppress(FileExistsError):
            made = above.make_subdirectory(name)
            os.fchmod(made.fd, modes.directory)
            above.sync()
            return made
    return above.subdirectory(name)


@contextmanager
def file_tree(path: Path, modes: Modes = PUBLIC, *, disk: Disk | None = None) -> Iterator[FileTree]:
    """The directory at `path`, which is made where it is missing; the one above must exist."""
    parent = Path(os.path.abspath(path)).parent
    with (
        Directory.open(parent, follow=True, disk=disk) as above,
        _subdirectory(above, Path(os.path.abspath(path)).name, modes) as directory,
    ):
        yield FileTree(directory, modes)
