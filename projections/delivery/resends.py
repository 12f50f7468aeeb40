"""What is sent that is not new: failing signals that are due, and what a command asked for.

Invariant: each piece of work that was asked for gets one outcome, and waits in the file until then.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from eventlog import Entry, EventLog
from projections.delivery.ack_tracker import Ledger
from projections.delivery.job import Errand
from projections.delivery.outbox import DISCARD, DISCARDED, GONE, REPLAY, Asked, Outbox

UNDER_WAY_MAX = 1_000  # read from the log and held in memory
SKIP_ENTRIES_MAX = 2_000  # between two that are read on; beyond it a new search is cheaper


class Errands:
    """The errands of one run. `answered` is told the outcome of each that was asked for."""

    def __init__(self, ledger: Ledger, answered: dict[int, str]) -> None:
        self._ledger = ledger
        self._answered = answered
        self._under_way: dict[int, list[int]] = {}  # ids of who asked, by seq
        self._begun_now: dict[int, Errand] = {}  # under way, and not handed out yet
        self._asked_after = 0

    def collect(self, outbox: Outbox, *, with_due: bool) -> dict[int, Errand]:
        """What is to be sent now that is not under way yet.

        Raises sqlite3.Error; what was begun by then is handed out the next time.
        """
        begun = self._begun_now
        if len(self._under_way) < UNDER_WAY_MAX:
            for asked in outbox.asked(after=self._asked_after):
                errand = self._begun(outbox, asked)
                if errand is not None:
                    begun[asked.seq] = errand
                self._asked_after = asked.id
                if len(self._under_way) >= UNDER_WAY_MAX:
                    break
        if with_due:
            room = UNDER_WAY_MAX - len(self._under_way)
            for parked in outbox.due(time.time(), max(0, room)):
                if parked.seq not in self._under_way:
                    self._under_way[parked.seq] = []
                    begun[parked.seq] = Errand.DUE
        self._begun_now = {}
        return begun

    def _begun(self, outbox: Outbox, asked: Asked) -> Errand | None:
        if asked.what == DISCARD:
            is_parked = outbox.discard(asked.seq)
            self._answered[asked.id] = DISCARDED if is_parked else GONE
            return None
        if asked.seq in self._under_way:
            self._under_way[asked.seq].append(asked.id)
            return None
        parked = outbox.parked(asked.seq)
        if asked.what != REPLAY and (parked is None or parked.kind == DISCARDED):
            self._answered[asked.id] = GONE
            return None
        self._under_way[asked.seq] = [asked.id]
        if parked is not None:
            # Also in a replay: twenty that are parked say nothing about those that are not.
            return Errand.RETRY
        # One that is on its way as new is not sent a second time beside that.
        return None if self._ledger.is_under_way(asked.seq) else Errand.REPLAY

    def ended(self, seq: int, outcome: str) -> None:
        """A signal was settled, or there is none: whoever asked for it gets to know."""
        for number in self._under_way.pop(seq, ()):
            self._answered[number] = outcome

    def is_any_asked(self, outbox: Outbox) -> bool:
        """Whether work waits in the file that was not begun. Raises sqlite3.Error."""
        return bool(outbox.asked(after=self._asked_after))


def read_signals(home: Path, seqs: Iterable[int]) -> dict[int, Entry]:
    """The signals among these entries, by seq. Raises EventLogError."""
    wanted = sorted(seqs, reverse=True)
    found: dict[int, Entry] = {}
    with EventLog(home) as log:
        while wanted:
            first = wanted[-1]
            for entry in log.read(after=first - 1):
                while wanted and wanted[-1] < entry.seq:
                    wanted.pop()  # it is not there
                if not wanted or wanted[-1] > entry.seq + SKIP_ENTRIES_MAX:
                    break
                if entry.seq == wanted[-1]:
                    wanted.pop()
                    if entry.event == "signal":
                        found[entry.seq] = entry
            if wanted and wanted[-1] == first:
                wanted.pop()  # the log ends before it
    return found
