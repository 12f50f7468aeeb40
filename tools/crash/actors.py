"""Simulated processes: threads that run one call of their disk at a time, when they are told to.

Invariant: at any moment at most one of them, or the scheduler, runs; so a seed fixes everything.
"""

import threading
from collections.abc import Callable

from tools.crash.simulated_disk import Fault


class Killed(BaseException):
    """SIGKILL: no line of the process runs after it that could change the disk."""


class Actor:
    """One process. Between two turns it stands before its next call."""

    def __init__(self, number: int, work: Callable[["Actor"], None]) -> None:
        self.number = number
        self.call = "start"  # what it is about to do
        self.is_done = False
        self.error: Exception | None = None  # how it ended, where it should not have
        self._work = work
        self._fault: Fault | None = None
        self._is_killed = False
        self._its_turn = threading.Lock()
        self._its_turn.acquire()
        self._our_turn = threading.Lock()
        self._our_turn.acquire()
        self._thread = threading.Thread(target=self._run, name=f"process {number}", daemon=True)
        self._thread.start()

    def step(self, call: str) -> Fault | None:
        """Called by its disk before each call: waits for a turn. Raises Killed."""
        if self._is_killed:
            raise Killed
        self.call = call
        self._our_turn.release()
        self._its_turn.acquire()
        if self._is_killed:
            raise Killed
        fault, self._fault = self._fault, None
        return fault

    def advance(self, fault: Fault | None = None) -> None:
        """Lets it do its next call, which suffers `fault`, and all up to the one after that."""
        self._fault = fault
        self._its_turn.release()
        self._our_turn.acquire()

    def kill(self) -> None:
        """Ends it before its next call. Its descriptors are for the world to close."""
        if not self.is_done:
            self._is_killed = True
            self.advance()
        self._thread.join()

    def _run(self) -> None:
        self._its_turn.acquire()
        try:
            if not self._is_killed:
                self._work(self)
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - the scheduler tells what is legal
            self.error = error
        finally:
            self.is_done = True
            self._our_turn.release()
