"""What is sent that is not new: failing signals that are due, and what a command asked for.

Invariant: each piece of work that was asked for gets one outcome, and waits in the file until then.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from eventlog import Entry, EventLog
from projections.delivery.ack_tracker import AckTracker
from projections.delivery.job import ResendReason
from projections.delivery.outbox import DISCARD, DISCARDED, GONE, REPLAY, OperatorRequest, Outbox

RESENDS_MAX = 1_000  # read from the log and held in memory
SKIP_ENTRIES_MAX = 2_000  # between two that are read on; beyond it a new search is cheaper


class ResendQueue:
    """The errands of one run. `request_outcomes` is told the outcome of each that was asked for."""

    def __init__(self, ack_tracker: AckTracker, request_outcomes: dict[int, str]) -> None:
        self._ack_tracker = ack_tracker
        self._request_outcomes = request_outcomes
        self._request_ids: dict[int, list[int]] = {}  # ids of who asked, by seq
        self._uncollected: dict[int, ResendReason] = {}  # under way, and not handed out yet
        self._last_request_id = 0

    def collect(self, outbox: Outbox, *, with_due: bool) -> dict[int, ResendReason]:
        """What is to be sent now that is not under way yet.

        Raises sqlite3.Error; what was begun by then is handed out the next time.
        """
        collected = self._uncollected
        if len(self._request_ids) < RESENDS_MAX:
            for asked in outbox.asked(after=self._last_request_id):
                resend = self._begin(outbox, asked)
                if resend is not None:
                    collected[asked.seq] = resend
                self._last_request_id = asked.id
                if len(self._request_ids) >= RESENDS_MAX:
                    break
        if with_due:
            room = RESENDS_MAX - len(self._request_ids)
            for parked in outbox.due(time.time(), max(0, room)):
                if parked.seq not in self._request_ids:
                    self._request_ids[parked.seq] = []
                    collected[parked.seq] = ResendReason.DUE
        self._uncollected = {}
        return collected

    def _begin(self, outbox: Outbox, asked: OperatorRequest) -> ResendReason | None:
        if asked.what == DISCARD:
            is_parked = outbox.discard(asked.seq)
            self._request_outcomes[asked.id] = DISCARDED if is_parked else GONE
            return None
        if asked.seq in self._request_ids:
            self._request_ids[asked.seq].append(asked.id)
            return None
        parked = outbox.parked(asked.seq)
        if asked.what != REPLAY and (parked is None or parked.kind == DISCARDED):
            self._request_outcomes[asked.id] = GONE
            return None
        self._request_ids[asked.seq] = [asked.id]
        if parked is not None:
            # Also in a replay: twenty that are parked say nothing about those that are not.
            return ResendReason.RETRY
        # One that is on its way as new is not sent a second time beside that.
        return None if self._ack_tracker.is_in_flight(asked.seq) else ResendReason.REPLAY

    def complete(self, seq: int, outcome: str) -> None:
        """A signal was settled, or there is none: whoever asked for it gets to know."""
        for request_id in self._request_ids.pop(seq, ()):
            self._request_outcomes[request_id] = outcome

    def has_open_requests(self, outbox: Outbox) -> bool:
        """Whether work waits in the file that was not begun. Raises sqlite3.Error."""
        return bool(outbox.asked(after=self._last_request_id))


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
