"""Forked worker processes: one at the end of a pipe, or a pool that shares numbered tasks.

A pool's tasks are numbers in a pipe: each process reads the next one when it is free. Results come
back over one pipe for each worker. When that pipe ends, the worker has ended, and a task that it
did not finish is left out of the results.

Forking costs 2 ms where a new interpreter with our imports costs 50, but it is safe only in a
process of one thread: a lock that another thread holds would stay locked in the child for ever.
A process with more threads does all tasks itself.

Invariant: no worker outlives `run_in_processes`, and no forked process writes to the terminal.
"""

import logging
import os
import pickle
import select
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, NamedTuple, NoReturn, TypeVar

logger = logging.getLogger(__name__)

TASKS_MAX = 1000  # their numbers fit into a pipe of one page, the smallest that Linux makes
PROCESSES_MAX = 64  # more would wait for memory
_NUMBER_BYTES = 4
_READ_BYTES = 1 << 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_fork() -> bool:
    """Whether this process has one thread only, including threads that Python did not start."""
    try:
        return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


class ForkedProcess(NamedTuple):
    """A child process and the end of its pipe that the parent reads."""

    pid: int
    fd: int


def fork_process(work: Callable[[int], object]) -> ForkedProcess | None:
    """Forks a process that calls `work` with the writing end of a pipe, and ends with it.

    Its exit code is 1 where `work` raises. None, with a warning, where the system refuses another
    process. The caller has checked `can_fork`, and ends the process by `end_process`.
    """
    reading, writing = os.pipe()
    # A Ctrl-C before the child resets our signal handlers would run them a second time.
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _run_child(work, writing, previous_mask)
        return ForkedProcess(pid, reading)
    except OSError as error:
        logger.warning("worker_not_started error=%s", error)
        os.close(reading)
        return None
    finally:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)


def end_process(process: ForkedProcess, *, kill: bool) -> int:
    """Waits for a forked process, which is killed first with `kill`. Returns its exit code.

    0 where the program itself has waited for it.
    """
    os.close(process.fd)
    with suppress(ProcessLookupError, ChildProcessError):
        if kill:
            os.kill(process.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
    return 0


def _run_child(
    work: Callable[[int], object], writing: int, previous_mask: Iterable[int]
) -> NoReturn:
    """Runs a child's whole life. It must not return into the code that its parent was running."""
    code = 1
    try:
        # Ctrl-C reaches the whole process group. The parent reports it and ends its children.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
        work(writing)
        code = 0
    finally:
        os._exit(code)


def run_in_processes(
    tasks: int,
    function: Callable[[int], T],
    on_result: Callable[[int, T], object],
    *,
    processes: int | None = None,
) -> None:
    """Calls `function` for each number below `tasks` in several processes, this one included.

    By default there is one for each usable core. `on_result` is called in this process with each
    task and its result, in no order. A worker in which `function` raises, or which dies, gives no
    result for that task; what `function` raises in this process is raised. `tasks` is at most
    TASKS_MAX where processes > 1.
    """
    processes = usable_cores() if processes is None else processes
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
    """A pipe from which each read of _NUMBER_BYTES takes the next task, in any process."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(n.to_bytes(_NUMBER_BYTES, "little") for n in range(count)))
    os.close(writing)
    return reading


def _next_task(task_pipe: int) -> int | None:
    data = os.read(task_pipe, _NUMBER_BYTES)
    return int.from_bytes(data, "little") if data else None


class _WorkerPool(Generic[T]):
    """The forked processes of one `run_in_processes`."""

    def __init__(self, function: Callable[[int], T], on_result: Callable[[int, T], object]) -> None:
        self._function = function
        self._on_result = on_result
        self._workers: dict[int, ForkedProcess] = {}  # by the descriptor of their results
        self._data: dict[int, bytearray] = {}  # the start of a result that has not arrived whole
        self._poll = select.poll()

    @property
    def has_workers(self) -> bool:
        """Whether results may still come."""
        return bool(self._workers)

    def start(self, task_pipe: int) -> None:
        """Forks one more worker; the others do its tasks where the system refuses."""
        parent = os.getpid()
        worker = fork_process(lambda writing: self._work(task_pipe, writing, parent))
        if worker is not None:
            self._workers[worker.fd] = worker
            self._data[worker.fd] = bytearray()
            self._poll.register(worker.fd, select.POLLIN)

    def collect(self, *, wait: bool) -> None:
        """Passes on the results that have arrived; with `wait`, waits for the first.

        A result that has begun to arrive is awaited: its worker waits for a reader.
        """
        for fd, _ in self._poll.poll(None if wait else 0):
            self._receive(fd)
            while self._data.get(fd):
                self._receive(fd)

    def _receive(self, fd: int) -> None:
        received = os.read(fd, _READ_BYTES)
        if not received:
            self._end_worker(fd, kill=False)
            return
        data = self._data[fd]
        data += received
        while len(data) >= _NUMBER_BYTES:
            size = _NUMBER_BYTES + int.from_bytes(data[:_NUMBER_BYTES], "little")
            if len(data) < size:
                break
            result = pickle.loads(memoryview(data)[_NUMBER_BYTES:size])
            del data[:size]
            self._on_result(*result)

    def end(self) -> None:
        """Kills the workers that still run."""
        for fd in list(self._workers):
            self._end_worker(fd, kill=True)

    def _end_worker(self, fd: int, *, kill: bool) -> None:
        worker = self._workers.pop(fd)
        self._data.pop(fd, None)
        self._poll.unregister(fd)
        exit_code = end_process(worker, kill=kill)
        if exit_code and not kill:
            logger.warning("worker_died pid=%d exit_code=%d", worker.pid, exit_code)

    def _work(self, task_pipe: int, writing: int, parent: int) -> None:
        while os.getppid() == parent and (task := _next_task(task_pipe)) is not None:
            result = pickle.dumps((task, self._function(task)))
            data = memoryview(len(result).to_bytes(_NUMBER_BYTES, "little") + result)
            while data:
                data = data[os.write(writing, data) :]
