"""Identifies this boot of the machine, and a file: what a lock record names, to be valid here only.

Invariant: two boots never have the same id, and two files never the same device, inode and
generation at different times, where the file system has generations.
"""

import logging
import os
import struct
import sys
from functools import cache
from typing import NamedTuple

logger = logging.getLogger(__name__)

_GET_GENERATION = 0x80007601 | struct.calcsize("l") << 16  # FS_IOC_GETVERSION, linux/fs.h


class FileIdentity(NamedTuple):
    """The regular file at a path: another file there has another device or inode."""

    device: int
    inode: int
    size_bytes: int


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


@cache  # so that a missing one is logged once in a process
def read_boot_id() -> str:
    """The boot id, or nothing where it cannot be read, as in some containers."""
    try:
        if sys.platform == "darwin":
            import subprocess  # macOS only; it has no file with the boot id

            words = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        logger.warning(
            "boot_id_unknown error=%s: each log is synced and read from the device, which is slow",
            error.strerror,
        )
        return ""
