"""Prefetch: runs an iterator in a second process and passes its items through a pipe.

Items are encoded by marshal and keep their order. A process with more than one thread cannot be
forked safely, so there the iterator runs in this process, item by item.

Invariant: the second process is gone when `prefetch` is left, however that happens.
"""

import fcntl
import gc
import marshal
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from eventlog.plumbing import can_fork, end_process, fork_process
from projections.errors import ProjectionError

PIPE_BYTES = 1024 * 1024  # holds some items, so that neither side waits for the other's every step
_LENGTH_BYTES = 8
_ITEM, _ERROR, _END = b"i", b"e", b"."

Item = tuple[object, ...]


@contextmanager
def prefetch(produce: Callable[[], Iterator[Item]]) -> Iterator[Iterator[Item]]:
    """Iterates over the items of `produce()`, as tuples, and raises the errors that it raises."""
    process = fork_process(lambda fd: _send_all(produce, fd)) if can_fork() else None
    if process is None:
        yield produce()
        return
    with suppress(OSError):  # a limit of this system: the pipe is smaller then
        fcntl.fcntl(process.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        with open(process.fd, "rb", buffering=PIPE_BYTES, closefd=False) as pipe:
            yield _items(pipe.read)
    finally:
        end_process(process, kill=True)


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
        do="run it again; if memory was short, the system's log says so",
    )


def _send_all(produce: Callable[[], Iterator[Item]], writing: int) -> None:
    """Sends the items of `produce()`, and the error that it raises."""
    gc.disable()  # a fifth of the time, for nothing: there are no cycles
    try:
        for item in produce():
            # A named tuple must become a plain one; marshal decides about all other types.
            _send(writing, _ITEM, marshal.dumps(tuple(item)))  # type: ignore[arg-type]
        _send(writing, _END, b"")
    except BrokenPipeError:
        pass  # the reader has closed the pipe
    except Exception as error:  # noqa: BLE001  # it is raised in the parent
        _send(writing, _ERROR, pickle.dumps(error))


def _send(fd: int, kind: bytes, data: bytes) -> None:
    view = memoryview(kind + len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    while view:
        view = view[os.write(fd, view) :]
