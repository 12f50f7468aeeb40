"""Forked workers: each task is done once, a killed worker is no hang, and none is left.

They fork only in a process of one thread, so each test that wants them starts such a process.
"""

import json
import subprocess
import sys
import threading

import pytest

from eventlog import processes
from tests.harness.deadline import DEADLINE_S

PREAMBLE = """if True:
    import json, os, signal, sys, time
    from eventlog import processes

    def left():  # children of this process that were not waited for
        try:
            return [os.waitpid(-1, os.WNOHANG)[0]]
        except ChildProcessError:
            return []

    parent = os.getpid()
    reading, writing = os.pipe()

    def here(): # reports to the parent that a worker has come so far
        os.write(writing, b"x")

    def wait_for(workers): # a busy machine may let one process do all before another begins
        while workers:
            workers -= len(os.read(reading, workers))
"""


def in_fresh_process(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PREAMBLE + script]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.parametrize(
    ("tasks", "processes"), [(0, 4), (1, 4), (2, 2), (50, 1), (50, 3), (1000, 5)]
)
def test_each_task_is_done_once(tasks: int, processes: int) -> None:
    script = f"""
    answers = []
    job = lambda number: (number, "x" * number)
    note = lambda number, answer: answers.append((number, answer))
    processes.run_in_processes({tasks}, job, note, processes={processes})
    assert sorted(answers) == [(n, (n, "x" * n)) for n in range({tasks})]
    assert left() == []
    """
    done = in_fresh_process(script)
    assert (done.returncode, done.stderr) == (0, "")


def test_several_processes_take_part() -> None:
    script = """
    pids = set()
    known = []
    gate, opening = os.pipe()

    def job(number):
        if known:
            return os.getpid()
        known.append(number)
        if os.getpid() == parent:
            wait_for(2)
            os.write(opening, b"xx")
        else:
            here()
            os.read(gate, 1)
        return os.getpid()

    processes.run_in_processes(60, job, lambda n, pid: pids.add(pid), processes=3)
    print(len(pids), parent in pids)
    """
    assert in_fresh_process(script).stdout == "3 True\n"


def test_a_large_result_arrives_complete() -> None:
    script = """
    sizes = []
    job = lambda number: bytes([number]) * 3_000_000
    processes.run_in_processes(9, job, lambda n, answer: sizes.append(len(answer)), processes=3)
    print(sizes == [3_000_000] * 9)
    """
    assert in_fresh_process(script).stdout == "True\n"


def test_a_killed_worker_loses_only_its_result_and_is_logged() -> None:
    script = """
    answered = []

    def job(number):
        if os.getpid() != parent and number > 2:
            here()
            os.kill(os.getpid(), signal.SIGKILL)
        if os.getpid() == parent and not answered:
            wait_for(1)
        return number

    processes.run_in_processes(40, job, lambda n, answer: answered.append(n), processes=2)
    print(json.dumps([len(answered), len(set(answered)), left()]))
    """
    done = in_fresh_process(script)
    assert json.loads(done.stdout) == [39, 39, []]
    assert "worker_died" in done.stderr and "exit_code=-9" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_exception_in_a_worker_counts_as_its_death() -> None:
    script = """
    answered = []

    def job(number):
        if os.getpid() != parent:
            here()
            raise RuntimeError("in a worker")
        if not answered:
            wait_for(2)
        return number

    processes.run_in_processes(40, job, lambda n, answer: answered.append(n), processes=3)
    print(len(answered))
    """
    done = in_fresh_process(script)
    assert done.stdout == "38\n"
    assert done.stderr.count("exit_code=1") == 2
    assert "in a worker" not in done.stderr


@pytest.mark.parametrize("where", ["job", "answered"])
def test_an_exception_in_the_parent_ends_all_workers(where: str) -> None:
    script = f"""
    def job(number):
        time.sleep(0.001)
        if os.getpid() == parent and number > 20 and "{where}" == "job":
            raise RuntimeError("here")
        return number

    def answered(number, answer):
        if number > 20:
            raise RuntimeError("here")

    try:
        processes.run_in_processes(900, job, answered, processes=4)
    except RuntimeError as error:
        print(error, left(), len(os.listdir("/proc/self/fd")))
    """
    done = in_fresh_process(script)
    assert done.stdout.startswith("here [] ")
    assert done.stderr == ""


def test_a_worker_ends_when_its_parent_was_killed() -> None:
    script = """
    def job(number):
        time.sleep(0.05)
        return number

    def answered(number, answer):
        os.kill(os.getpid(), signal.SIGKILL)

    processes.run_in_processes(900, job, answered, processes=3)
    """
    # The output ends when the last process that holds it does.
    assert in_fresh_process(script).returncode == -9


def test_exit_handlers_of_the_program_are_not_run_in_a_worker() -> None:
    script = """
    signal.signal(signal.SIGTERM, lambda *_: print("handled by", os.getpid(), flush=True))
    known = []

    def job(number):
        if os.getpid() != parent:
            here()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        if not known:
            known.append(number)
            wait_for(1)
        return number

    processes.run_in_processes(20, job, lambda n, answer: None, processes=2)
    os.kill(parent, signal.SIGTERM)
    print(parent)
    """
    done = in_fresh_process(script)
    handled, pid = done.stdout.splitlines()
    assert handled == f"handled by {pid}"
    assert "exit_code=-15" in done.stderr


def test_a_process_of_several_threads_is_not_forked() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not processes.can_fork()
        seen: list[int] = []
        processes.run_in_processes(
            5, lambda number: number, lambda n, _: seen.append(n), processes=4
        )
        assert seen == [0, 1, 2, 3, 4]
    finally:
        stop.set()
        thread.join()


def test_if_fork_fails_one_process_does_all_the_work() -> None:
    script = """
    import resource
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        pid = os.fork()
    except OSError:
        pass
    else:  # this user is above the limit
        os._exit(0) if pid == 0 else None
    answered = []
    answer = lambda number, _: answered.append(number)
    processes.run_in_processes(20, lambda number: number, answer, processes=3)
    print(sorted(answered) == list(range(20)))
    """
    assert in_fresh_process(script).stdout == "True\n"
