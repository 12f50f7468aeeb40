"""Simulated processes: threads that make one disk call at a time, under a scheduler.

Invariant: at any moment only one of them, or the scheduler, runs; so a seed determines the run.
"""

import threading
from collections.abc import Callable

from tools.crash.simulated_disk import Fault


class Killed(BaseException):
    """SIGKILL: the process changes nothing on the disk after it."""


class Actor:
    """One process. Between two turns it waits before its next call."""

    def __init__(self, number: int, work: Callable[["Actor"], None]) -> None:
        self.number = number
        self.call = "start"  # the call that comes next
        self.is_done = False
        self.error: Exception | None = None  # an error that ended it
        self._work = work
        self._fault: Fault | None = None
        self._is_killed = False
        self._go = threading.Lock()
        self._go.acquire()
        self._done = threading.Lock()
        self._done.acquire()
        self._thread = threading.Thread(target=self._run, name=f"process {number}", daemon=True)
        self._thread.start()

    def step(self, call: str) -> Fault | None:
        """Waits for a turn; the disk calls this before each call. Raises Killed."""
        if self._is_killed:
            raise Killed
        self.call = call
        self._done.release()
        self._go.acquire()
        if self._is_killed:
            raise Killed
        fault, self._fault = self._fault, None
        return fault

    def advance(self, fault: Fault | None = None) -> None:
        """Lets the process make its next call, with `fault`, and run up to the call after that."""
        self._fault = fault
        self._go.release()
        self._done.acquire()

    def kill(self) -> None:
        """Ends the process before its next call. The caller has the world close its descriptors."""
        if not self.is_done:
            self._is_killed = True
            self.advance()
        self._thread.join()

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._is_killed:
                self._work(self)
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - the scheduler decides whether the error is legal
            self.error = error
        finally:
            self.is_done = True
            self._done.release()
