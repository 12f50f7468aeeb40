"""A home that is renamed while programs use it: nothing creates its old name again."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError, LogNotFound
from projections import SignalTracker
from tests.harness.command import pipe
from tests.harness.daemon import NotifySocket, abstract_name, daemon
from tests.harness.deadline import until
from tests.harness.forked import forked
from tests.harness.log_checks import assert_valid_log
from tests.harness.read_side import append
from tests.harness.shared_data import assert_ended_well
from tests.harness.signals import a_signal, signals
from tests.harness.tables import assert_caught_up
from tests.harness.tiny_alpine import tiny_alpine


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


@pytest.mark.slow
@pytest.mark.parametrize("pause_s", [0.0, 3.0])
@pytest.mark.parametrize("names", [("sqlite",), ("alpine",), ("all", "--compress")])
def test_a_daemon_whose_home_was_renamed_creates_nothing_at_its_old_name(
    home: Path, names: tuple[str, ...], pause_s: float
) -> None:
    moved = home.with_name("moved")
    notify = abstract_name()
    with tiny_alpine() as alpine, NotifySocket(notify) as systemd:
        env = alpine.env | {"NOTIFY_SOCKET": notify}
        with daemon(home, *names, env=env) as d:
            until(lambda: systemd.has_received("READY=1"), "READY")
            home.rename(moved)
            time.sleep(pause_s)  # what it does by itself until it is asked to stop
            assert not home.exists()
            if d.process.poll() is None:
                d.send(signal.SIGTERM)
            assert d.wait() in (0, 3), d.err
            assert "Traceback" not in d.err
    assert not home.exists()
    moved.rename(home)
    assert not (home / "moved").exists()
    assert_ended_well(forked("project", "sqlite", "--once", home=home))
    assert_caught_up(home)


@pytest.mark.slow
def test_a_daemon_whose_data_was_renamed_does_not_create_the_home_it_was_in(home: Path) -> None:
    """The same one level above: a directory that holds homes is moved."""
    parent = home.with_name("parent")
    parent.mkdir()
    inner = parent / "home"
    home.rename(inner)
    notify = abstract_name()
    with (
        NotifySocket(notify) as systemd,
        daemon(inner, "sqlite", env={"NOTIFY_SOCKET": notify}) as d,
    ):
        until(lambda: systemd.has_received("READY=1"), "READY")
        parent.rename(home.with_name("elsewhere"))
        d.send(signal.SIGTERM)
        assert d.wait() in (0, 3)
    assert not parent.exists()


@pytest.mark.slow
def test_a_pipe_whose_home_was_renamed_creates_nothing_at_its_old_name(home: Path) -> None:
    moved = home.with_name("moved")
    with pipe(home) as p:
        p.send_items(a_signal(4))
        assert p.read_answers()[0]["seq"] == 4
        home.rename(moved)
        p.send_items(a_signal(5))
        answers = p.read_answers()
        p.close_stdin()
        code = p.wait()
    assert not home.exists()
    assert_receipts(moved, answers, code)


def assert_receipts(moved: Path, answers: list[dict[str, object]], code: int) -> None:
    """Acknowledged entries are in the log that the handle had opened, wherever it is now."""
    entries = assert_valid_log(moved)
    acknowledged = [answer for answer in answers if "seq" in answer]
    assert len(entries) == 4 + len(acknowledged)
    assert code == (0 if acknowledged else 3)


USES: dict[str, Callable[[EventLog], object]] = {
    "append": lambda log: log.append(a_signal(5)),
    "append many": lambda log: log.append_many(signals(3, start=5)),
    "read": lambda log: list(log.read()),
    "last seq": lambda log: log.last_seq,
    "close": lambda log: log.close(),
}


@pytest.mark.parametrize("use", USES)
def test_a_log_handle_whose_home_was_renamed_creates_nothing_at_its_old_name(
    home: Path, use: str
) -> None:
    moved = home.with_name("moved")
    with suppress(EventLogError), EventLog(home) as log:  # its close may say so, too
        log.append(a_signal(4))
        home.rename(moved)
        USES[use](log)
    assert not home.exists()
    assert_valid_log(moved)


def test_a_handle_that_only_read_does_not_create_a_renamed_home_by_its_first_append(
    home: Path,
) -> None:
    with EventLog(home) as log:
        home.rename(home.with_name("moved"))
        with pytest.raises(LogNotFound, match="moved or removed"):
            log.append(a_signal(4))
    assert not home.exists()


def test_a_handle_opened_where_there_is_no_home_creates_it_once(home: Path) -> None:
    new = home.with_name("new")
    with suppress(LogNotFound), EventLog(new) as log:  # its close cannot write the watermark
        assert log.append(a_signal(1)).seq == 1
        new.rename(home.with_name("moved"))
        with pytest.raises(LogNotFound, match="moved or removed"):
            log.append(a_signal(2))
    assert not new.exists()


@pytest.mark.slow
def test_a_tracker_whose_home_was_renamed_creates_nothing_at_its_old_name(home: Path) -> None:
    moved = home.with_name("moved")
    tracker = SignalTracker(home=home)
    try:
        assert tracker.get_stats()["total_signals"] == 3
        home.rename(moved)
        for read in (tracker.get_stats, tracker.get_latest_signals, tracker.flush_pending):
            with suppress(EventLogError):
                read()
    finally:
        tracker.close()
    assert not home.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        *(("project", "sqlite", "--once"), ("rebuild-database",), ("status",), ("signals",)),
        *(("parked", "retry", "--all"), ("backup", "dest"), ("compress",), ("doctor",)),
        *(("wait", "1", "--for", "projected", "--timeout", "0"), ("repair",), ("export",)),
    ],
)
def test_no_command_but_an_append_creates_a_home_that_is_not_there(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    home = tmp_path / "gone"
    done = forked(*words, home=home, cwd=tmp_path)
    assert "Traceback" not in done.err
    assert done.code in (0, 1, 3)
    assert not home.exists(), done
