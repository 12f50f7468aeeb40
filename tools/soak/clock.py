"""Another clock for a process, by libfaketime; the machine's is never set.

The library is preloaded here, not started through its command: that refuses to run beside what a
killed process of the same pid has left in /dev/shm, the library does not.

Invariant: what a process that was killed leaves in /dev/shm is removed.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

# Ten years, a day, an hour back; right; somewhat ahead (a clock that is far ahead makes all that
# follows carry its time, for recorded_at never decreases, and hides the others).
OFFSETS_S = (-315_360_000, -86_400, -3600, 0, 1, 20, 60, 300)
LIBRARIES = ("lib/*/faketime/libfaketime.so.1", "lib*/faketime/libfaketime.so.1")
LEFT_BEHIND = ("sem.faketime_sem_{pid}", "faketime_shm_{pid}")


def shifted(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off by `offset`, as `+2d` or `-10y` or `+20`.

    FileNotFoundError where libfaketime is not installed.
    """
    for pattern in LIBRARIES:
        for library in Path("/usr").glob(pattern):
            return {"LD_PRELOAD": str(library), "FAKETIME": offset, "NO_FAKE_STAT": "1"}
    raise FileNotFoundError("libfaketime is not installed: sudo apt-get install faketime")


def tidy(pid: int) -> None:
    """Removes what libfaketime kept for a process that has ended without its leave."""
    for name in LEFT_BEHIND:
        Path("/dev/shm", name.format(pid=pid)).unlink(missing_ok=True)


class Clock:
    """The clock of a generator: another one in each life.

    Within a life it is steady: libfaketime would move the clock that never goes back with it.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self.steps = 0

    def env(self) -> dict[str, str]:
        """For the next life."""
        self.steps += 1
        return shifted(f"{self._random.choice(OFFSETS_S):+d}")
