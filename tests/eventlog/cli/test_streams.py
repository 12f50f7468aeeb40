"""The progress bar on stderr: shown on a terminal only, and never a reason to fail."""

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from eventlog.plumbing import progress_bar
with progress_bar("rebuilding") as progress:
    progress(1, 1_000_000)
    sys.stdin.read()
    for done in range(1001):
        progress(done * 1000, 1_000_000)
print("done", flush=True)
"""


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_progress_bar_is_shown_only_on_a_terminal(on_terminal: bool) -> None:
    reading, writing = pty.openpty() if on_terminal else os.pipe()
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=writing, check=True)
    os.write(writing, b"@")  # the end; a terminal gives what was written in pieces
    shown = b""
    while not shown.endswith(b"@"):
        shown += os.read(reading, 10_000)
    os.close(reading)
    os.close(writing)
    assert (b"rebuilding [####" in shown and b"100%" in shown) is on_terminal
    assert 100 <= shown.count(b"rebuilding") <= 250 if on_terminal else shown == b"@"


def test_work_goes_on_when_the_terminal_of_its_progress_bar_is_gone() -> None:
    reading, writing = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writing,
        start_new_session=True,
    ) as process:
        os.close(writing)
        shown = b""
        while b"rebuilding [" not in shown:
            shown += os.read(reading, 10_000)
        os.close(reading)  # from here on writing to the terminal fails with EIO
        out, _ = process.communicate(timeout=60)
    assert out == b"done\n"
