"""Owner and mode of new files: root gives those in the home of another account to that account.

Invariant: an account that appends is not locked out by a command that root ran once.
"""

import os
from collections.abc import Callable
from contextlib import suppress


def adopt_owner(fd: int, path: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
    """Gives a file or directory that root has just created at `path` the owner of its directory.

    With `dir_fd` that is the open directory. Does nothing for another account, in a directory of
    root, and where the file system refuses it.
    """
    _give(path, dir_fd, lambda uid, gid: os.fchown(fd, uid, gid))


def adopt_link_owner(path: str) -> None:
    """The same as `adopt_owner` for a symbolic link."""
    _give(path, None, lambda uid, gid: os.lchown(path, uid, gid))


def _give(
    path: str | os.PathLike[str], dir_fd: int | None, give: Callable[[int, int], object]
) -> None:
    if os.geteuid() != 0:
        return
    with suppress(OSError):  # a user namespace may not know that account
        directory = os.stat(os.path.dirname(os.path.abspath(path)) if dir_fd is None else dir_fd)
        if directory.st_uid != 0:
            give(directory.st_uid, directory.st_gid)


def make_private_dir(path: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
    """Creates a directory of mode 0700, whatever the umask. Raises FileExistsError, OSError.

    Mode and owner are set through a descriptor: a link put in its place meanwhile is refused.
    """
    os.mkdir(path, 0o700, dir_fd=dir_fd)
    fd = _open_made(path, dir_fd)
    try:
        os.fchmod(fd, 0o700)
        adopt_owner(fd, path, dir_fd=dir_fd)
    finally:
        os.close(fd)


def _open_made(path: str | os.PathLike[str], dir_fd: int | None) -> int:
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDONLY | flags, dir_fd=dir_fd)
    except PermissionError:  # a umask took the owner's bits
        if not hasattr(os, "O_PATH"):
            raise
    found = os.open(path, os.O_PATH | flags, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{found}", 0o700)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(found)
