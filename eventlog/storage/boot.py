"""The boot id: which boot of the machine this is, and so which page cache.

Invariant: two boots never have the same one.
"""

import logging
import sys
from functools import cache

logger = logging.getLogger(__name__)


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
