"""Output files that a user names: written whole beside their name, never into a home.

Invariant: no file that stands is changed in place, no link is followed in place of the file, and
no home or backup receives a file that is not its own.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from eventlog.errors import EventLogError, UnsafePath
from eventlog.format.segment import CLOSED_NAME, COMPRESSED_SUFFIX, is_segment_name
from eventlog.storage.atomic import free_name
from eventlog.storage.directory import Directory
from eventlog.storage.disk import Disk, read_file, real_disk
from eventlog.storage.home import APPLICATION_ID, Home
from eventlog.storage.identity import inode_of

# Also where a bind mount hides that the directory is one of a home.
_OUR_NAMES = ("signals.db", "alpine.db", "signals.lock", "alpine.lock", ".lock", ".durable")
_SQLITE_HEADER_BYTES = 100
_APPLICATION_ID_BYTES = slice(68, 72)  # https://www.sqlite.org/fileformat2.html, "application ID"


@contextmanager
def output_file(
    path: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None,
    keeps_partial: bool = False,
) -> Iterator[BinaryIO]:
    """A file of mode 0600 that takes the name `path` at the block's end, complete and synced.

    Where the block raises, what stood at `path` stays; with `keeps_partial` only if nothing was
    written yet. Raises UnsafePath where `path` is inside `home` or another home, or has a link or
    another kind of file, OSError. `home` is None for what needs none.
    """
    parent, name = os.path.split(os.path.abspath(os.fspath(path)))
    parent = os.path.realpath(parent)
    refuse_in_home(parent, home=home)
    if name.startswith(_OUR_NAMES) or is_segment_name(name.removesuffix(COMPRESSED_SUFFIX)):
        raise UnsafePath(
            "the output has the name of a file of a home",
            where=f"{parent}/{name}",
            do="name the file otherwise",
        )
    with Directory.open(parent) as directory:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(directory.stat(name).st_mode):
                raise UnsafePath(
                    "the output path is not a regular file",
                    where=f"{parent}/{name}",
                    do="name another file",
                )
        # In the same directory: a rename does not cross file systems.
        new, fd = _create_part(directory, name)
        try:
            with os.fdopen(fd, "wb") as file:
                try:
                    yield file
                except BaseException:
                    if not (keeps_partial and file.tell()):
                        raise
                    _give_name(directory, file, new, name)
                    raise
                _give_name(directory, file, new, name)
        except BaseException:
            with suppress(FileNotFoundError):
                directory.unlink(new)
            raise


def _create_part(directory: Directory, name: str) -> tuple[str, int]:
    """The name and the descriptor of a new file. It belongs to this account, root or not."""
    new = free_name(f".{name}.{os.getpid()}.part", directory.names())
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(new, flags, 0o600, dir_fd=directory.fd)
    os.fchmod(fd, 0o600)  # whatever the umask
    return new, fd


def _give_name(directory: Directory, file: BinaryIO, new: str, name: str) -> None:
    file.flush()
    directory.disk.fdatasync(file.fileno())
    directory.rename(new, name)
    directory.sync()


def refuse_in_home(
    directory: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None = None,
    disk: Disk | None = None,
) -> None:
    """Raises UnsafePath where a directory, which need not exist, is a home or is inside one.

    A directory is a home by what it holds; `home` is one also where it holds nothing yet.
    """
    disk = disk or real_disk()
    given = None if home is None else os.path.realpath(home)
    ours = set() if given is None else _inodes_of(given)
    found = os.path.realpath(directory)
    while True:
        if (
            found == given
            or _inode_of(found) in ours
            or _is_home(disk, Home(found))
            or _holds_segments(disk, found)
        ):
            raise UnsafePath(
                "the path is in a home or a backup, which holds only its own files",
                where=os.fspath(directory),
                do=f"name a path outside {found}",
            )
        above = os.path.dirname(found)
        if above == found:
            return
        found = above


def _inodes_of(home: str) -> set[tuple[int, int] | None]:
    """Device and inode of the home and of its directories, wherever links lead."""
    paths = (home, *(f"{home}/{name}" for name in ("logs", f"logs/{CLOSED_NAME}", "data", "run")))
    return {_inode_of(path) for path in paths} - {None}


def _inode_of(path: str) -> tuple[int, int] | None:
    with suppress(OSError):
        return inode_of(os.stat(path))
    return None


def _holds_segments(disk: Disk, directory: str) -> bool:
    """Whether segments are stored in the directory itself, as in a log's or an archive's."""
    with suppress(OSError):
        names = disk.names(directory) if disk.is_dir(directory) else []
        return any(is_segment_name(name.removesuffix(COMPRESSED_SUFFIX)) for name in names)
    return False


def _is_home(disk: Disk, home: Home) -> bool:
    """Whether a log or its table is there, as far as this account may look."""
    with suppress(OSError):
        if disk.identity_at(home.lock_path) or disk.identity_at(home.durable_path):
            return True
        if _holds_segments(disk, home.log_dir) or disk.identity_at(f"{home.data_dir}/alpine.db"):
            return True
    with suppress(OSError, EventLogError):
        header = read_file(disk, home.database_path, _SQLITE_HEADER_BYTES)
        return header[_APPLICATION_ID_BYTES] == APPLICATION_ID.to_bytes(4, "big")
    return False
