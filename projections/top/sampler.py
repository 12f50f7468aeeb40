"""Samples the state of a home repeatedly, from its files, for the live view.

Invariant: it creates and changes nothing, and one sample reads at most ENTRIES_MAX entries, however
fast the log grows.
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
from projections.monitoring.evidence_status import evidence_status
from projections.monitoring.status import projections_status
from projections.top.keys import Keys
from projections.top.recent_signals import RecentSignals
from projections.top.view import HomeSample

INTERVAL_S = 0.5  # between two samples; a person does not need more
WORK_SHARE_MAX = 0.1  # of the time is spent on sampling: a large home is sampled less often
ENTRIES_MAX = 2_000  # read per sample; of a log that grew by more, only the end is read
RATE_S = 5.0  # the append rate is averaged over this time
STOP_POLL_S = 0.05  # the longest delay until a stop signal is noticed


class Sampler:
    """Takes samples of a home; each reads only the entries appended since the last one."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._recent = RecentSignals()
        self._seq: int | None = None  # the last entry applied to `_recent`; None at first
        self._history: deque[tuple[float, int]] = deque()  # monotonic seconds, last seq

    def sample(self) -> HomeSample:
        """Takes a sample now. Raises LogNotFound, ForeignHome."""
        log = log_status(os.fspath(self._home), count=False)
        last_seq = log["last_seq"]
        assert isinstance(last_seq, int)
        return HomeSample(
            home=os.fspath(self._home.absolute()),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            log=log,
            rate=self._rate(time.monotonic(), last_seq),
            projections=projections_status(self._home),
            problem=self._read_up_to(last_seq),
            signals=self._recent.newest(),
            evidence=evidence_status(self._home),
        )

    def _rate(self, now_s: float, last_seq: int) -> float | None:
        history = self._history
        history.append((now_s, last_seq))
        while len(history) > 2 and history[1][0] <= now_s - RATE_S:
            history.popleft()
        then_s, then_seq = history[0]
        return max(0, last_seq - then_seq) / (now_s - then_s) if now_s > then_s else None

    def _read_up_to(self, last_seq: int) -> str:
        """Reads the new entries. Returns why that failed, or an empty text."""
        first = max(0, last_seq - ENTRIES_MAX)
        if self._seq is None or not first <= self._seq <= last_seq:
            # Entries are skipped, so the outcomes of the known signals may be out of date: discard.
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


class _Stopped(KeyboardInterrupt):
    """A stop signal arrived while a sample was taken."""


class StopRequest:
    """Records SIGTERM, Ctrl-C and their like, so that drawing is finished first.

    A second one interrupts.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._is_sampling = False
        self._is_quit = False  # by a key
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._is_sampling:
            raise _Stopped

    def sample(self, sampler: Sampler) -> HomeSample | None:
        """Takes a sample; None as soon as a stop is requested: a slow disk does not delay it."""
        try:
            self._is_sampling = self.number is None
            sample = sampler.sample() if self._is_sampling else None
            self._is_sampling = False
        except _Stopped:
            return None
        finally:
            self._is_sampling = False
        return sample

    def sleep(self, seconds: float, keys: Keys | None = None) -> bool:
        """Sleeps and returns True, or returns False as soon as a stop is requested."""
        keys = keys or Keys(are_readable=False)
        end_s = time.monotonic() + seconds
        while not self._is_requested and (left_s := end_s - time.monotonic()) > 0:
            self._is_quit = keys.quit_within(min(left_s, STOP_POLL_S))
        return not self._is_requested

    @property
    def _is_requested(self) -> bool:
        return self.number is not None or self._is_quit


def pause_s(took_s: float, interval_s: float) -> float:
    """The pause after a sample that took `took_s`."""
    return max(interval_s, took_s / WORK_SHARE_MAX)
