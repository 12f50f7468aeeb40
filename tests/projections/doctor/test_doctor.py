"""`doctor` finds each real problem and names a remedy; a healthy home has no problem."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eventlog import LogCorrupt
from projections.alpine.credentials import FixedKey
from projections.delivery.projection import AlpineConfig
from projections.doctor.alpine import check_alpine
from projections.doctor.disk_trial import (
    SCRATCH_PREFIX,
    PromiseBroken,
    check_receipts,
    examine_disk,
)
from projections.doctor.doctor import CHECKS, examine_home
from projections.doctor.finding import (
    LEVELS,
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    DoctorFinding,
    Latency,
    is_ok,
    summarize_latency,
    sync_finding,
)
from projections.doctor.home import file_system_problem
from projections.doctor.machine import check_clock, sqlite_finding
from projections.run_directory import read_run_state
from tests.eventlog.test_hostile_input import assert_harmless
from tests.harness.alpine_server import AlpineServer
from tests.harness.command import COMMAND, Done, eventlog, strace
from tests.harness.daemon import daemon, ready
from tests.harness.deadline import DEADLINE_S, until
from tests.harness.log_checks import segments_in, tree_contents
from tests.harness.mounts import mounted, on_small_disk
from tests.harness.raw_http import answering, http_response, server
from tests.harness.read_side import append, project
from tests.harness.signals import signals
from tests.harness.tables import database_of, raw_entries
from tools.alpine.postgres import EmbeddedPostgres

ALWAYS = set(CHECKS) - {"stream", "evidence"}  # which are checked only where there is one
NO_ALPINE = {
    "ALPINE_API_URL": "",
    "ALPINE_API_KEY_FILE": "",
    "ALPINE_API_KEY": "",
    "ARGO_API_KEY": "",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for start in (1, 11, 21):
        append(home, *signals(10, start=start), segment_bytes=4_000)
    project(home)
    assert len(segments_in(home)) == 3
    return home


def doctor(home: Path, *words: object, under: Sequence[object] = (), **env: object) -> Done:
    messages = {name: str(value) for name, value in env.items()}
    done = eventlog("doctor", *words, home=home, env={**NO_ALPINE, **messages}, under=under)
    assert "Traceback" not in done.err
    assert done.code in (0, 1), done.err
    return done


def findings(home: Path, *, under: Sequence[object] = (), **env: object) -> list[dict[str, Any]]:
    """All findings, after a check that `ok` and the exit code agree with their levels."""
    done = doctor(home, "--json", under=under, **env)
    report = json.loads(done.out)
    found: list[dict[str, Any]] = report["findings"]
    assert {f["level"] for f in found} <= set(LEVELS)
    assert all((f["do"] is None) == (f["level"] == OK) for f in found)
    is_healthy = all(f["level"] != PROBLEM for f in found)
    assert (report["ok"], done.code) == (is_healthy, 0 if is_healthy else 1)
    return found


def levels(found: list[dict[str, Any]], check: str) -> list[str]:
    return [f["level"] for f in found if f["check"] == check]


def messages(found: list[dict[str, Any]], check: str) -> str:
    return " | ".join(f["found"] for f in found if f["check"] == check)


# -- a healthy home


@pytest.mark.slow
def test_a_healthy_home_has_no_problem_and_is_not_changed(home: Path) -> None:
    before = tree_contents(home)
    found = findings(home)
    assert tree_contents(home) == before
    assert PROBLEM not in {f["level"] for f in found}
    assert {f["check"] for f in found} == ALWAYS
    for check in ("log", "table", "file system", "permissions"):
        assert set(levels(found, check)) == {OK}, check
    text = doctor(home).out.decode()
    assert all(check in text for check in ALWAYS)


def test_a_missing_home_is_not_created(tmp_path: Path) -> None:
    found = findings(tmp_path / "not" / "yet")
    assert (levels(found, "log"), levels(found, "table")) == ([NOTE], [NOTE])
    assert os.listdir(tmp_path) == []


def test_a_home_of_the_old_tracker_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/signals.log").write_text("{}\n")
    done = eventlog("doctor", home=tmp_path)
    assert (done.code, done.out) == (3, b"")
    assert "import-legacy" in done.err


def test_every_finding_that_is_not_ok_has_a_remedy() -> None:
    with pytest.raises(AssertionError, match="what to do"):
        DoctorFinding(check="x", level=NOTE, found="y")
    with pytest.raises(AssertionError, match="what to do"):
        DoctorFinding(check="x", level=OK, found="y", do="z")
    assert is_ok([DoctorFinding(check="x", level=WARNING, found="y", do="z")])
    assert not is_ok([DoctorFinding(check="x", level=PROBLEM, found="y", do="z")])


# -- log and table


@pytest.mark.slow
def test_damage_is_a_problem(home: Path) -> None:
    database_of(home).write_bytes(b"SQLite format 3\0" + os.urandom(8_192))
    found = findings(home)
    assert levels(found, "table") == [PROBLEM]
    assert "rebuild-database" in " ".join(str(f["do"]) for f in found)
    data = bytearray(segments_in(home)[-1].read_bytes())
    data[len(data) // 2] ^= 1
    segments_in(home)[-1].write_bytes(data)
    findings(home)  # the other checks still run


def test_an_unreadable_log_is_a_problem_and_the_other_checks_still_run(
    home: Path,
) -> None:
    segment = segments_in(home)[-1]
    found = findings(home, under=strace("-P", segment, "-e", "inject=openat:error=EACCES"))
    assert levels(found, "log") == [PROBLEM]
    assert segment.name in messages(found, "log")
    assert {f["check"] for f in found} == ALWAYS


def test_a_newer_table_is_a_problem(home: Path) -> None:
    with closing(sqlite3.connect(database_of(home))) as db:
        db.execute("PRAGMA user_version = 99")
    found = findings(home)
    assert (levels(found, "table"), "newer" in messages(found, "table")) == ([PROBLEM], True)


# -- daemons


def test_it_says_which_projections_a_daemon_runs_and_which_not(home: Path) -> None:
    assert levels(findings(home), "daemon") == [NOTE]
    with ready(home, "sqlite") as d:
        found = findings(home)
        assert levels(found, "daemon") == [OK, NOTE]
        assert f"a daemon runs sqlite (process {d.process.pid}, since 2" in messages(
            found, "daemon"
        )
        assert "no daemon runs alpine for" in messages(found, "daemon")
        found = findings(home, EVENTLOG_STREAM="main")
        assert "no daemon runs alpine, mirror for" in messages(found, "daemon")
        d.process.kill()
        d.wait()
    assert levels(findings(home), "daemon") == [NOTE]  # its file is left, and not its lock


def test_a_projection_that_has_failed_is_a_problem_with_its_reason(home: Path) -> None:
    env = {"ALPINE_API_URL": "alpine.example.com", "ALPINE_API_KEY": "k"}
    with daemon(home, "all", env=env) as d:
        until(lambda: "projection_failed projection=alpine" in d.err)
        until(lambda: read_run_state(home, "sqlite").state == "running")
        found = findings(home)
        assert levels(found, "daemon") == [PROBLEM, OK]
        assert "alpine has failed since 2" in messages(found, "daemon")
        assert "ALPINE_API_URL" in messages(found, "daemon")
        assert d.stop() == 0


# -- file systems, mounted for real if the kernel allows it


def test_memory_is_a_problem_for_the_log(tmp_path: Path) -> None:
    under = on_small_disk("50%", tmp_path)
    found = findings(tmp_path, under=under)
    assert levels(found, "file system") == [PROBLEM, NOTE]
    assert "tmpfs" in messages(found, "file system")


def test_a_container_layer_gets_a_warning(tmp_path: Path) -> None:
    for name in ("home", "parts"):
        (tmp_path / name).mkdir()
    under = mounted(
        'mount -t tmpfs tmpfs "$2" && mkdir "$2/a" "$2/b" "$2/c" && mount -t'
        ' overlay -o "lowerdir=$2/a,upperdir=$2/b,workdir=$2/c" overlay "$1"',
        tmp_path / "home",
        tmp_path / "parts",
    )
    found = findings(tmp_path / "home", under=under)
    assert levels(found, "file system") == [WARNING, WARNING]
    assert OK in levels(found, "sync") or WARNING in levels(found, "sync")


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        *(("nfs4", PROBLEM), ("cifs", PROBLEM), ("fuse.sshfs", PROBLEM), ("fuse.x", WARNING)),
        *(("", NOTE), ("ext4", None), ("xfs", None), ("btrfs", None), ("zfs", None)),
    ],
)
def test_each_kind_of_file_system_has_its_finding(kind: str, level: str | None) -> None:
    problem = file_system_problem(kind, is_log=True)
    assert (problem and problem[0]) == level


@pytest.mark.parametrize(
    ("options", "level"),
    [
        *(("size=16m", PROBLEM), ("size=500m", WARNING), ("size=2g", OK)),
        *(("size=2g,nr_inodes=30", PROBLEM), ("size=2g,nr_inodes=500", WARNING)),
    ],
)
def test_little_space_and_few_inodes_are_found(tmp_path: Path, options: str, level: str) -> None:
    under = mounted(f'mount -t tmpfs -o {options} tmpfs "$1"', tmp_path)
    assert levels(findings(tmp_path, under=under), "space") == [level, level]


def test_a_disk_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    under = mounted('mount -t tmpfs -o ro tmpfs "$1"', tmp_path)
    found = findings(tmp_path, under=under)
    assert levels(found, "sync") == [WARNING]
    assert "Read-only" in messages(found, "sync")


# -- sync


def test_an_implausibly_fast_or_slow_sync_gets_a_warning() -> None:
    def level(p50: int, p99: int) -> str:
        return sync_finding("sync", Latency(count=100, p50=p50, p99=p99)).level

    assert [level(1, 5), level(14, 900), level(15, 900), level(150, 4_000)] == [
        *(WARNING, WARNING, OK, OK)
    ]
    assert [level(25_000, 30_000), level(150, 600_000)] == [WARNING, WARNING]
    assert summarize_latency([5_000]) == Latency(count=1, p50=5, p99=5)
    assert summarize_latency([n * 1_000 for n in range(1, 101)]) == Latency(
        count=100, p50=51, p99=100
    )


# -- permissions


@pytest.mark.slow
def test_files_that_others_may_change_or_read_are_found(home: Path) -> None:
    segments_in(home)[0].chmod(0o644)
    found = findings(home)
    assert levels(found, "permissions") == [WARNING]
    assert segments_in(home)[0].name in messages(found, "permissions")
    segments_in(home)[1].chmod(0o666)
    (home / "data").chmod(0o2770)
    found = findings(home)
    assert sorted(levels(found, "permissions")) == [PROBLEM, WARNING]
    assert "data" in messages(found, "permissions")


def test_a_group_readable_database_is_ok(home: Path) -> None:
    (home / "data").chmod(0o2750)
    database_of(home).chmod(0o640)
    assert levels(findings(home), "permissions") == [OK]


@pytest.mark.slow
def test_a_link_instead_of_a_file_is_found(home: Path, tmp_path: Path) -> None:
    segment = segments_in(home)[-1]
    segment.rename(tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    found = findings(home)
    assert (levels(found, "log"), levels(found, "permissions")) == ([PROBLEM], [PROBLEM])
    assert "signals.log" not in messages(found, "permissions")
    database_of(home).unlink()
    database_of(home).mkdir()
    assert levels(findings(home), "table") == [PROBLEM]


def test_a_directory_of_closed_segments_is_checked_like_the_log(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "large-disk"
    archive.mkdir(mode=0o700)
    (home / "logs/closed").symlink_to(archive)
    found = findings(home)
    assert levels(found, "permissions") == [OK]
    for check in ("file system", "space"):
        assert "logs/closed/ " in messages(found, check)
    (archive / "readable").touch()
    (archive / "readable").chmod(0o644)
    archive.chmod(0o777)
    found = findings(home)
    assert sorted(levels(found, "permissions")) == [PROBLEM, WARNING]
    assert "logs/closed/readable" in messages(found, "permissions")
    archive.rename(tmp_path / "elsewhere")
    found = [f for f in findings(home) if f["check"] == "permissions"]
    assert [f["level"] for f in found] == [PROBLEM]
    assert "mount the disk" in found[0]["do"]


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the owner needs root: sudo tools/test")
def test_files_of_another_account_are_found(home: Path) -> None:
    os.chown(database_of(home), 12_345, -1)
    found = findings(home)
    assert levels(found, "permissions") == [WARNING]
    assert "signals.db" in messages(found, "permissions")


def test_many_files_with_one_problem_are_one_finding(home: Path) -> None:
    for number in range(50):
        path = home / "data" / f"x-{number:02}"
        path.touch()
        path.chmod(0o666)
    found = [f for f in findings(home) if f["check"] == "permissions" and "change" in f["found"]]
    assert len(found) == 1
    assert "and 45 more" in found[0]["found"]


# -- the machine


def test_a_known_bug_of_sqlite_is_found_by_its_version() -> None:
    assert [sqlite_finding(v).level for v in ((3, 40, 1), (3, 51, 2), (3, 51, 3), (3, 53, 0))] == [
        *(NOTE, NOTE, OK, OK)
    ]
    assert "run/signals.lock" in sqlite_finding((3, 40, 1)).found


@pytest.mark.parametrize(
    ("last", "level"),
    [(-60, None), (30, WARNING), (7_200, PROBLEM), (None, None)],
)
def test_an_entry_from_the_future_is_found(last: int | None, level: str | None) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    moment = None if last is None else now + timedelta(seconds=last)
    (found,) = check_clock(now, None if moment is None else moment.isoformat())
    assert found.level == level if level else found.level in (OK, NOTE)


def test_a_clock_that_was_never_set_is_a_problem() -> None:
    (found,) = check_clock(datetime(1970, 1, 1, tzinfo=UTC), None)
    assert (found.level, found.check) == (PROBLEM, "clock")


@pytest.mark.parametrize("what", ["instances", "watches"])
def test_without_inotify_watches_the_polling_delay_is_reported(home: Path, what: str) -> None:
    unshare = shutil.which("unshare")
    script = f'echo 0 > /proc/sys/user/max_inotify_{what} && exec "$@"'
    under = (unshare, "-r", "sh", "-ec", script, "sh")
    probe = [*map(str, under), "true"]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives no user namespaces")
    found = findings(home, under=under)
    assert levels(found, "inotify") == [WARNING]
    assert "within a second" in messages(found, "inotify")


def test_a_check_that_cannot_run_stops_no_other_check(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    no_alpine = AlpineConfig(url="", key=FixedKey(""), disabled="off")
    (home / "data").chmod(0)
    try:
        found = list(examine_home(home, no_alpine, now=datetime.now(UTC)))
    finally:
        (home / "data").chmod(0o700)
    assert {f.check for f in found} >= {"python", "space", "alpine"}


# -- Alpine


@pytest.fixture(scope="module")
def alpine() -> Iterator[AlpineServer]:
    with EmbeddedPostgres() as postgres, AlpineServer(postgres=postgres, misbehave=False) as found:
        yield found


def key_file(directory: Path, text: str = "k", *, mode: int = 0o600) -> Path:
    path = directory / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def alpine_levels(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(f["check"], f["level"]) for f in found if f["check"].startswith("alpine")]


@pytest.mark.slow
def test_alpine_and_its_key_are_tried_and_nothing_changes_there(
    home: Path, alpine: AlpineServer
) -> None:
    found = findings(home, ALPINE_API_URL=alpine.url, ALPINE_API_KEY_FILE=alpine.key_file)
    assert alpine_levels(found) == [("alpine", OK), ("alpine key", OK), ("alpine key", OK)]
    assert alpine.rows() == []
    assert alpine.key.decode() not in json.dumps(found)


@pytest.mark.slow
def test_a_wrong_key_is_a_problem_and_is_never_shown(
    home: Path, tmp_path: Path, alpine: AlpineServer
) -> None:
    key = key_file(tmp_path, "s3cr3t-and-wrong\n")
    for words in (("doctor",), ("doctor", "--json")):
        env = {**NO_ALPINE, "ALPINE_API_URL": alpine.url, "ALPINE_API_KEY_FILE": str(key)}
        done = eventlog(*words, home=home, env=env)
        assert done.code == 1
        assert b"Alpine refuses it: 401" in done.out
        assert "s3cr3t" not in done.out.decode() + done.err


@pytest.mark.slow
def test_a_dead_address_is_a_problem(home: Path, tmp_path: Path) -> None:
    key = key_file(tmp_path)
    found = findings(home, ALPINE_API_URL="http://127.0.0.1:1", ALPINE_API_KEY_FILE=key)
    assert alpine_levels(found) == [("alpine", PROBLEM), ("alpine key", OK)]
    assert "no answer" in messages(found, "alpine")
    found = findings(home, ALPINE_API_URL="ftp://x", ALPINE_API_KEY_FILE=key)
    assert ("alpine", PROBLEM) in alpine_levels(found)


@pytest.mark.parametrize(
    ("mode", "level"), [(0o600, OK), (0o640, OK), (0o644, PROBLEM), (0o620, PROBLEM)]
)
def test_a_key_file_readable_by_others_is_found(
    home: Path, tmp_path: Path, mode: int, level: str
) -> None:
    key = key_file(tmp_path, mode=mode)
    found = findings(home, ALPINE_API_URL="http://127.0.0.1:1", ALPINE_API_KEY_FILE=key)
    assert levels(found, "alpine key") == [level]


@pytest.mark.slow
def test_a_missing_key_or_one_in_the_environment_is_reported(home: Path, tmp_path: Path) -> None:
    url = "http://127.0.0.1:1"
    found = findings(home, ALPINE_API_URL=url, ALPINE_API_KEY_FILE=tmp_path / "none")
    assert levels(found, "alpine key") == [PROBLEM]
    found = findings(home, ALPINE_API_URL=url, ALPINE_API_KEY="s3cr3t")
    assert levels(found, "alpine key") == [NOTE]
    assert "s3cr3t" not in json.dumps(found)
    found = findings(home, ALPINE_API_URL=url)
    assert (levels(found, "alpine")[0], levels(found, "alpine key")) == (NOTE, [])
    assert "delivery is disabled" in messages(found, "alpine")


def answers(*responses: bytes) -> list[DoctorFinding]:
    """The findings about an Alpine that gives these answers."""

    async def run() -> list[DoctorFinding]:
        async with server(answering(*responses)) as found:
            return await check_alpine(AlpineConfig(url=found.url, key=FixedKey("k")))

    return asyncio.run(run())


def test_a_backend_without_a_list_leaves_the_key_unchecked() -> None:
    _, key, _ = answers(http_response(200, b"{}"), http_response(404, b'{"detail":"Not Found"}'))
    assert (key.check, key.level) == ("alpine key", NOTE)
    assert "404" in key.found


def test_an_alpine_url_without_a_key_is_a_problem() -> None:
    async def run() -> list[DoctorFinding]:
        async with server(answering(http_response(200, b"{}"))) as found:
            return await check_alpine(AlpineConfig(url=found.url, key=FixedKey("")))

    health, key = asyncio.run(run())
    assert (health.level, key.check, key.level) == (OK, "alpine key", PROBLEM)
    assert "there is no API key" in key.found


def test_an_unhealthy_alpine_is_a_problem_and_its_answer_is_escaped() -> None:
    hostile = b"\x1b[2J\x1b]0;x\x07" + b"x" * 10_000
    first, *_ = answers(http_response(503, hostile))
    assert (first.check, first.level) == ("alpine", PROBLEM)
    assert_harmless(first.found)
    assert len(first.found) < 2_000


# -- hostile names


def test_file_names_are_shown_escaped(tmp_path: Path) -> None:
    home = tmp_path / "a \x1b[31m\u202e home"
    append(home, *signals(2))
    path = home / "data" / "\x1b[2J\x07"
    path.touch()
    path.chmod(0o666)
    done = doctor(home, ALPINE_API_KEY_FILE="\x1b[2J", ALPINE_API_URL="http://127.0.0.1:1")
    assert_harmless(done.out.decode() + done.err)


# -- the disk


def disk(directory: Path, *words: object, under: Sequence[object] = ()) -> Any:
    done = doctor(directory, "--disk", directory, "--json", *words, under=under)
    return json.loads(done.out)


DISK_CHECKS = [
    f"disk {what}" for what in ("kind", "sync", "kill", "torn", "flip", "full", "verdict")
]


@pytest.mark.slow
def test_a_healthy_disk_passes_the_trial_and_no_file_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    report = disk(tmp_path, "--seconds", 1)
    found = report["findings"]
    assert [f["check"] for f in found] == DISK_CHECKS
    assert report["ok"], found
    assert {f["level"] for f in found if f["check"] in DISK_CHECKS[2:6]} == {OK}
    measured = report["measured"]
    assert measured["kills"] >= 3
    assert measured["receipts"] > 0
    assert (measured["torn"], measured["flips"]) == (9, 40)
    assert 0 < measured["full_after"] < 100
    for name in ("write_fdatasync_us", "append_us"):
        assert measured[name].keys() == {"count", "p50", "p99"}
        assert measured[name]["count"] > 0
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.slow
def test_a_full_or_unwritable_disk_is_a_problem_without_a_traceback(tmp_path: Path) -> None:
    under = on_small_disk("48k", tmp_path)
    report = disk(tmp_path, "--seconds", 0, under=under)
    assert not report["ok"]
    assert levels(report["findings"], "disk verdict") == [PROBLEM]
    assert "No space left" in json.dumps(report["findings"])
    under = mounted('mount -t tmpfs -o ro tmpfs "$1"', tmp_path)
    words = ("doctor", "--disk", tmp_path, "--seconds", 0)
    done = eventlog(*words, home=tmp_path, under=under)
    assert done.code == 3
    assert "Read-only" in done.err


@pytest.mark.slow
def test_when_stopped_it_removes_its_scratch_files(tmp_path: Path) -> None:
    words = [*map(str, (COMMAND, "doctor", "--disk", tmp_path, "--seconds", 60))]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until(lambda: list(tmp_path.glob(f"{SCRATCH_PREFIX}*/kill/logs")) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (130, b"")
    assert os.listdir(tmp_path) == []


def test_a_missing_or_damaged_acknowledged_entry_is_detected(home: Path) -> None:
    entries = raw_entries(home)
    receipts = [(entry.seq, entry.chain) for entry in entries]
    check_receipts(home, receipts)
    for wrong in ((31, "0" * 64), (20, "0" * 64)):
        with pytest.raises(PromiseBroken, match="was acknowledged, but is not in the log"):
            check_receipts(home, [*receipts, wrong])
    data = bytearray(segments_in(home)[0].read_bytes())
    data[100] ^= 1
    segments_in(home)[0].write_bytes(data)
    with pytest.raises(LogCorrupt):
        check_receipts(home, receipts)


@pytest.mark.slow
def test_a_disk_that_loses_acknowledged_entries_is_a_problem(tmp_path: Path) -> None:
    """A thread truncates each log, as a disk does that loses flushed writes."""

    stop = threading.Event()

    def keep_losing() -> None:
        while not stop.wait(0.01):
            for segment in tmp_path.glob(f"{SCRATCH_PREFIX}*/*/logs/*.jsonl"):
                with suppress(FileNotFoundError):
                    os.truncate(segment, 0)

    thread = threading.Thread(target=keep_losing)
    thread.start()
    try:
        measured = examine_disk(tmp_path, seconds=0)
    finally:
        stop.set()
        thread.join()
    bad = {f.check for f in measured.findings if f.level == PROBLEM}
    assert {"disk kill", "disk verdict"} <= bad
    assert os.listdir(tmp_path) == []


def test_seconds_without_a_disk_is_wrong_usage(tmp_path: Path) -> None:
    assert eventlog("doctor", "--seconds", 3, home=tmp_path).code == 2
    assert eventlog("doctor", "--disk", tmp_path / "none", home=tmp_path).code == 2
