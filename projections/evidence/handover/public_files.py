"""Files that a web server reads: mode 0644 in directories of mode 0755, each written whole.

Invariant: a file under its final name is whole and on the device, and so is its name.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from eventlog.plumbing import Directory, Disk, write_all

FILE_MODE, DIRECTORY_MODE = 0o644, 0o755
TEMPORARY = ".{}.new"


class PublicDirectory:
    """An open directory, and what is below it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @property
    def path(self) -> str:
        """For messages."""
        return self._directory.path

    def names(self) -> list[str]:
        """The names in it."""
        return self._directory.names()

    def read(self, name: str, bytes_max: int) -> bytes:
        """All bytes of a file in it. Raises FileNotFoundError."""
        return self._directory.read(name, bytes_max)

    def has(self, path: str, size: int | None) -> bool:
        """Whether there is a file at a path below it, of that many bytes unless None."""
        *folders, name = path.split("/")
        with suppress(FileNotFoundError), self._below(folders, create=False) as folder:
            found = folder.identity(name)
            return found is not None and size in (None, folder.stat(name).st_size)
        return False

    def write(self, path: str, data: bytes) -> None:
        """Writes one file at a path below it."""
        folder, _, name = path.rpartition("/")
        self.write_all(folder, {name: data})

    def write_all(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Writes files of one folder below it, which are synced together."""
        with self._below(folder.split("/") if folder else [], create=True) as directory:
            for name in directory.names():
                if name.startswith(".") and name.endswith(".new"):
                    directory.unlink(name)  # left by a run that died
            fds: list[int] = []
            try:
                for name, data in files.items():
                    fds.append(directory.create(TEMPORARY.format(name)))
                    os.fchmod(fds[-1], FILE_MODE)
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
            _subdirectory(self._directory, folders[0], create=create) as found,
            PublicDirectory(found)._below(folders[1:], create=create) as last,
        ):
            yield last


def _subdirectory(above: Directory, name: str, *, create: bool) -> Directory:
    if create:
        with suppress(FileExistsError):
            made = above.make_subdirectory(name)
            os.fchmod(made.fd, DIRECTORY_MODE)
            above.sync()
            return made
    return above.subdirectory(name)


@contextmanager
def public_directory(path: Path, *, disk: Disk | None = None) -> Iterator[PublicDirectory]:
    """The directory at `path`, which is made where it is missing; the one above must exist."""
    parent = Path(os.path.abspath(path)).parent
    with (
        Directory.open(parent, follow=True, disk=disk) as above,
        _subdirectory(above, Path(os.path.abspath(path)).name, create=True) as directory,
    ):
        yield PublicDirectory(directory)
