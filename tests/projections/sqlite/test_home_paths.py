"""A home whose path SQLite would read as a URI, or refuses, works or is refused at once (C5)."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError
from projections import SignalTracker
from tests.harness.command import COMMAND, eventlog, jsonl
from tests.harness.deadline import DEADLINE_S
from tests.harness.log_checks import assert_valid_log, tree_contents
from tests.harness.privileges import bound_by_modes
from tests.harness.signals import a_signal, signals

LONG_NAME = b"n" * 200
NAMES = {
    "two slashes": b"/",  # in front of the whole path: SQLite takes //tmp for a host
    "three slashes": b"//",
    "question mark": b"a?mode=memory",
    "hash": b"a#b",
    "percent": b"100%25%2f%00",
    "newline": b"a\nb",
    "quotes": b'it\'s "so"',
    "backslash": b"a\\b",
    "colon": b"file:x:",
    "option": b"-rf",
    "space": b" a b ",
    "umlaut": "Gewürz✓".encode(),
    "not utf-8": b"a\xffb",
    "only not utf-8": b"\x80\xff",
    "over 512 bytes": b"/".join([LONG_NAME] * 3),
    "3 KB": b"/".join([LONG_NAME] * 15),
    "just below 512 bytes": b"",  # its length depends on where it stands
}


class Ended:
    """How a command on a path of any bytes ended."""

    def __init__(self, home: bytes, *words: object, stdin: bytes = b"") -> None:
        command = [os.fsencode(COMMAND), b"--home", home, *(os.fsencode(str(w)) for w in words)]
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=DEADLINE_S, check=False
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        assert b"Traceback" not in self.err, self.err.decode(errors="replace")


@pytest.fixture
def short() -> Iterator[bytes]:
    """A directory with a short path of its own."""
    path = tempfile.mkdtemp(prefix="p")
    yield os.fsencode(path)
    shutil.rmtree(os.fsencode(path))


@pytest.fixture(params=NAMES, ids=lambda name: name)
def home(request: pytest.FixtureRequest, short: bytes) -> bytes:
    name = NAMES[request.param]
    if request.param.endswith("slashes"):
        return name + short + b"/home"
    if request.param.startswith("just below"):
        suffix = b"/data/signals.db"
        return short + b"/" + _path_of_length(511 - len(short) - 1 - len(suffix))
    return short + b"/" + name


def _path_of_length(length: int) -> bytes:
    parts = []
    while length > 200:
        parts.append(b"d" * 150)
        length -= 151
    return b"/".join([*parts, b"d" * length])


def works_or_was_refused(home: bytes) -> bool:
    """Appends; True where it works. Else it was refused before anything was made."""
    top = os.fsdecode(home.replace(b"//", b"/"))
    done = Ended(home, "append", stdin=jsonl(signals(3)))
    if done.code == 0:
        return True
    assert done.code == 3, done.err
    assert done.err.startswith(b"error: ")
    assert not os.path.lexists(top), "it was refused, and yet something was made"
    return False


@pytest.mark.slow
def test_every_command_works_in_the_home_or_refuses_it_before_it_is_made(
    home: bytes, tmp_path: Path
) -> None:
    if not works_or_was_refused(home):
        return
    logs = Path(os.fsdecode(home))
    assert len(assert_valid_log(logs)) == 3
    for words in (("project", "sqlite", "--once"), ("rebuild-database",), ("status",)):
        assert Ended(home, *words).code == 0, words
    assert Ended(home, "signals", "--json").out.count(b'"signal_id"') == 3
    for line in ("stats", "digest", "verify", "tail", "top --once", "export"):
        done = Ended(home, *line.split())
        assert (done.code, bool(done.out)) == (0, True), (line, done.err)
    assert Ended(home, "wait", 3, "--timeout", 5).code == 0
    assert Ended(home, "parked", "list").code == 0
    assert Ended(home, "backup", tmp_path / "backup").code == 0
    assert Ended(home, "append", stdin=jsonl([a_signal(4)])).code == 0
    assert Ended(home, "project", "sqlite", "--once").code == 0
    names = {os.fsdecode(name) for name in os.listdir(home + b"/data")}
    assert not [name for name in names if name.endswith((".new", "-journal")) or "damaged" in name]


def test_the_python_interface_works_in_the_home_or_refuses_it(home: bytes) -> None:
    path = os.fsdecode(home)
    try:
        with EventLog(path) as log:
            assert log.append(a_signal(1)).seq == 1
    except EventLogError:
        assert not os.path.lexists(path)
        return
    with closing(SignalTracker(home=path)) as tracker:
        found = tracker.get_latest_signals("AAPL", limit=10)
    assert [signal["signal_id"] for signal in found] == ["s-1"]


def test_the_database_stands_in_the_home_and_nowhere_else(home: bytes) -> None:
    if works_or_was_refused(home):
        assert Ended(home, "project", "sqlite", "--once").code == 0
        found = os.listdir(home + b"/data")
        assert b"signals.db" in found
        with open(home + b"/data/signals.db", "rb") as file:
            assert file.read(15) == b"SQLite format 3"


# -- the guard for the old tracker's home


OLD_TABLE = """CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT, signal_id TEXT UNIQUE NOT NULL, symbol TEXT NOT NULL,
    action TEXT NOT NULL, entry_price REAL NOT NULL, target_price REAL NOT NULL,
    stop_price REAL NOT NULL, confidence REAL NOT NULL, strategy TEXT NOT NULL,
    asset_type TEXT NOT NULL, data_source TEXT DEFAULT 'weighted_consensus',
    timestamp TEXT NOT NULL, outcome TEXT DEFAULT NULL, exit_price REAL DEFAULT NULL,
    profit_loss_pct REAL DEFAULT NULL, sha256 TEXT NOT NULL, order_id TEXT DEFAULT NULL,
    created_at TEXT DEFAULT CURRENT_TIMESTAMP)"""
OLD_ROW = """INSERT INTO signals (signal_id, symbol, action, entry_price, target_price, stop_price,
    confidence, strategy, asset_type, timestamp, sha256) VALUES ('old', 'AAPL', 'BUY', 150.5, 158.0,
    147.0, 85.5, 'momentum', 'stock', '2025-11-18T02:00:00+00:00', '')"""


def make_old_home(home: bytes) -> None:
    """A home of the old tracker; made elsewhere, for SQLite may refuse its path."""
    os.makedirs(home + b"/data")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "signals.db")
        with closing(sqlite3.connect(path)) as database:
            database.execute(OLD_TABLE)
            database.execute(OLD_ROW)
            database.commit()
        shutil.copy(os.fsencode(path), home + b"/data/signals.db")


@pytest.mark.slow
def test_the_old_trackers_home_is_refused_whatever_its_path(home: bytes) -> None:
    make_old_home(home)
    before = tree_contents(Path(os.fsdecode(home)))
    for words in (("append",), ("cat",), ("project", "sqlite", "--once"), ("rebuild-database",)):
        done = Ended(home, *words, stdin=jsonl([a_signal()]))
        assert (done.code, b"Traceback" in done.err) == (3, False), (words, done.err)
        assert tree_contents(Path(os.fsdecode(home))) == before, words
    with pytest.raises(EventLogError):
        EventLog(os.fsdecode(home)).append(a_signal())
    assert tree_contents(Path(os.fsdecode(home))) == before


@pytest.mark.parametrize("damage", ["unreadable", "a directory", "a dangling link"])
def test_a_database_that_cannot_be_examined_is_not_taken_for_none(
    tmp_path: Path, damage: str
) -> None:
    """It may be the old tracker's: nothing is made beside it."""
    home = tmp_path / "home"
    path = home / "data/signals.db"
    match damage:
        case "a directory":
            path.mkdir(parents=True)
        case "a dangling link":
            path.parent.mkdir(parents=True)
            path.symlink_to(tmp_path / "nowhere")
        case _:
            make_old_home(os.fsencode(home))
            path.chmod(0)
    before = tree_contents(home)
    done = eventlog("append", home=home, stdin=jsonl([a_signal()]), under=bound_by_modes())
    assert "Traceback" not in done.err
    if damage == "unreadable":
        assert done.code == 3
        assert tree_contents(home) == before
    else:
        assert done.code in (0, 3)


# -- other files that SQLite opens


def test_import_legacy_reads_a_database_whatever_its_path(home: bytes, tmp_path: Path) -> None:
    make_old_home(home)
    source = home + b"/data/signals.db"
    done = Ended(os.fsencode(tmp_path / "new"), "import-legacy", "--db", os.fsdecode(source))
    # Its one row was read: it is imported, or refused for its hash.
    assert done.code in (0, 1), done.err
    assert b"signals: 1 imported" in done.out or b"refused: 1" in done.out
    assert b"refused: 1" in done.out


@pytest.mark.slow
def test_a_restore_into_the_home_works_or_is_refused_at_once(home: bytes, tmp_path: Path) -> None:
    with EventLog(tmp_path / "origin") as log:
        log.append_many(signals(3))
    assert Ended(os.fsencode(tmp_path / "origin"), "backup", tmp_path / "backup").code == 0
    done = Ended(home, "restore", tmp_path / "backup")
    if done.code == 0:
        assert Ended(home, "rebuild-database").code == 0
        assert Ended(home, "signals", "--json").out.count(b'"signal_id"') == 3
    else:
        assert done.code == 3
        assert not os.path.lexists(home)
