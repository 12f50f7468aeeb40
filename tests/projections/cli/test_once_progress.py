"""`project --once` shows its progress on a terminal, and nothing elsewhere."""

from pathlib import Path

from tests.harness.command import COMMAND, eventlog
from tests.harness.read_side import append
from tests.harness.signals import a_signal, signals
from tests.harness.terminal import terminal


def test_project_once_shows_its_progress_on_a_terminal(home: Path) -> None:
    append(home, *signals(3))
    with terminal(COMMAND, "--home", home, "project", "sqlite", "--once") as t:
        assert t.wait() == 0
        t.until("projecting sqlite [################] 100%  3 entries")
    append(home, a_signal(4))
    with terminal(COMMAND, "-q", "--home", home, "project", "sqlite", "--once") as t:
        assert t.wait() == 0
        assert t.text == ""
    append(home, a_signal(5))
    done = eventlog("project", "sqlite", "--once", home=home)
    assert (done.code, done.out, done.err) == (0, b"", "")
