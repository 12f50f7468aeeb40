"""An iterator whose work is done in a second process, beside the one that takes what it gives.

What it gives crosses a pipe by marshal, in order. Where the process cannot be forked safely, since
it has more than one thread, the work is done in it, item by item.

Invariant: the second process is gone when `prefetch` is left, however that happens.
"""

import fcntl
import gc
import marshal
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from eventlog.plumbing import can_fork
from projections.errors import ProjectionError

PIPE_BYTES = 1024 * 1024  # holds some items, so that neither side waits for the other's every step
_LENGTH_BYTES = 8
_ITEM, _ERROR, _END = b"i", b"e", b"."

Item = tuple[object, ...]


@contextmanager
def prefetch(produce: Callable[[], Iterator[Item]]) -> Iterator[Iterator[Item]]:
    """Gives what `make()` gives, computed beside the caller, as tuples. It raises the same."""
    reading, writing = os.pipe()
    with suppress(OSError):  # a limit of this system: the pipe is smaller then
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pid = _fork()
    if pid == 0:
        os.close(reading)
        _run_child(produce, writing)
    os.close(writing)
    try:
        if pid is None:
            os.close(reading)
            yield produce()
        else:
            with open(reading, "rb", buffering=PIPE_BYTES) as pipe:
                yield _items(pipe.read)
    finally:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _fork() -> int | None:
    """As os.fork gives it; None where there can be no second process."""
    if not can_fork():
        return None
    try:
        return os.fork()
    except OSError:  # this system has none to give
        return None


def _items(read: Callable[[int], bytes]) -> Iterator[Item]:
    while (kind := read(1)) == _ITEM:
        yield marshal.loads(_read_payload(read))
    if kind == _ERROR:
        raise pickle.loads(_read_payload(read))
    if kind != _END:
        raise _child_killed_error()


def _read_payload(read: Callable[[int], bytes]) -> bytes:
    length = int.from_bytes(read(_LENGTH_BYTES), "little")
    data = read(length)
    if len(data) != length:
        raise _child_killed_error()
    return data


def _child_killed_error() -> ProjectionError:
    return ProjectionError(
        "the process that reads the log was killed",
        do="run it again; where memory is short, the system's log tells of it",
    )


def _run_child(produce: Callable[[], Iterator[Item]], writing: int) -> NoReturn:
    """The second process's whole life. It must not come back into what its parent was doing."""
    try:
        # Ctrl-C goes to both, and the parent ends this one: it must not tell of it a second time.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()  # a fifth of the time, for nothing: there are no cycles
        try:
            for item in produce():
                # A named tuple must become a plain one; of what else there is, marshal decides.
                _send(writing, _ITEM, marshal.dumps(tuple(item)))  # type: ignore[arg-type]
            _send(writing, _END, b"")
        except BrokenPipeError:
            pass  # nobody wants the rest
        except Exception as error:  # noqa: BLE001  # it is raised in the parent
            _send(writing, _ERROR, pickle.dumps(error))
    finally:
        os._exit(0)


def _send(fd: int, kind: bytes, data: bytes) -> None:
    view = memoryview(kind + len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    while view:
        view = view[os.write(fd, view) :]
