"""Work grows with the log, not with the square of its segments (C8).

Counted in system calls, which no busy machine changes.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog, jsonl, strace
from tests.harness.log_checks import assert_valid_log
from tests.harness.raw_log import RawLog
from tests.harness.signals import a_signal

FEW, MANY = 100, 400
LISTINGS_MAX = 30  # of a command, however many segments there are
DAMPING = 1.3  # of linear growth: what a command does once weighs less in the larger log


def filled(home: Path, segments: int) -> Path:
    """One line a segment, and a record and a watermark as a writer leaves them."""
    raw = RawLog(home)
    raw.add([("tick", {"n": number}) for number in range(segments)], lines_in_segment=1)
    with EventLog(home, segment_bytes=1) as log:
        log.append(a_signal(1))
    return home


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("segments")
    return {count: filled(folder / str(count), count) for count in (FEW, MANY)}


def calls_of(home: Path, words: tuple[object, ...], tmp_path: Path, stdin: bytes) -> Counter[str]:
    out = tmp_path / "trace"
    trace = "getdents64,openat,newfstatat,lstat,stat,flock,fdatasync,fsync,pread64"
    under = strace("-e", f"trace={trace}", out=out)
    done = eventlog(*words, home=home, stdin=stdin, under=under)
    assert done.code == 0, done.err
    lines = out.read_text(errors="replace").splitlines()
    names = (line.split(None, 1)[-1].partition("(")[0] for line in lines if "resumed" not in line)
    return Counter(names)


COMMANDS = (
    *(("cat",), ("cat", "--after", "50"), ("tail",), ("verify",), ("status",), ("append",)),
    *(("project", "sqlite", "--once"), ("rebuild-database",), ("backup", "DEST"), ("wait", "1")),
    *(("compress", "--keep", "1000"), ("repair",), ("doctor",), ("digest",), ("signals",)),
)


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_lists_the_directory_again_for_each_segment(
    homes: dict[int, Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    if words[0] in ("digest", "signals", "wait"):
        for home in homes.values():
            assert eventlog("project", "sqlite", "--once", home=home).code == 0
    found = {}
    for count, home in homes.items():
        (tmp_path / str(count)).mkdir()
        named = [tmp_path / f"{count}/dest" if word == "DEST" else word for word in words]
        lines = jsonl([a_signal(1)])  # a duplicate: the log stays as it is
        found[count] = calls_of(home, tuple(named), tmp_path, lines)
    # A listing takes two calls at least, and more where the directory is large.
    more = found[MANY]["getdents64"] - found[FEW]["getdents64"]
    assert found[FEW]["getdents64"] < 4 * LISTINGS_MAX + 50, found[FEW]
    assert more < LISTINGS_MAX, (found[FEW], found[MANY])


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_calls_of_a_command_grow_no_faster_than_the_segments(
    homes: dict[int, Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    if words[0] in ("digest", "signals", "wait"):
        for home in homes.values():
            assert eventlog("project", "sqlite", "--once", home=home).code == 0
    found = {}
    for count, home in homes.items():
        (tmp_path / str(count)).mkdir()
        named = [tmp_path / f"{count}/dest" if word == "DEST" else word for word in words]
        found[count] = sum(calls_of(home, tuple(named), tmp_path, jsonl([a_signal(1)])).values())
    assert found[MANY] < DAMPING * found[FEW] * MANY / FEW, found


@pytest.mark.slow
def test_an_append_with_a_valid_record_opens_only_segments_of_its_dedupe_window(
    homes: dict[int, Path], tmp_path: Path
) -> None:
    """And, with a window of nothing, the last one alone."""
    home = homes[MANY]
    out = tmp_path / "trace"
    script = (
        "import sys; from eventlog import EventLog\n"
        "with EventLog(sys.argv[1], dedupe_entries=0) as log: log.append({'event': 'tick',"
        " 'signal_id': 'x'})"
    )

    words = (*strace("-e", "trace=openat", out=out), sys.executable, "-c", script, str(home))
    subprocess.run([str(word) for word in words], check=True)
    opened = [line for line in out.read_text().splitlines() if ".jsonl" in line]
    assert len(opened) < 10, f"{len(opened)} segments were opened"


@pytest.mark.slow
def test_a_log_of_ten_thousand_segments_is_read_and_extended(tmp_path: Path) -> None:
    """What was quadratic takes minutes here; the time limit of a test is the bound."""
    home = filled(tmp_path / "home", 10_000)
    assert eventlog("cat", home=home).out.count(b"\n") == 10_001
    assert eventlog("append", home=home, stdin=jsonl([a_signal(2)])).code == 0
    assert eventlog("verify", home=home).code == 0
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert len(assert_valid_log(home)) == 10_002
