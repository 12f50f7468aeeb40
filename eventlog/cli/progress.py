"""A progress bar on a terminal: how much is done, how fast, and how long the rest takes.

Invariant: where stderr is no terminal, nothing is written.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

WIDTH = 30  # characters of the bar; label, figures and bar fit into 80 columns
INTERVAL_S = 0.1  # between two drawings: faster is not seen, and costs
_MIB = 1024 * 1024


class Progress:
    """`with Progress("verifying") as progress:` and then `progress(done, total)`, in bytes."""

    def __init__(
        self,
        label: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        is_shown: bool | None = None,
    ) -> None:
        self._label = label
        self._clock = clock
        self._is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._started_s = clock()
        self._drawn_s = float("-inf")
        self._chars = 0  # in the line that was drawn last

    def __call__(self, done: int, total: int) -> None:
        """Draws the bar anew, unless it was drawn a moment ago."""
        now_s = self._clock()
        if not self._is_shown or (now_s - self._drawn_s < INTERVAL_S and done < total):
            return
        self._drawn_s = now_s
        line = self._line(done, total, now_s - self._started_s)
        self._write(f"\r{line:<{self._chars}}")
        self._chars = len(line)

    def _line(self, done: int, total: int, took_s: float) -> str:
        part = min(1.0, done / total) if total else 1.0
        filled = int(part * WIDTH)
        line = f"{self._label} [{'#' * filled}{'.' * (WIDTH - filled)}] {int(100 * part):3}%"
        if done and took_s > 0:
            left_s = max(0, total - done) * took_s / done
            line += f" {done / _MIB / took_s:.0f} MiB/s, {_minutes(left_s)} left"
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._chars:
            self._write("\n")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone: the work goes on
            sys.stderr.write(text)
            sys.stderr.flush()


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
