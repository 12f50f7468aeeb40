"""Signals to resend: parked retries that are due, and operator requests.

Invariant: each operator request gets one outcome, and stays in the outbox until then.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from eventlog import Entry, EventLog
from projections.delivery.ack_tracker import AckTracker
from projections.delivery.job import ResendReason
from projections.delivery.outbox import DISCARD, DISCARDED, GONE, REPLAY, Outbox
from projections.delivery.outbox_rows import OperatorRequest

RESENDS_MAX = 1_000  # held in memory at once
SKIP_ENTRIES_MAX = 2_000  # read over between two signals; beyond it a new seek is cheaper


class ResendQueue:
    """The resends of one run. Outcomes of requests go into `request_outcomes`, by request id."""

    def __init__(self, ack_tracker: AckTracker, request_outcomes: dict[int, str]) -> None:
        self._ack_tracker = ack_tracker
        self._request_outcomes = request_outcomes
        self._request_ids: dict[int, list[int]] = {}  # of the requests for each seq
        self._uncollected: dict[int, ResendReason] = {}  # begun, but not returned yet
        self._last_request_id = 0

    def collect(self, outbox: Outbox, *, with_due: bool) -> dict[int, ResendReason]:
        """The signals to resend now that were not collected before. `with_due`: due retries too.

        Raises sqlite3.Error; what was begun by then is returned the next time.
        """
        collected = self._uncollected
        if len(self._request_ids) < RESENDS_MAX:
            for request in outbox.open_requests(after=self._last_request_id):
                resend = self._begin(outbox, request)
                if resend is not None:
                    collected[request.seq] = resend
                self._last_request_id = request.id
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

    def _begin(self, outbox: Outbox, request: OperatorRequest) -> ResendReason | None:
        if request.what == DISCARD:
            is_parked = outbox.discard(request.seq)
            self._request_outcomes[request.id] = DISCARDED if is_parked else GONE
            return None
        if request.seq in self._request_ids:
            self._request_ids[request.seq].append(request.id)
            return None
        parked = outbox.parked(request.seq)
        if request.what != REPLAY and (parked is None or parked.kind == DISCARDED):
            self._request_outcomes[request.id] = GONE
            return None
        self._request_ids[request.seq] = [request.id]
        if parked is not None:
            # In a replay too: rejections of parked signals say nothing about the others.
            return ResendReason.RETRY
        # A signal that is in flight as new is not sent a second time.
        return None if self._ack_tracker.is_in_flight(request.seq) else ResendReason.REPLAY

    def complete(self, seq: int, outcome: str) -> None:
        """Notes the outcome of all requests for a signal, also if the log has no such signal."""
        for request_id in self._request_ids.pop(seq, ()):
            self._request_outcomes[request_id] = outcome

    def has_open_requests(self, outbox: Outbox) -> bool:
        """Whether the outbox holds requests that were not begun. Raises sqlite3.Error."""
        return bool(outbox.open_requests(after=self._last_request_id))


def read_signals(home: Path, seqs: Iterable[int]) -> dict[int, Entry]:
    """The signals among these entries, by seq. Raises EventLogError."""
    wanted = sorted(seqs, reverse=True)
    found: dict[int, Entry] = {}
    with EventLog(home) as log:
        while wanted:
            first = wanted[-1]
            for entry in log.read(after=first - 1):
                while wanted and wanted[-1] < entry.seq:
                    wanted.pop()  # the log has no such entry
                if not wanted or wanted[-1] > entry.seq + SKIP_ENTRIES_MAX:
                    break
                if entry.seq == wanted[-1]:
                    wanted.pop()
                    if entry.event == "signal":
                        found[entry.seq] = entry
            if wanted and wanted[-1] == first:
                wanted.pop()  # the log ends before it
    return found
