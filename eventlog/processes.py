"""One job, many tasks, all cores: forked processes beside this one take tasks from a shared pipe.

A pipe of task numbers is all the coordination: each process reads the next one when it is free, so
nobody waits for orders. Answers come back over one pipe for each process, whose end also tells
that the process died: what it did not answer is left out, and the caller must do without.

Forking costs 2 ms where a fresh interpreter with our imports costs 50, but it is safe only in a
process of one thread: a lock that another thread holds would stay locked in the child for ever.
A process of more threads does all tasks itself; it has other work for its cores anyway.

Invariant: no worker outlives `run`, and none writes to the terminal.
"""

import logging
import os
import pickle
import select
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, NoReturn, TypeVar

logger = logging.getLogger(__name__)

TASKS_MAX = 1000  # their numbers fit into a pipe of one page, the smallest that Linux makes
PROCESSES_MAX = 64  # beyond it memory is what they would wait for
_NUMBER_BYTES = 4
_READ_BYTES = 65_536
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_fork() -> bool:
    """Whether this process has one thread only, counting those that Python knows nothing of."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def run(
    tasks: int,
    function: Callable[[int], T],
    on_result: Callable[[int, T], object],
    *,
    processes: int,
) -> None:
    """Does `function` for each number below `tasks`, and gives each answer to `on_result`, here.

    Answers come in no order. Those of a worker that dies, also of what `function` raises there, do not
    come; what it raises here is raised. `tasks` is at most TASKS_MAX where processes > 1.
    """
    if min(processes, tasks) <= 1 or not can_fork():
        for number in range(tasks):
            on_result(number, function(number))
        return
    assert tasks <= TASKS_MAX, "their numbers would not fit into the pipe"
    task_pipe = _task_pipe(tasks)
    pool = _WorkerPool(function, on_result)
    try:
        for _ in range(min(processes, tasks, PROCESSES_MAX) - 1):
            pool.start(task_pipe)
        while (own_task := _next_task(task_pipe)) is not None:
            on_result(own_task, function(own_task))
            pool.collect(wait=False)
        while pool.has_workers:
            pool.collect(wait=True)
    finally:
        os.close(task_pipe)
        pool.end()


def _task_pipe(count: int) -> int:
    """A pipe from which each read of _NUMBER_BYTES takes the next number, whoever reads."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(n.to_bytes(_NUMBER_BYTES, "little") for n in range(count)))
    os.close(writing)
    return reading


def _next_task(task_pipe: int) -> int | None:
    data = os.read(task_pipe, _NUMBER_BYTES)
    return int.from_bytes(data, "little") if data else None


class _WorkerProcess:
    """A forked process, and the bytes of an answer that is still to become whole."""

    __slots__ = ("data", "fd", "pid")

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd
        self.data = b""


class _WorkerPool(Generic[T]):
    """The forked processes."""

    def __init__(self, function: Callable[[int], T], on_result: Callable[[int, T], object]) -> None:
        self._function = function
        self._on_result = on_result
        self._workers: dict[
            int, _WorkerProcess
        ] = {}  # by the descriptor that their answers come from
        self._poll = select.poll()

    @property
    def has_workers(self) -> bool:
        """Whether answers may still come."""
        return bool(self._workers)

    def start(self, task_pipe: int) -> None:
        """Forks one more; where the system gives no more, fewer must do."""
        reading, writing = os.pipe()
        parent = os.getpid()
        # A Ctrl-C in the child before it has let go of our handlers would run them a second time.
        previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._work(task_pipe, writing, parent, previous_mask)
            self._workers[reading] = _WorkerProcess(pid, reading)
            self._poll.register(reading, select.POLLIN)
        except OSError as error:
            logger.warning("worker_not_started error=%s", error)
            os.close(reading)
        finally:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)

    def collect(self, *, wait: bool) -> None:
        """Hands on the answers that have come; with `wait`, something must come first."""
        for fd, _ in self._poll.poll(None if wait else 0):
            worker = self._workers[fd]
            data = os.read(fd, _READ_BYTES)
            if not data:
                self._reap(worker)
                continue
            worker.data += data
            while len(worker.data) >= _NUMBER_BYTES:
                size = int.from_bytes(worker.data[:_NUMBER_BYTES], "little")
                result = worker.data[_NUMBER_BYTES : _NUMBER_BYTES + size]
                if len(result) < size:
                    break
                worker.data = worker.data[_NUMBER_BYTES + size :]
                self._on_result(*pickle.loads(result))

    def end(self) -> None:
        """Stops those that still work."""
        for worker in list(self._workers.values()):
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            self._reap(worker, was_killed=True)

    def _reap(self, worker: _WorkerProcess, *, was_killed: bool = False) -> None:
        del self._workers[worker.fd]
        self._poll.unregister(worker.fd)
        os.close(worker.fd)
        try:
            _, status = os.waitpid(worker.pid, 0)
        except ChildProcessError:
            return  # the program itself waits for all of its children
        if status and not was_killed:
            code = os.waitstatus_to_exitcode(status)
            logger.warning("worker_died pid=%d exit_code=%d", worker.pid, code)

    def _work(
        self, task_pipe: int, writing: int, parent: int, previous_mask: Iterable[int]
    ) -> NoReturn:
        """A worker's whole life. It must not come back into what its parent was doing."""
        code = 1
        try:
            # Ctrl-C goes to all of us: the parent answers for it, this one ends in silence.
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
            while os.getppid() == parent and (task := _next_task(task_pipe)) is not None:
                result = pickle.dumps((task, self._function(task)))
                data = len(result).to_bytes(_NUMBER_BYTES, "little") + result
                while data:
                    data = data[os.write(writing, data) :]
            code = 0
        finally:
            os._exit(code)
