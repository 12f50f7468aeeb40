"""A small disk, mounted for one command and seen by it alone.

Invariant: where it cannot be mounted the test is skipped, and says what it takes.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size=$0 tmpfs "$1" && shift && exec "$@"'


def on_small_disk(size: str, mount: Path) -> tuple[object, ...]:
    """A prefix that runs a command with a small disk at `mount`, seen by it alone."""
    unshare = shutil.which("unshare")
    probe = (unshare, "-m", "sh", "-c", _MOUNT, "16k", mount, "true")
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode:  # type: ignore[arg-type]
        pytest.skip("mounting a tmpfs takes root and a kernel that allows it: sudo tools/test")
    return (unshare, "-m", "sh", "-c", _MOUNT, size, mount)
