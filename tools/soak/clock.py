"""Gives a process another clock, by libfaketime; the clock of the machine is not changed.

The library is preloaded. The command `faketime` is not used: it refuses to run if a killed process
of the same pid has left files in /dev/shm.

Invariant: the files that a killed process leaves in /dev/shm are removed.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

# Ten years, a day, an hour back; right; up to five minutes ahead. A clock that is far ahead would
# hide the others: recorded_at never decreases, so all later entries would carry its time.
OFFSETS_S = (-315_360_000, -86_400, -3600, 0, 1, 20, 60, 300)
LIBRARIES = ("lib/*/faketime/libfaketime.so.1", "lib*/faketime/libfaketime.so.1")
LEFT_BEHIND = ("sem.faketime_sem_{pid}", "faketime_shm_{pid}")


def shifted(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off by `offset`: `+2d`, `-10y`, `+20`.

    Raises FileNotFoundError if libfaketime is not installed.
    """
    for pattern in LIBRARIES:
        for library in Path("/usr").glob(pattern):
            return {"LD_PRELOAD": str(library), "FAKETIME": offset, "NO_FAKE_STAT": "1"}
    raise FileNotFoundError("libfaketime is not installed: sudo apt-get install faketime")


def remove_shared_memory(pid: int) -> None:
    """Removes the files that libfaketime kept for a process that was killed."""
    for name in LEFT_BEHIND:
        Path("/dev/shm", name.format(pid=pid)).unlink(missing_ok=True)


class Clock:
    """The clock of a generator, with another offset for each process.

    The offset of one process is constant: libfaketime would change its monotonic clock too.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.steps = 0

    def env(self) -> dict[str, str]:
        """The environment of the next process."""
        self.steps += 1
        return shifted(f"{self._random.choice(OFFSETS_S):+d}")
