"""Output is whole, or the command says that it is not: exit code 3 and a message (C4).

A stream without Python's buffer writes what the system takes and forgets the rest; one that is
non-blocking refuses what its reader has not made room for.
"""

import csv
import io
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import COMMAND, Done, command_line, eventlog
from tests.harness.mounts import on_small_disk
from tests.harness.read_side import project
from tests.harness.signals import a_signal

SIGNALS = 1_500
LIMIT_BYTES = 100_000  # of a file; each of these outputs is longer
LONG = (
    ("cat",),
    ("tail", "-n", "5000"),
    ("tail", "-n", "5000", "--json"),
    ("signals", "--limit", "5000"),
    ("signals", "--limit", "5000", "--json"),
    ("export",),
    ("export", "--format", "parquet"),
)
SHORT = (
    *(("signals",), ("signals", "--json"), ("stats",), ("stats", "--json"), ("digest",)),
    *(("status",), ("status", "--json"), ("verify",), ("verify", "--json")),
    *(("parked", "list", "--json"), ("top", "--once"), ("--help",)),
    *(("rebuild-database",), ("rebuild-database", "--json"), ("compress",), ("repair",)),
    *(("project", "--help"), ("--version",), ("export", "--symbol", "NONE")),
    *(("backup", "DEST"), ("backup", "DEST", "--json"), ("export", "--output", "FILE", "--json")),
)
BUFFERING = [{}, {"PYTHONUNBUFFERED": "1"}]
BUFFERING_NAMES = ["buffered", "unbuffered"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose outputs are longer than a pipe, a buffer and the limits."""
    home = tmp_path_factory.mktemp("output") / "home"
    notes = (os.urandom(100).hex() for _ in range(SIGNALS))  # Parquet shrinks what repeats
    with EventLog(home) as log:
        log.append_many([a_signal(number, note=note) for number, note in enumerate(notes, 1)])
    project(home)
    return home


@pytest.fixture(params=BUFFERING, ids=BUFFERING_NAMES)
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    chosen: dict[str, str] = request.param
    return chosen


def named(words: tuple[str, ...], folder: Path) -> list[str]:
    places = {"DEST": str(folder / "backup"), "FILE": str(folder / "signals.csv")}
    return [places.get(word, word) for word in words]


def assert_refused(done: Done) -> None:
    assert done.code == 3, (done.code, done.err)
    assert done.err.startswith("error: "), done.err
    assert "Traceback" not in done.err and "Exception" not in done.err


def sizes(home: Path, words: tuple[str, ...]) -> int:
    """Bytes of the whole output."""
    done = eventlog(*words, home=home)
    assert done.code == 0, done.err
    return len(done.out)


# -- a disk that is full


@pytest.mark.parametrize("words", LONG, ids=" ".join)
def test_output_that_a_limited_file_cannot_hold_is_an_error(
    home: Path, tmp_path: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    """As under `ulimit -f`: the last write is a short one, and the next one fails."""
    path = tmp_path / "out"
    script = f'ulimit -f {LIMIT_BYTES // 1024}; trap "" XFSZ; exec "$@" > "$0"'
    done = eventlog(*words, home=home, env=env, under=("bash", "-c", script, path))
    assert path.stat().st_size <= LIMIT_BYTES
    assert_refused(done)


@pytest.mark.slow
@pytest.mark.parametrize("words", LONG, ids=" ".join)
def test_output_that_a_full_disk_cannot_hold_is_an_error(
    home: Path, tmp_path: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    under = (*on_small_disk("100k", disk), "sh", "-c", 'exec "$@" > "$0"', disk / "out")
    assert_refused(eventlog(*words, home=home, env=env, under=under))


@pytest.mark.slow
@pytest.mark.parametrize("words", [*LONG, *SHORT], ids=" ".join)
def test_output_that_nothing_takes_is_an_error(
    home: Path, tmp_path: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    with open("/dev/full", "wb") as full:
        done = eventlog(*named(words, tmp_path), home=home, env=env, stdout=full.fileno())
    assert_refused(done)
    assert "No space left on device" in done.err


# -- a pipe with a slow reader


def read_late(words: list[str], env: dict[str, str], *, blocking: bool) -> tuple[int, bytes, bytes]:
    """Exit code, output and messages where the reader comes when the pipe has long been full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    with subprocess.Popen(
        words, stdout=writer, stderr=subprocess.PIPE, env={**os.environ, **env}
    ) as process:
        os.close(writer)
        time.sleep(1)  # by now the pipe is full, and whoever does not wait has given up
        with open(reader, "rb") as file:
            out = file.read()
        assert process.stderr is not None
        err = process.stderr.read()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("words", LONG, ids=" ".join)
def test_a_non_blocking_stdout_with_a_slow_reader_gets_every_byte(
    home: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    whole = eventlog(*words, home=home).out
    code, out, err = read_late(command_line(words, home, ()), env, blocking=False)
    assert (code, len(out)) == (0, len(whole)), err
    if "parquet" not in words:  # it holds the moment at which it was made
        assert out == whole


def test_a_non_blocking_stdout_gets_a_short_answer_too(home: Path, env: dict[str, str]) -> None:
    for words in (("stats", "--json"), ("digest",), ("--version",)):
        code, out, _ = read_late(command_line(words, home, ()), env, blocking=False)
        assert (code, out) == (0, eventlog(*words, home=home).out)


@pytest.mark.slow
@pytest.mark.parametrize("words", LONG, ids=" ".join)
def test_a_reader_that_has_enough_ends_the_command_quietly(
    home: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    script = '"$0" --home "$@" | head -c 100 >/dev/null; exit "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, str(COMMAND), str(home), *words],
        capture_output=True,
        env={**os.environ, **env},
        timeout=60,
        check=False,
    )
    assert done.stderr in (b"", b"  \r") or b"error" not in done.stderr.lower()
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0, "failure catalogue C4: a closed pipe ends quietly with 0"


@pytest.mark.slow
def test_a_non_blocking_stdout_whose_reader_has_gone_ends_the_command_quietly(
    home: Path, env: dict[str, str]
) -> None:
    for words in (("export",), ("signals", "--limit", "5000")):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with subprocess.Popen(
            command_line(words, home, ()),
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
        ) as process:
            os.close(writer)
            os.read(reader, 1)
            os.close(reader)
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()


# -- what the summary claims


@pytest.mark.parametrize("words", [("export",), ("export", "--json")], ids=" ".join)
def test_the_summary_of_an_export_claims_only_what_was_written(
    home: Path, tmp_path: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    script = f'ulimit -f {LIMIT_BYTES // 1024}; trap "" XFSZ; exec "$@" > "$0"'
    under = ("bash", "-c", script, tmp_path / "out")
    done = eventlog(*words, home=home, env=env, under=under)
    assert f"{SIGNALS} signals" not in done.err
    assert '"sha256"' not in done.err
    assert done.code == 3


def test_a_whole_export_is_whole_without_a_buffer(home: Path, env: dict[str, str]) -> None:
    done = eventlog("export", "--json", home=home, env=env)
    metadata = json.loads(done.err.splitlines()[-1])
    assert metadata["bytes"] == len(done.out)
    rows = list(csv.DictReader(io.StringIO(done.out.decode())))
    assert len(rows) == metadata["rows"] == SIGNALS


def test_messages_that_nothing_takes_do_not_change_the_outcome(
    home: Path, env: dict[str, str]
) -> None:
    under = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    done = eventlog("export", home=home, env=env, under=under)
    assert (done.code, len(done.out)) == (0, sizes(home, ("export",)))
