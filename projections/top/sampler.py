"""Looks at a home again and again, from outside, beside whatever runs there.

Invariant: it makes and changes nothing, and one look reads a bounded piece of the log, however fast
that grows.
"""

import os
import signal
import time
from collections import deque
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import FrameType

from eventlog import EventLogError
from eventlog.plumbing import log_status, read_entries
from projections.monitoring.status import projections_status
from projections.top.recent_signals import RecentSignals
from projections.top.view import HomeSample

INTERVAL_S = 0.5  # between two looks: as often as a person sees
WORK_SHARE_MAX = 0.1  # of the time may be work: a large home is looked at less often
ENTRIES_MAX = 2_000  # read in one look; a log that grew by more is only read at its end
RATE_S = 5.0  # the rate is that of the last so many seconds
STOP_POLL_S = 0.05  # how long a signal may wait to be seen


class Sampler:
    """Remembers between two looks what the second one need not read again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._recent = RecentSignals()
        self._seq: int | None = None  # the last entry that `_recent` knows; None before the first
        self._history: deque[tuple[float, int]] = deque()  # monotonic seconds, last seq

    def sample(self) -> HomeSample:
        """The figures of this moment. Raises LogNotFound, ForeignHome."""
        log = log_status(os.fspath(self._home), count=False)
        last_seq = log["last_seq"]
        assert isinstance(last_seq, int)
        return HomeSample(
            home=os.fspath(self._home),
            at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            log=log,
            rate=self._rate(time.monotonic(), last_seq),
            projections=projections_status(self._home),
            problem=self._read_up_to(last_seq),
            signals=self._recent.newest(),
        )

    def _rate(self, now_s: float, last_seq: int) -> float | None:
        history = self._history
        history.append((now_s, last_seq))
        while len(history) > 2 and history[1][0] <= now_s - RATE_S:
            history.popleft()
        then_s, then_seq = history[0]
        return max(0, last_seq - then_seq) / (now_s - then_s) if now_s > then_s else None

    def _read_up_to(self, last_seq: int) -> str:
        """Reads what is new; why that did not succeed, or nothing."""
        first = max(0, last_seq - ENTRIES_MAX)
        if self._seq is None or not first <= self._seq <= last_seq:
            # What became of the signals before would not be known: it begins anew.
            self._recent, self._seq = RecentSignals(), first
        after = self._seq
        try:
            entries = list(islice(read_entries(os.fspath(self._home), after=after), ENTRIES_MAX))
        except EventLogError as error:
            return str(error)
        if entries:
            self._recent.apply(entries, after=after)
            self._seq = entries[-1].seq
        return ""


class StopRequest:
    """SIGTERM and Ctrl-C: what is drawn is drawn whole, then it ends. A second one ends it now."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number

    def sleep(self, seconds: float) -> bool:
        """Waits so long; False, at once, when asked to stop."""
        end_s = time.monotonic() + seconds
        while self.number is None and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, STOP_POLL_S))
        return self.number is None


def pause_s(took_s: float, interval_s: float) -> float:
    """How long to rest after a look that took so long."""
    return max(interval_s, took_s / WORK_SHARE_MAX)
