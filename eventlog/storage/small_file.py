"""Small files beside the segments, read whole up to a limit.

Invariant: no file, whatever its size, makes a reader use more memory than the limit of its kind.
"""

from eventlog.errors import UnsafePath
from eventlog.storage.disk import Disk, opened


def read_small_file(
    disk: Disk, path: str, bytes_max: int, *, dir_fd: int | None = None, where: str = ""
) -> bytes:
    """All bytes of an existing file that has at most `bytes_max`. Raises UnsafePath, OSError.

    A file of ours that outgrows its limit was not written by us, and may be sparse and of any size.
    """
    with opened(disk, path, dir_fd=dir_fd) as fd:
        size = disk.size(fd)
        if size > bytes_max:
            raise too_large_error(where or path, bytes_max)
        return disk.pread(fd, size, 0)


def too_large_error(path: str, bytes_max: int) -> UnsafePath:
    """The error for a file that is larger than any of ours."""
    return UnsafePath(
        f"the file has more than {bytes_max} bytes, which is too many to be ours",
        where=path,
        do="move it away, or restore it from a backup",
    )
