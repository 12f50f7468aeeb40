"""`eventlog project ... --compress`: the daemon compresses closed segments beside projecting."""

from pathlib import Path

import pytest

from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.log_checks import segments_in
from tests.harness.read_side import append
from tests.harness.signals import signals

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fill(home: Path, start: int) -> None:
    """Thirty signals, from `start` on, in several segments."""
    for first in range(start, start + 30, 3):
        append(home, *signals(3, start=first), segment_bytes=1500)


def compressed_in(home: Path) -> list[Path]:
    return sorted((home / "logs").glob("*.jsonl.zst"))


def test_once_compresses_once_and_without_the_option_nothing_is_compressed(home: Path) -> None:
    fill(home, 1)
    closed = len(segments_in(home)) - 1
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert compressed_in(home) == []
    digest = eventlog("digest", home=home)
    done = eventlog("project", "sqlite", "--once", "--compress", home=home)
    assert (done.code, done.err) == (0, "")
    assert len(compressed_in(home)) == closed
    assert eventlog("rebuild-database", home=home).code == 0
    assert eventlog("digest", home=home) == digest


def test_entries_appended_during_compression_are_projected(home: Path) -> None:
    fill(home, 1)
    with daemon(home, "sqlite", "--compress") as running:
        until(lambda: len(segments_in(home)) == 1)
        fill(home, 31)
        until(lambda: eventlog("wait", 60, "--timeout", 1, home=home).code == 0)
        assert running.stop() == 0
    assert len(segments_in(home)) > 1, "the next round is a minute away"


def test_a_segment_that_cannot_be_compressed_stops_no_projection(home: Path) -> None:
    fill(home, 1)
    assert eventlog("compress", home=home).code == 0
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    append(home, *signals(3, start=31))
    data = bytearray(compressed_in(home)[0].read_bytes())
    data[60] ^= 1
    compressed_in(home)[0].write_bytes(data)
    (home / "logs/closed").mkdir()  # where it should go
    done = eventlog("project", "sqlite", "--once", "--compress", home=home)
    assert done.code == 0
    assert eventlog("wait", 33, "--timeout", 0, home=home).code == 0
    assert done.err.count("00000000000000000001.jsonl stays: parts of it are lost") == 1
