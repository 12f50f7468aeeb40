"""What tells one file from another: device and inode, and the generation of a reused inode.

Invariant: nothing here changes a file, or waits for one.
"""

import os
import struct
import sys

_GET_GENERATION = 0x80007601 | struct.calcsize("l") << 16  # FS_IOC_GETVERSION, linux/fs.h


def inode_of(status: os.stat_result) -> tuple[int, int]:
    """Device and inode."""
    return (status.st_dev, status.st_ino)


def generation_at(path: str) -> int:
    """The generation of the inode at this path; 0 where there is none, or it cannot be read."""
    import fcntl  # not at the top: Windows has none, and RealDisk refuses it with an error

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        found = fcntl.ioctl(fd, _GET_GENERATION, bytes(struct.calcsize("l")))
    except OSError:  # the file system has none
        return 0
    finally:
        os.close(fd)
    return int.from_bytes(found[:4], sys.byteorder)
