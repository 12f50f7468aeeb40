"""`eventlog project` as a process: killed, stopped, failing, supervised by systemd."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from tests.harness import model
from tests.harness.command import child_of, eventlog, strace
from tests.harness.daemon import Daemon, NotifySocket, abstract_name, daemon, lock_held, ready
from tests.harness.deadline import until
from tests.harness.log_checks import assert_valid_log, segments_in
from tests.harness.mounts import on_small_disk
from tests.harness.plugins import HANG, failing, plugins
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed, signals
from tests.harness.tables import (
    assert_caught_up,
    assert_is_fold,
    database_of,
    read_tables,
    seq_in,
)

EXIT_S = 10.0  # what is promised for SIGTERM; below, twice as long for a machine that is busy
KILLS = int(os.environ.get("PROJECTOR_KILLS", "200"))
PARTS = 4  # of the kills: each core takes some


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def ends(d: Daemon) -> int:
    """Waits for the exit code after a SIGTERM."""
    return d.process.wait(2 * EXIT_S)


# -- T7: SIGKILL


class Load:
    """Appends in a thread, with rotations: signals, duplicates, valid and impossible facts."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._random = random.Random(7)
        self.wanted = 0  # appends go on up to so many entries
        self.problem: BaseException | None = None

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with EventLog(self._home, segment_bytes=40_000, dedupe_entries=0) as log:
                seq = 0
                while not self._stopped.is_set():
                    if seq < self.wanted:
                        items = [self._item(seq + n) for n in range(self._random.randint(1, 6))]
                        seq = log.append_many(items)[-1].seq
                    self._stopped.wait(0.002)
        except BaseException as error:  # noqa: BLE001  # raised again by the test
            self.problem = error

    def _item(self, number: int) -> dict[str, Any]:
        earlier = max(0, number - self._random.randint(1, 20))
        match self._random.randint(0, 9):
            case 0:
                return {"event": "executed", "signal_id": f"s-{earlier}", "order_id": "o"}
            case 1:
                return closed(earlier)
            case 2:
                return {"event": "skipped", "signal_id": f"s-{earlier}", "reason": "r"}
            case 3:
                return a_signal(earlier, note="late")  # often the second of its name
            case 4:
                return {"event": "tick"}
        return a_signal(number, note=f"n-{number}")


