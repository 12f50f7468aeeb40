"""File systems that are mounted for one command and seen by it alone.

    eventlog("append", home=home, under=on_small_disk("100k", home))
    eventlog("verify", home=home, under=mounted('mount --bind "$1" "$2"', here, there))

Invariant: no mount outlives its command; where one cannot be made the test is skipped, and says
what it takes.
"""

import shutil
import subprocess

import pytest


def mounted(script: str, *places: object) -> tuple[str, ...]:
    """A prefix that runs `script`, to which `places` are $1, $2 ..., and then a command."""
    script = f'{script} && shift {len(places)} && exec "$@"'
    unshare = shutil.which("unshare") or "false"
    under = (unshare, "-m", "sh", "-ec", script, "sh", *map(str, places))
    if subprocess.run((*under, "true"), capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root and a kernel that allows it: sudo tools/test")
    return under


def on_small_disk(size: str, mount: object) -> tuple[str, ...]:
    """A prefix that runs a command with a small disk at `mount`."""
    return mounted(f'mount -t tmpfs -o size={size} tmpfs "$1"', mount)
