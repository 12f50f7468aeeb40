"""Moves a database that was built in `run/` to its place in `data/`.

It is built in `run/` because another account may be allowed to write to `data/`, and could put a
link in the place of a file that SQLite opens by its name.

Invariant: the path holds no database or a whole one, with the mode and group of a file that was
created in `data/`.
"""

import errno
import os
import stat
from contextlib import closing, suppress
from pathlib import Path

from eventlog.plumbing import Directory, make_private_dir, rename_durably
from projections.sqlite.file import connect, file_mode_in, remove_database

COPY_BYTES = 1 << 20  # at a time


def place(new: Path, path: Path) -> None:
    """Gives the closed database `new` the name `path`, where there is no usable database.

    The directory of `path` is created where it is missing. Raises sqlite3.Error, OSError.
    """
    with closing(connect(new, is_shared=False)) as database:
        database.execute("PRAGMA journal_mode = WAL")
    with suppress(FileExistsError):
        make_private_dir(path.parent)
    # A -wal that outlived its deleted database would be taken for the WAL of the new one.
    remove_database(path)
    try:
        _give_mode(new, path.parent.stat())
        rename_durably(new, path)
    except OSError as error:
        # `data/` is another file system, or has a group that this account is not in.
        if error.errno not in (errno.EXDEV, errno.EPERM):
            raise
        _copy(new, path)
        remove_database(new)


def _give_mode(new: Path, directory: os.stat_result) -> None:
    """Gives the file the mode and group that it would have had if created in the directory."""
    fd = os.open(new, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, file_mode_in(directory))
        if directory.st_mode & stat.S_ISGID and os.fstat(fd).st_gid != directory.st_gid:
            os.fchown(fd, -1, directory.st_gid)
    finally:
        os.close(fd)


def _copy(new: Path, path: Path) -> None:
    """Copies the file `new` to `path`, durably, under another name first."""
    with (
        new.open("rb") as source,
        Directory.open(path.parent, follow=True) as data,
        data.replacing(path.name) as fd,
    ):
        os.fchmod(fd, file_mode_in(os.fstat(data.fd)))
        while chunk := source.read(COPY_BYTES):
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        data.disk.fdatasync(fd)
