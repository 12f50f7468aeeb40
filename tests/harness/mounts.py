"""Mounts file systems for one command, which alone sees them.

    eventlog("append", home=home, under=on_small_disk("100k", home))
    eventlog("verify", home=home, under=mounted('mount --bind "$1" "$2"', here, there))

Invariant: no mount outlives its command; where mounting is impossible, the test is skipped with
the reason.
"""

import shutil
import subprocess
from functools import cache

import pytest


def mounted(script: str, *places: object) -> tuple[str, ...]:
    """A prefix that runs `script`, to which `places` are $1, $2 ..., and then a command."""
    if not _can_mount():
        pytest.skip("mounting takes root and a kernel that allows it: sudo tools/test")
    script = f'{script} && shift {len(places)} && exec "$@"'
    return ("unshare", "-m", "sh", "-ec", script, "sh", *map(str, places))


@cache
def _can_mount() -> bool:
    words = (
        "unshare",
        "-m",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        "/tmp",
    )  # in the namespace of that process
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def on_small_disk(size: str, mount: object) -> tuple[str, ...]:
    """A prefix that runs a command with a small disk at `mount`."""
    return mounted(f'mount -t tmpfs -o size={size} tmpfs "$1"', mount)
