"""`append --wait replicated`: holds each receipt back until its entry is replicated.

Invariant: a receipt is shown only for an entry that a quorum of the stream's servers has synced.
"""

from bisect import bisect_left
from collections.abc import Callable

from eventlog.append.batch import Receipt
from eventlog.cli.append.pipe import Result, StopSignal
from eventlog.cli.streams import print_problem
from eventlog.errors import EventLogError, NotReplicated, WaitTimeout
from eventlog.replica.replicated import (
    is_replicated,
    replication_obstacles,
    require_replicas,
    wait_replicated,
)


class ReplicatedReceipts:
    """Waits for the results of one commit at a time, each time for `timeout_s` at most.

    Raises NotReplicated where the stream has too few replicas, before anything is written.
    """

    def __init__(
        self,
        home: str,
        timeout_s: float | None,
        stop: StopSignal,
        note: Callable[[str], object],
    ) -> None:
        require_replicas(home)
        self._home = home
        self._timeout_s = timeout_s
        self._stop = stop
        self._note = note
        self._noted: list[str] = []  # the obstacles, so that each is reported once

    def hold_back(self, results: list[Result]) -> list[Result]:
        """The results once all are replicated; where some are not in time, errors in their place.

        A signal that asks to stop ends the wait too.
        """
        seqs = sorted(result.seq for result in results if isinstance(result, Receipt))
        if not seqs:
            return results
        try:
            if not is_replicated(self._home, seqs[-1]):
                self._note_obstacles(seqs[-1])
            if wait_replicated(self._home, seqs[-1], self._timeout_s, is_stopped=self._is_stopped):
                self._noted = []
                return results
            error: EventLogError = WaitTimeout(
                f"entry {seqs[-1]} was not replicated before the signal to stop", where=self._home
            )
        except (WaitTimeout, NotReplicated) as found:
            error = found
            print_problem(str(error))
        replicated = 0
        if isinstance(error, WaitTimeout):
            replicated = bisect_left(seqs, True, key=lambda seq: not is_replicated(self._home, seq))
        return [self._settled(result, set(seqs[:replicated]), error) for result in results]

    def _note_obstacles(self, seq: int) -> None:
        found = replication_obstacles(self._home, seq)
        for obstacle in found:
            if obstacle not in self._noted:
                self._note(f"waiting: {obstacle}")
        self._noted = found

    def _is_stopped(self) -> bool:
        return self._stop.signal is not None

    def _settled(self, result: Result, replicated: set[int], error: EventLogError) -> Result:
        if not isinstance(result, Receipt) or result.seq in replicated:
            return result
        return type(error)(
            f"entry {result.seq} is durable and not replicated yet",
            do="append the line again with the same signal_id to wait for it again",
        )
