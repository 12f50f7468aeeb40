"""Signals that end a command: SIGTERM acts as Ctrl-C, and neither is lost or crashes the process.

Invariant: after SIGTERM or Ctrl-C the command ends, wherever the signal arrives.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

REPEATED_AFTER_S = 0.01
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM})


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM end the command as Ctrl-C does, so that unfinished files are removed.

    Without a handler, process 1 of a container would ignore it. A command with a handler of its own
    replaces this one.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    signal.signal(signal.SIGALRM, _on_sigterm)
    sys.unraisablehook = _interrupt_again


def _on_sigterm(_number: int, frame: FrameType | None) -> None:
    # asyncio cancels its main task on SIGINT; an exception raised here could be lost in a task.
    on_sigint = signal.getsignal(signal.SIGINT)
    if callable(on_sigint):
        on_sigint(signal.SIGINT, frame)
    else:  # in the background of a script SIGINT is ignored
        raise KeyboardInterrupt


def _interrupt_again(unraisable: "UnraisableHookArgs") -> None:
    """Repeats an interrupt that arrived in a destructor, where Python discards exceptions."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        # Later, by SIGALRM: an exception raised here would be discarded too.
        signal.setitimer(signal.ITIMER_REAL, REPEATED_AFTER_S)
    else:
        sys.__unraisablehook__(unraisable)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Delays SIGTERM and Ctrl-C to the end of the block.

    An interrupt within the initialisation of an extension module can crash the interpreter
    (orjson 3.11).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
