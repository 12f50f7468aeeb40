"""Mounts: the type of the file system that holds a path, and whether it is a network one.

Invariant: reads /proc only; an unknown mount counts as local.
"""

import os
import re

_NETWORK_FILESYSTEMS = frozenset(
    {"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
# Escapes of /proc/self/mountinfo: blank, tab, newline and backslash.
_MOUNT_ESCAPE_PATTERN = re.compile(r"\\(040|011|012|134)")


def filesystem_type(path: str) -> str:
    """The type of the file system that holds `path`, such as `ext4`; empty when not known."""
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            # Not splitlines(), which splits at more characters than the newline.
            lines = os.fsdecode(mounts.read()).split("\n")[:-1]
    except OSError:
        return ""
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in lines:
        before, _, after = line.partition(" - ")
        point = _MOUNT_ESCAPE_PATTERN.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind


def is_network_filesystem(kind: str) -> bool:
    """Whether locks and syncs on this type of file system depend on a server."""
    return kind in _NETWORK_FILESYSTEMS
