"""`status` says who runs each projection: by the lock of its run file, never by a pid alone."""

import asyncio
import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from projections.run_directory import RUNNING, read_run_state
from projections.runtime.run_files import holding_run_files
from tests.harness.command import eventlog
from tests.harness.daemon import daemon, ready
from tests.harness.deadline import until, until_async
from tests.harness.mounts import on_small_disk
from tests.harness.privileges import bound_by_modes
from tests.harness.read_side import append, project
from tests.harness.shared_data import hold
from tests.harness.signals import signals
from tests.harness.tables import seq_in

NOT_RUNNING = {"pid": None, "since": None, "reason": None}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    return home


def daemons(home: Path, under: tuple[object, ...] = ()) -> dict[str, Any]:
    """The object `daemon` of each projection, as `eventlog status --json` shows it."""
    done = eventlog("status", "--json", home=home, under=under)
    assert done.code == 0
    projections = done.answers[0]["projections"]
    return {name: figures["daemon"] for name, figures in projections.items()}


def test_each_registered_projection_has_the_object_whether_it_runs_or_not(home: Path) -> None:
    stopped = {"state": "stopped", **NOT_RUNNING}
    assert daemons(home) == {"sqlite": stopped, "alpine": stopped}
    assert not (home / "run").exists()
    with ready(home, "sqlite") as d:
        found = daemons(home)
        assert found["alpine"] == stopped
        assert found["sqlite"] | {"since": ""} == {
            "state": "running",
            "pid": d.process.pid,
            "since": "",
            "reason": None,
        }
        assert datetime.fromisoformat(found["sqlite"]["since"]).tzinfo is not None
        assert d.stop() == 0
    assert daemons(home)["sqlite"] == stopped
    assert json.loads((home / "run" / "sqlite.json").read_text())["state"] == "stopped"


def test_the_file_of_a_killed_daemon_does_not_count(home: Path) -> None:
    with ready(home, "sqlite") as d:
        d.send(signal.SIGKILL)
        d.wait()
    assert json.loads((home / "run" / "sqlite.json").read_text())["state"] == "running"
    assert daemons(home)["sqlite"] == {"state": "stopped", **NOT_RUNNING}


def test_a_pid_that_lives_does_not_count_without_the_lock(home: Path) -> None:
    (home / "run").mkdir(mode=0o700)
    report = {"state": "running", "pid": os.getpid(), "since": "", "reason": None}
    (home / "run" / "sqlite.json").write_text(json.dumps(report))
    assert daemons(home)["sqlite"]["state"] == "stopped"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state":"running"}', '{"pid":null}', "\0"])
def test_the_lock_counts_whatever_the_file_says(home: Path, content: str) -> None:
    (home / "run").mkdir(mode=0o700)
    path = home / "run" / "sqlite.json"
    with hold(path):
        path.write_text(content)
        assert daemons(home)["sqlite"] == {"state": "running", **NOT_RUNNING}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("x", path)])
def test_something_else_in_place_of_a_run_file_is_unknown_and_nothing_hangs(
    home: Path, make: Any
) -> None:
    (home / "run").mkdir(mode=0o700)
    make(home / "run" / "sqlite.json")
    assert daemons(home)["sqlite"]["state"] in ("unknown", "stopped")


def test_an_account_that_cannot_read_run_does_not_know(home: Path) -> None:
    with ready(home, "sqlite"):
        (home / "run").chmod(0)
        try:
            found = daemons(home, under=bound_by_modes())
        finally:
            (home / "run").chmod(0o700)
    unknown = {"state": "unknown", **NOT_RUNNING}
    assert found == {"sqlite": unknown, "alpine": unknown}


def test_status_for_a_person_says_who_runs_a_projection(home: Path) -> None:
    env = {"ALPINE_API_URL": "alpine.example.com", "ALPINE_API_KEY": "k"}
    with daemon(home, "all", env=env) as d:
        until(lambda: read_run_state(home, "alpine").state == "failed")
        until(lambda: read_run_state(home, "sqlite").state == "running")
        lines = eventlog("status", home=home).out.decode().splitlines()
        shown = [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == "daemon"]
        assert len(shown) == 2
        assert shown[0].startswith("failed (")
        assert "ALPINE_API_URL" in shown[0]
        assert shown[1].startswith(f"running (process {d.process.pid}, since ")


@pytest.mark.slow
def test_on_a_full_disk_the_lock_is_held_and_the_report_follows(home: Path) -> None:
    project(home)
    small = on_small_disk("1m", home / "run")
    script = 'chmod 700 "$0/run"; dd if=/dev/zero of="$0/run/filler" bs=4096 2>/dev/null; exec "$@"'
    with daemon(home, "sqlite", under=(*small, "sh", "-c", script, home)) as d:
        until(lambda: "run_file_not_written" in d.err, lambda: d.err)
        inside = Path(f"/proc/{d.process.pid}/root{home}")
        assert read_run_state(inside, "sqlite").state == "running"
        (inside / "run" / "filler").unlink()
        until(lambda: read_run_state(inside, "sqlite").pid == d.process.pid)
        assert d.err.count("run_file_not_written") == 1
        assert "run_file_written_again" in d.err
        assert d.stop() == 0


def test_a_report_is_read_whole_while_it_changes(home: Path) -> None:
    """The file is written in place; a reader that meets it half written reads again."""

    async def run() -> None:
        async with holding_run_files(home, ["odd/name"]) as files:
            file = files["odd/name"]
            for number in range(300):
                file.report(state=RUNNING, since=str(number), reason="r" * (number % 7 * 500))
                if number % 10 == 0:
                    found = await asyncio.to_thread(read_run_state, home, "odd/name")
                    assert (found.state, found.pid) == ("running", os.getpid())
            await until_async(lambda: read_run_state(home, "odd/name").since == "299")

    asyncio.run(run())
    assert (home / "run" / "odd%2Fname.json").exists()
    assert seq_in(home) == -1
