"""The soak for five minutes, and tests that its checks detect what they are for.

SOAK_MINUTES and SOAK_SEED choose another run. tests/conftest.py starts this module first.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

import pytest

from eventlog import EventLog
from tests.harness.command import eventlog
from tests.harness.deadline import until
from tests.harness.log_checks import segments_in
from tests.harness.read_side import append, project
from tests.harness.requirements import CHECKOUT, needs_tool
from tests.harness.tables import database_of
from tools.soak import checks, clock
from tools.soak.actors import Backend
from tools.soak.generator import BATCH_ITEMS_MAX, item

MINUTES = float(os.environ.get("SOAK_MINUTES", "5"))
SETTLE_S_MAX = 600  # to start, catch up and compare on a busy machine


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + SETTLE_S_MAX)
def test_despite_random_kills_log_table_and_alpine_end_equal_and_no_daemon_grows() -> None:
    needs_tool("faketime", apt="faketime")
    words = [sys.executable, "-m", "tools.soak", "--minutes", str(MINUTES)]
    if seed := os.environ.get("SOAK_SEED"):
        words += ["--seed", seed]
    process = subprocess.Popen(
        words, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate()
    finally:
        process.terminate()  # the soak then ends its processes
        process.wait()
    sys.stdout.write(output)  # the seed, and the result in one line
    assert process.returncode == 0, output
    assert "too short to show" not in output


# The checks


@pytest.fixture
def home(tmp_path: Path) -> Path:
    append(tmp_path / "home", *(item("g1", number) for number in range(1, 13)))
    return tmp_path / "home"


def receipts_of(home: Path) -> dict[int, tuple[int, str]]:
    with EventLog(home) as log:
        return {entry.seq: (entry.seq, entry.chain) for entry in log.read()}


def test_it_finds_no_problem_in_a_healthy_run(home: Path) -> None:
    project(home)
    found = checks.read_log(home, {"g1": receipts_of(home)})
    assert (found.entries, len(found.sha256), found.problems) == (12, 8, ())
    assert list(checks.verify(home)) == []
    assert list(checks.compare_table(home)) == []


def test_it_detects_a_receipt_that_is_not_in_the_log(home: Path) -> None:
    kept = receipts_of(home)
    chain = kept[5][1]
    for wrong in ({13: (13, chain)}, {5: (6, chain)}, {5: (5, "0" * 64)}, {4: kept[5]}):
        assert len(checks.read_log(home, {"g1": kept | wrong}).problems) == 1


def test_it_detects_entries_that_are_in_the_log_twice(home: Path) -> None:
    with EventLog(home, dedupe_entries=0) as log:
        log.append(item("g1", 4))
    problems = checks.read_log(home, {}).problems
    assert problems == ("('g1-4', 'signal') is in the log twice: 4 and 13",)


def test_it_detects_a_flipped_bit_and_a_missing_row(home: Path) -> None:
    project(home)
    sqlite3 = needs_tool("sqlite3", apt="sqlite3")
    for change in ("DELETE FROM signals WHERE id = 4", "UPDATE signals SET symbol = 'X'"):
        subprocess.run([sqlite3, database_of(home), change], check=True)
        assert len(list(checks.compare_table(home))) > 1
    (segment,) = segments_in(home)
    segment.write_bytes(segment.read_bytes().replace(b"SOAK", b"SOAL", 1))
    assert len(list(checks.verify(home))) == 1


def test_it_detects_a_daemon_that_grows() -> None:
    steady = [30_000_000] * 10 + [36_000_000] * 100
    assert list(checks.compare_memory("steady", steady)) == []
    growing = [36_000_000 + 300_000 * number for number in range(110)]
    assert len(list(checks.compare_memory("growing", growing))) == 1
    assert checks.memory(growing[:5]) is None  # too few samples


@pytest.mark.slow
def test_a_server_without_its_postgresql_is_started_again_before_the_comparison(
    tmp_path: Path,
) -> None:
    """A kill of PostgreSQL at the end of the time left a server that answered 500 to everything."""

    class AlwaysPostgres(Random):
        def random(self) -> float:
            return 0.1

    def compared() -> list[str]:
        return list(checks.compare_alpine(backend.url, backend.key, frozenset()))

    data = Path(tempfile.mkdtemp(prefix="soak-postgres-"))
    data.chmod(0o755)
    backend = Backend(tmp_path, data / "alpine", AlwaysPostgres(1), (5.0, 25.0))
    try:
        backend.start()
        until(lambda: compared() == [])
        backend.kill()
        assert len(compared()) == 1
        backend.settle()
        until(lambda: compared() == [])
        backend.stop()
        assert backend.problems == []
    finally:
        backend.end()
        backend.close()
        shutil.rmtree(data, ignore_errors=True)


def test_items_are_the_same_each_time_and_fit_into_one_write_of_receipts() -> None:
    assert item("g1", 7) == item("g1", 7) != item("g2", 7)
    assert BATCH_ITEMS_MAX * 100 < 4096


@pytest.mark.slow
def test_clocks_that_are_years_apart_leave_order_and_recorded_at_as_they_are(
    tmp_path: Path,
) -> None:
    """W12: each process has another clock, by libfaketime."""
    needs_tool("faketime", apt="faketime")
    home = tmp_path / "home"
    for number, offset in enumerate(["+0s", "+2d", "-10y", "-1h", "+1d", "+3d"], 1):
        line = b'{"event":"tick","signal_id":"%d"}\n' % number
        done = eventlog("-q", "append", home=home, stdin=line, env=clock.shifted(offset))
        assert (done.code, done.err) == (0, "")
        assert done.answers[0]["seq"] == number
    with EventLog(home) as log:
        times = [entry.recorded_at for entry in log.read()]
    assert times == sorted(times)
    assert times[1] == times[2] == times[3] == times[4] < times[5]
    assert times[0][:10] < times[1][:10]
    assert list(checks.verify(home)) == []


@pytest.mark.slow
def test_a_killed_process_with_another_clock_leaves_nothing_that_stops_the_next(
    tmp_path: Path,
) -> None:
    needs_tool("faketime", apt="faketime")
    words = [sys.executable, "-c", "input()"]
    env = {**os.environ, **clock.shifted("-10y")}

    def left_by(process: subprocess.Popen[bytes]) -> list[Path]:
        return list(Path("/dev/shm").glob(f"*faketime_*_{process.pid}"))

    process = subprocess.Popen(words, stdin=subprocess.PIPE, env=env)
    until(lambda: len(left_by(process)) == 2)
    process.kill()
    process.communicate()
    assert len(left_by(process)) == 2
    clock.remove_shared_memory(process.pid)
    assert left_by(process) == []
