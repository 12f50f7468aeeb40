"""SIGTERM at moments that are hard to hit by chance (C7)."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog
from tests.harness.deadline import DEADLINE_S
from tests.harness.plugins import first_on_path
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal

INTERRUPTED_IMPORT = """
    import os, signal, sys

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == {name!r}:
                os.kill(os.getpid(), signal.SIGTERM)

    sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("name", ["json", "dataclasses"])  # which orjson's initialisation imports
@pytest.mark.parametrize("command", ["cat", "signals", "status"])
def test_sigterm_while_an_extension_module_is_initialised_ends_the_command(
    tmp_path: Path, name: str, command: str
) -> None:
    with EventLog(tmp_path / "home") as log:
        log.append(a_signal(1))
    folder = tmp_path / "first"
    folder.mkdir()
    source = "\n".join(line[4:] for line in INTERRUPTED_IMPORT.format(name=name).splitlines())
    (folder / "sitecustomize.py").write_text(source)
    done = eventlog(command, home=tmp_path / "home", env=first_on_path(folder))
    assert (done.code, done.out, done.err) == (130, b"", "")


def test_sigterm_in_a_destructor_is_not_lost() -> None:
    script = """
import os, signal, time
from eventlog.cli.interrupts import interrupt_on_sigterm

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

interrupt_on_sigterm()
try:
    Closing()
    time.sleep(1000)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"interrupted\n", b"")


def test_a_signal_that_was_held_back_arrives_at_the_end_of_the_block() -> None:
    script = """
import os, signal
from eventlog.cli.interrupts import interrupt_on_sigterm, interrupts_held_back

interrupt_on_sigterm()
try:
    with interrupts_held_back():
        os.kill(os.getpid(), signal.SIGTERM)
        print("held back")
    print("never")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"held back\ninterrupted\n")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


INTERRUPTED_ANYWHERE = """
import os, sys
from contextlib import suppress
from eventlog.cli import interrupts, main, streams
from tests.harness.interrupt import Interrupt

sys.argv = ["eventlog", "--home", sys.argv[1], "cat"]
with suppress(SystemExit):
    main.main()  # imports what it needs
nth, code = 1, 0  # the first point is before the first line of `main`
while code != 3:
    nth += 1
    child = os.fork()
    if child == 0:
        point = Interrupt(nth, [main, interrupts, streams])
        try:
            with point:
                main.main()
        except SystemExit as exit_:
            os._exit(3 if point.at is None else exit_.code)
        except BaseException as error:
            print(f"{error!r} at {point.at}", file=sys.stderr)
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (130, 3), f"point {nth} ends with {code}"
print(nth)
"""


def test_an_interrupt_ends_a_command_without_a_traceback_wherever_it_arrives(
    tmp_path: Path,
) -> None:
    """From the handlers of signals to the exit of the interpreter."""
    words = [sys.executable, "-c", INTERRUPTED_ANYWHERE, str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, timeout=DEADLINE_S, check=False, cwd=CHECKOUT, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout.splitlines()[-1]) > 50
