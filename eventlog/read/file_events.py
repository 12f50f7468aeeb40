"""File events of one directory: inotify, and a look at file times for systems without it.

Invariant: after `arm`, a change since the last `take` calls the function that was given to it.
"""

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Protocol

from eventlog.storage.home import Home

# From <sys/inotify.h>. Opening and closing are left out: reading the log would wake its reader.
IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
IN_IGNORED, IN_ONLYDIR = 0x8000, 0x1000000
_CHANGES = IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
READ_BYTES = 65_536  # of one read; what is left wakes the loop again

LOOK_S = 0.02  # between two looks at the file times, where there is no inotify


class FileEvents(Protocol):
    """The file events of one directory, for one event loop."""

    def arm(self, on_change: Callable[[], object]) -> None:
        """Calls `on_change` at the next change, in the running loop. Does nothing if it waits."""

    def disarm(self) -> None:
        """Waits for no change."""

    def take(self) -> bool:
        """Takes the changes so far; False if no more will come, since the directory is gone."""

    def close(self) -> None:
        """Ends the watch."""


def open_file_events(log_dir: str) -> FileEvents:
    """Watches a log directory. Raises OSError, also where no inotify instance or watch is left."""
    return Inotify(log_dir) if hasattr(_libc(), "inotify_init1") else FileTimes(log_dir)


class Inotify:
    """The events of the kernel, through a descriptor that the event loop waits for.

    So nothing wakes until something changes. A library that asks a queue of its own for events
    would have to wake some 50 times a second for the same delay.
    """

    def __init__(self, directory: str) -> None:
        libc = _libc()
        self._loop: asyncio.AbstractEventLoop | None = None  # that waits for a change
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _os_error(directory)
        if libc.inotify_add_watch(self._fd, os.fsencode(directory), _CHANGES) < 0:
            error = _os_error(directory)
            os.close(self._fd)
            raise error

    def arm(self, on_change: Callable[[], object]) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, on_change)

    def disarm(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._loop = None

    def take(self) -> bool:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return True
        at = 0
        while at < len(data):
            _, mask, _, name_bytes = _EVENT.unpack_from(data, at)
            if mask & IN_IGNORED:
                return False
            at += _EVENT.size + name_bytes
        return True

    def close(self) -> None:
        self.disarm()
        os.close(self._fd)


class FileTimes:
    """Looks at the time of the lock record, which each append changes, and of the directory."""

    def __init__(self, log_dir: str) -> None:
        self._paths = (log_dir, Home(os.path.dirname(log_dir)).lock_path)
        self._timer: asyncio.TimerHandle | None = None
        self._taken = self._look()

    def arm(self, on_change: Callable[[], object]) -> None:
        if self._timer is None:
            self._wait(asyncio.get_running_loop(), on_change)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def take(self) -> bool:
        self._taken = self._look()
        return self._taken[0] is not None

    def close(self) -> None:
        self.disarm()

    def _wait(self, loop: asyncio.AbstractEventLoop, on_change: Callable[[], object]) -> None:
        def look() -> None:
            if self._look() != self._taken:
                on_change()
            else:
                self._wait(loop, on_change)

        self._timer = loop.call_later(LOOK_S, look)

    def _look(self) -> tuple[int | None, ...]:
        return tuple(map(_changed_ns, self._paths))


def _changed_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _os_error(directory: str) -> OSError:
    code = ctypes.get_errno()
    # The text of ENOSPC would be that of a full disk.
    text = "no inotify watch is left" if code == errno.ENOSPC else os.strerror(code)
    return OSError(code, text, directory)
