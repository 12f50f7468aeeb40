"""Requests in the queue of a group commit, and how their threads wait.

Invariant: a thread that has stopped waiting holds no lock.
"""

import threading
from collections.abc import Callable

from eventlog.append.batch import AppendRequest
from eventlog.errors import AppendTimeout

Notify = Callable[[list["QueuedRequest"]], object]


class QueuedRequest:
    """One request in the queue.

    After each commit the leader calls `notify` once, with all settled requests that share it.
    """

    __slots__ = ("notify", "request")

    request: AppendRequest
    notify: Notify


class Gate:
    """The place where threads wait whose requests the same commit takes.

    Opened once: when they are settled, or for one of them to lead. A thread that passes holds
    `lock` for a moment, so they pass one after the other.
    """

    __slots__ = ("is_open", "lock", "notify", "waiting")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.waiting = 0  # threads that are still to pass
        self.is_open = False
        self.notify = self.open  # bound once: a commit groups its callers by this object

    def open(self, _settled: object = None) -> None:
        """Lets the threads pass. A second call does nothing."""
        if not self.is_open:
            self.is_open = True
            self.lock.release()


class GateRequest(QueuedRequest):
    """The request of a thread that waits at a gate."""

    __slots__ = ()

    def __init__(self, request: AppendRequest, gate: Gate) -> None:
        self.request = request
        self.notify = gate.notify


class TimedRequest(QueuedRequest):
    """The request of a thread with a timeout, which waits until `lock` is released."""

    __slots__ = ("lock",)

    def __init__(self, request: AppendRequest) -> None:
        self.request = request
        self.notify = _release_threads
        self.lock = threading.Lock()
        self.lock.acquire()

    def wait(self, timeout_s: float) -> None:
        """Returns when the request is settled. Raises AppendTimeout."""
        if not self.lock.acquire(timeout=min(max(0.0, timeout_s), threading.TIMEOUT_MAX)):
            raise AppendTimeout(
                f"the append did not return within {timeout_s:g} s: its outcome is unknown",
                do="retry with the same signal_id: an entry is never written twice",
            )


def _release_threads(settled: list[QueuedRequest]) -> None:
    for queued in settled:
        assert isinstance(queued, TimedRequest), "only they have this `notify`"
        if queued.lock.locked():  # else it was notified before an interrupt
            queued.lock.release()