class Expected:
    """The tables of the model, up to the checkpoint."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._tables = model.Tables()
        self._seq = 0

    def check(self) -> int:
        """Compares them with the database; returns the seq of its checkpoint."""
        tables, point = read_tables(self._home)
        if point.seq < self._seq:  # the database was made anew
            self._tables, self._seq = model.Tables(), 0
        with EventLog(self._home) as log:
            for entry in log.read(after=self._seq):
                if entry.seq > point.seq:
                    break
                model.fold([entry], into=self._tables, after=self._seq)
                self._seq = entry.seq
                assert entry.seq < point.seq or entry.chain == point.chain
        assert self._seq == point.seq, "the checkpoint is beyond the log"
        assert tables == self._tables
        return point.seq


def wait_for_a_commit(home: Path, d: Daemon) -> None:
    """Returns when the WAL has changed, or nothing happens for a while."""
    wal = home / "data" / "signals.db-wal"
    seen = None
    give_up_s = time.monotonic() + 2.0
    while time.monotonic() < give_up_s and d.process.poll() is None:
        with suppress(FileNotFoundError):
            status = wal.stat()
            now = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen is not None and now != seen and status.st_size:
                return
            seen = now
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.timeout(60 + 5 * KILLS)
@pytest.mark.parametrize("part", range(PARTS))
def test_after_a_kill_at_any_moment_rows_are_the_fold_up_to_the_checkpoint(
    home: Path, part: int
) -> None:
    """PROJECTOR_KILLS=1000 sets the number of kills over all parts."""
    kills = KILLS // PARTS
    chance = random.Random(f"{KILLS} {part}")
    append(home, {"event": "tick"})
    expected = Expected(home)
    moved = last = 0
    with Load(home) as load:
        for number in range(kills):
            load.wanted += chance.randint(0, 50)
            batch = chance.choice([1, 2, 7, 1000])
            with daemon(home, "sqlite", "--batch-size", batch) as d:
                if chance.random() < 0.7:
                    wait_for_a_commit(home, d)
                    time.sleep(chance.choice([0.0, 0.001, 0.005, 0.02]))
                else:
                    time.sleep(chance.uniform(0.05, 0.25))
                d.process.kill()
                assert d.wait() == -signal.SIGKILL, d.err
            assert load.problem is None
            if not database_of(home).exists():
                continue  # it was being set up
            seq = expected.check()
            moved += seq != last
            last = seq
            if number % 25 == 24:  # kills while it is set up count, too
                for path in (home / "data").iterdir():
                    path.unlink()
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert expected.check() == len(assert_valid_log(home))
    assert not list((home / "data").glob("*.damaged-*"))
    assert len(segments_in(home)) > kills / 20
    assert moved > kills / 10, "nearly all were killed before they did anything"


def test_two_daemons_share_one_table_and_either_may_be_killed(home: Path) -> None:
    append(home, *signals(5))
    with Load(home) as load, daemon(home, "sqlite", "--batch-size", 3) as one:
        load.wanted = 150
        with daemon(home, "sqlite") as two:
            until(lambda: seq_in(home) >= 150)
            assert_is_fold(home)
            two.process.kill()
            two.wait()
            assert two.complaints == ""
        load.wanted = 250
        until(lambda: seq_in(home) >= 250)
        with ready(home, "sqlite") as two:
            load.wanted = 350
            until(lambda: seq_in(home) >= 350)
            one.send(signal.SIGTERM)
            two.send(signal.SIGTERM)
            assert (ends(one), ends(two)) == (0, 0), one.err + two.err
            assert (one.complaints, two.complaints) == ("", "")
    assert load.problem is None
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    assert_caught_up(home)


# -- P1: asked to stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_closes_the_database_and_ends_the_daemon(
    home: Path, number: signal.Signals, times: int
) -> None:
    append(home, *signals(3))
    with daemon(home, "sqlite") as d:
        until(lambda: seq_in(home) == 3)
        for _ in range(times):
            d.send(number)
        assert (ends(d), d.complaints) == (0, "")
    assert not (home / "data" / "signals.db-wal").exists()
    assert_caught_up(home)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeated_sigterm_has_the_effect_of_one(home: Path, number: signal.Signals) -> None:
    append(home, *signals(3))
    with daemon(home, "sqlite") as d:
        until(lambda: seq_in(home) == 3)
        while d.process.poll() is None:
            d.send(number)
            time.sleep(0.001)
        assert (ends(d), d.complaints) == (0, "")
    assert_caught_up(home)


def test_sigterm_under_load_ends_with_a_complete_batch(home: Path) -> None:
    append(home, a_signal(0))
    with Load(home) as load, daemon(home, "sqlite", "--batch-size", 7) as d:
        load.wanted = 10**9
        until(lambda: seq_in(home) > 50)
        d.send(signal.SIGTERM)
        assert (ends(d), d.complaints) == (0, "")
    assert load.problem is None
    assert assert_is_fold(home).seq > 50


def test_sigterm_while_a_batch_fills_commits_the_partial_batch(home: Path) -> None:
    append(home, *signals(53))
    with daemon(home, "sqlite", "--batch-size", 50, "--batch-timeout", 3600) as d:
        until(lambda: seq_in(home) == 50)
        d.send(signal.SIGTERM)
        assert ends(d) == 0
    assert_caught_up(home)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_ends_the_daemon_while_another_process_locks_the_database(
    home: Path, times: int
) -> None:
    append(home, *signals(2))
    with daemon(home, "sqlite") as d:
        until(lambda: seq_in(home) == 2)
        with lock_held(home):
            append(home, a_signal(3))
            time.sleep(0.5)
            for _ in range(times):
                d.send(signal.SIGTERM)
            assert (ends(d), d.complaints) == (0, "")
    assert assert_is_fold(home).seq == 2


@pytest.mark.slow
def test_sigterm_ends_a_daemon_that_still_waits_for_the_lock(home: Path) -> None:
    append(home, a_signal(1))
    eventlog("project", "sqlite", "--once", home=home)
    with lock_held(home), daemon(home, "sqlite") as d:
        until(lambda: d.catches(signal.SIGTERM))
        time.sleep(1.0)
        d.send(signal.SIGTERM)
        assert (ends(d), d.complaints) == (0, "")


@pytest.mark.slow
def test_sigterm_ends_a_daemon_that_waits_for_another_writer(home: Path) -> None:
    append(home, a_signal(1))
    with daemon(home, "sqlite") as d:
        until(lambda: seq_in(home) == 1)
        script = "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], timeout=30);"
        script += "db.execute('BEGIN IMMEDIATE'); print(flush=True); time.sleep(600)"
        words = ["python3", "-c", script, str(database_of(home))]
        writer = subprocess.Popen(words, stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            append(home, a_signal(2))
            time.sleep(1.0)
            d.send(signal.SIGTERM)
            assert ends(d) == 0
        finally:
            writer.kill()
            writer.communicate()
    assert assert_is_fold(home).seq == 1


@pytest.mark.slow
def test_sigterm_on_a_slow_disk_ends_with_a_complete_batch(home: Path) -> None:
    append(home, *signals(3))
    slow = "inject=fdatasync,fsync:delay_enter=300000"
    with daemon(home, "sqlite", under=strace("-e", slow)) as d:
        until(lambda: seq_in(home) == 3)
        os.kill(child_of(d.process), signal.SIGTERM)
        assert ends(d) == 0
    assert_caught_up(home)


# -- P2: failures of the log (those of a projection: test_isolation.py)


def test_damage_to_the_log_ends_the_process_with_its_place(home: Path) -> None:
    append(home, *signals(4))
    with daemon(home, "sqlite") as d:
        until(lambda: seq_in(home) == 4)
        d.send(signal.SIGSTOP)
        append(home, *signals(4, start=5))
        (segment,) = segments_in(home)
        with segment.open("r+b") as file:
            file.seek(segment.read_bytes().index(b'"s-6"'))
            file.write(b'"s-0"')
        d.send(signal.SIGCONT)
        assert d.wait() == 3
        assert "seq 6" in d.err
        assert "do:" in d.err
    assert assert_is_fold_of_the_whole_part(home) == 5


def test_a_log_that_was_damaged_before_ends_it_with_what_where_and_what_to_do(home: Path) -> None:
    append(home, *signals(8))
    (segment,) = segments_in(home)
    segment.write_bytes(segment.read_bytes().replace(b'"s-6"', b'"s-0"'))
    with daemon(home, "sqlite") as d:
        assert d.wait() == 3
        assert d.err.count("seq 6") == 1  # an error is printed once
        message = d.err.splitlines()[-3:]
    assert [line.split(":")[0] for line in message] == ["error", "where", "do"]
    assert "seq 6" in message[1]
    assert assert_is_fold_of_the_whole_part(home) == 5


def assert_is_fold_of_the_whole_part(home: Path) -> int:
    tables, point = read_tables(home)
    assert [row[0] for row in tables.signals] == list(range(1, point.seq + 1))
    return point.seq


# -- systemd


@pytest.mark.parametrize(
    "address", ["./notify.sock", "./user@1000/notify.sock", ""], ids=["file", "@", "abstract"]
)
def test_systemd_is_notified_of_ready_watchdog_and_stopping(
    home: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user@1000").mkdir()
    monkeypatch.chdir(tmp_path)  # the kernel takes 107 bytes of such a path
    append(home, *signals(2))
    with NotifySocket(address or abstract_name()) as systemd:
        with daemon(home, "sqlite", env={"NOTIFY_SOCKET": systemd.address}) as d:
            until(lambda: systemd.has_received("READY=1"))
            until(lambda: systemd.has_received("WATCHDOG=1"))
            assert not systemd.has_received("STOPPING=1")
            d.send(signal.SIGTERM)
            assert ends(d) == 0
            assert systemd.has_received("STOPPING=1")
        assert systemd.messages.count("READY=1") == 1


@pytest.mark.slow
def test_it_reports_progress_and_is_ready_only_when_all_projections_are(
    home: Path, tmp_path: Path
) -> None:
    env = plugins(tmp_path / "site", failing=failing(3, open_=HANG))
    append(home, *signals(2))
    with NotifySocket(abstract_name()) as systemd:
        env["NOTIFY_SOCKET"] = systemd.address
        with daemon(home, "sqlite", "failing", env=env) as d:
            until(lambda: systemd.has_received("STATUS=sqlite at seq 2, failing is not open yet"))
            assert not systemd.has_received("READY=1")
            d.send(signal.SIGTERM)
            assert ends(d) == 0


@pytest.mark.slow
def test_a_missing_or_blocked_notify_socket_delays_nothing(home: Path, tmp_path: Path) -> None:
    append(home, *signals(600))
    address, unheard = abstract_name(), abstract_name()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(f"\0{address[1:]}")
        for number, where in enumerate((address, unheard, str(tmp_path / "gone"))):
            with daemon(home, "sqlite", "--batch-size", 1, env={"NOTIFY_SOCKET": where}) as d:
                until(lambda: assert_is_fold(home).seq == 600 if seq_in(home) == 600 else False)
                d.send(signal.SIGTERM)
                assert ends(d) == 0
            assert number < 3
            database_of(home).unlink()


@pytest.mark.slow
def test_the_watchdog_is_not_notified_while_a_projection_hangs(home: Path, tmp_path: Path) -> None:
    env = plugins(tmp_path / "site", failing=failing(3, apply=HANG))
    append(home, *signals(2))
    with NotifySocket(abstract_name()) as systemd:
        env["NOTIFY_SOCKET"] = systemd.address
        with daemon(home, "failing", env=env) as d:
            until(lambda: systemd.has_received("READY=1"))
            until(lambda: systemd.has_received("STATUS=failing at seq 2"))
            append(home, a_signal(3))
            statuses = count_of(systemd, "STATUS=")
            until(lambda: count_of(systemd, "STATUS=") >= statuses + 2)
            fed = count_of(systemd, "WATCHDOG=1")
            until(lambda: count_of(systemd, "STATUS=") >= statuses + 4)
            assert count_of(systemd, "WATCHDOG=1") == fed
            assert d.process.poll() is None


def count_of(systemd: NotifySocket, text: str) -> int:
    systemd.has_received(text)
    return sum(line.startswith(text) for line in systemd.messages)


def test_without_a_notify_socket_nothing_is_sent_or_logged(home: Path) -> None:
    append(home, a_signal(1))
    with daemon(home, "sqlite", env={"NOTIFY_SOCKET": ""}) as d:
        until(lambda: seq_in(home) == 1)
        assert (d.stop(), d.complaints) == (0, "")


# -- a full disk


@pytest.mark.parametrize("state", ["disabled", "waiting"])
def test_started_on_a_full_disk_it_waits_and_continues_when_space_is_free(
    home: Path, state: str
) -> None:
    """Q3: a full disk must not end the daemon, since a supervisor gives up after a few starts."""
    append(home, *signals(30))
    small = on_small_disk("2m", home / "data")
    script = 'dd if=/dev/zero of="$0/data/filler" bs=4096 2>/dev/null; exec "$@"'
    env = {"ALPINE_API_URL": "http://127.0.0.1:9", "ALPINE_API_KEY": "k"}  # no server listens there
    with daemon(
        home,
        "all",
        env=env if state == "waiting" else {},
        under=(*small, "sh", "-c", script, home),
    ) as d:
        until(lambda: "stalled projection=sqlite" in d.err or d.process.poll() is not None)
        inside = Path(f"/proc/{d.process.pid}/root{home}")
        assert d.process.poll() is None, d.err
        (inside / "data" / "filler").unlink()
        until(lambda: seen_from_within(d, home)["sqlite"]["checkpoint"] == 30)
        until(lambda: seen_from_within(d, home)["alpine"]["state"] == state)
        assert d.stop() == 0
        assert "the delivery state cannot be opened" in d.err


def seen_from_within(d: Daemon, home: Path) -> Any:
    """Reads status in the mount namespace of the daemon."""
    under = ("nsenter", "-t", d.process.pid, "-m")
    return eventlog("status", "--json", home=home, under=under).answers[0]["projections"]
