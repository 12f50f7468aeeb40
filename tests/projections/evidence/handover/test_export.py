"""The export: complete or not at all, of one checkpoint, and checkable without the home."""

import csv
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from errno import EIO
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eventlog import EventLog, UnsafePath
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.keys import VerifierKey, new_key
from projections.evidence.handover.check_statement import check_statement
from projections.evidence.handover.export import (
    Exported,
    SeenLines,
    export_evidence,
    index_page,
)
from projections.evidence.handover.page import page_bytes
from projections.evidence.kept.kept_files import kept_files
from projections.evidence.proofs.audit import audit
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.command import eventlog
from tests.harness.fault_disk import FaultDisk
from tests.harness.read_side import project
from tests.harness.signals import a_signal, closed, signals
from tests.projections.evidence.additions import add_cosignature, add_stamp
from tests.projections.evidence.handover.homes import LINES, ORIGIN, signed_home, statement_of
from tests.projections.evidence.handover.test_publish import head_at

HOSTILE = "=1+1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export") / "home"


@pytest.fixture(scope="module")
def key(home: Path) -> VerifierKey:
    key = signed_home(home)
    with EventLog(home) as log:
        log.append(a_signal(9001, strategy=HOSTILE))
        log.append(closed(9001))
        log.append(closed(9001, exit_price=99.0))  # a conflict
    sign_checkpoint(home)
    with kept_files(home) as kept:
        kept.write_stamp(LINES, b"a reply")
    return key


@pytest.fixture(scope="module")
def exported(home: Path, key: VerifierKey) -> Exported:
    return export_evidence(home, home.parent / "export")


@pytest.fixture(scope="module")
def directory(exported: Exported) -> Path:
    return Path(exported.path)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_in(directory: Path) -> Iterator[str]:
    return (str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_it_holds_everything_of_the_newest_checkpoint(
    home: Path, key: VerifierKey, directory: Path, tmp_path: Path
) -> None:
    assert set(files_in(directory)) >= {
        *("index.html", "verify.html", "vkey", "statement", "SHA256SUMS"),
        *("signals.csv", "states.csv", "conflicts.csv", "log/checkpoint", "log/tile/0/000"),
        *(f"checkpoints/{LINES:020d}.{kind}" for kind in ("checkpoint", "tsr")),
        f"checkpoints/{LINES + 3:020d}.checkpoint",
        *(f"growth/{size}" for size in (0, LINES, LINES + 3)),
    }
    assert (directory / "statement").read_bytes() == statement_of(home)
    assert (directory / "verify.html").read_bytes() == page_bytes()
    assert head_at(directory / "log", key) == LINES + 3
    with (directory / "statement").open("rb") as file:
        assert check_statement(file, [key], scratch_parent=tmp_path).size == LINES + 3
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=directory, check=False
    )
    assert done.returncode == 0
    sums = (directory / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == len(list(files_in(directory))) - 1
    for path in (directory, *directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_who_kept_a_checkpoint_can_compare_it(
    key: VerifierKey, directory: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    for size, is_first in ((0, True), (LINES + 3, False)):
        found = audit((directory / f"growth/{size}").read_bytes(), kept, key, is_first=is_first)
        assert found.size == LINES + 3
    kept.write_bytes((directory / f"checkpoints/{LINES:020d}.checkpoint").read_bytes())
    assert audit((directory / f"growth/{LINES}").read_bytes(), kept, key).old_size == LINES


def test_the_index_page_has_the_times_of_witnesses_and_stamps(
    home: Path, key: VerifierKey, directory: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "home"
    shutil.copytree(home, copy, symlinks=True)
    add_cosignature(copy, LINES, 1764412800, by="<b>w</b>")
    add_stamp(copy, LINES, 1764412801, number=1)
    path = Path(export_evidence(copy, tmp_path / "out").path)
    text = (path / "index.html").read_text()
    assert "&lt;b&gt;w&lt;/b&gt;, 2025-11-29T10:40:00Z" in text
    stamp = f"{LINES:020d}"
    assert f"{stamp}.tsr, its time cannot be read; {stamp}.1.tsr, 2025-11-29T10:40:01Z" in text
    for name in re.findall(r'href="([^"]*)"', text):
        assert (path / name).is_file(), name
    columns = {
        name for csv in path.glob("*.csv") for name in csv.read_text().split("\n")[0].split(",")
    }
    explained = re.findall(r"<code>(\w+)</code>", text)
    assert columns - set(explained) == set()


def test_each_state_in_between_is_a_row(home: Path, directory: Path) -> None:
    project(home)
    with sqlite3.connect(home / "data" / "signals.db") as database:
        lifecycle = database.execute("SELECT seq, event, state FROM lifecycle ORDER BY seq")
        expected = [(str(seq), event, state) for seq, event, state in lifecycle]
    database.close()
    states = rows(directory / "states.csv")
    assert [(row["seq"], row["event"], row["state"]) for row in states] == expected
    first = [row for row in states if row["signal_id"] == "s-1"]
    assert [(row["state"], bool(row["outcome"])) for row in first] == [
        ("open", False),
        ("closed", True),
    ]
    assert len(rows(directory / "signals.csv")) == 201
    (conflict,) = rows(directory / "conflicts.csv")
    assert conflict["seq"] == str(LINES + 3)
    assert len(states) + 1 == LINES + 3
    assert {row["strategy"] for row in states} >= {f"'{HOSTILE}"}  # no formula of a spreadsheet


class _Text(HTMLParser):
    """The text of a page, and the names of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.names = "", set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_index_page_names_log_key_and_checkpoints_as_text(
    tmp_path: Path, key: VerifierKey, directory: Path
) -> None:
    page = _Text()
    page.feed((directory / "index.html").read_text())
    for part in (ORIGIN, key.to_text(), f"{LINES + 3:020d}.checkpoint", "201", "303"):
        assert part in page.text
    assert "compliant" not in page.text
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append(a_signal(1))
    create_key(home, "<script>alert(1)</script>")
    sign_checkpoint(home)
    hostile = "x';touch${IFS}pwned;'"
    page_text = index_page(new_key(hostile).verifier, 1, SeenLines(), []).decode()
    command = unescape(
        re.findall(r"<pre>(eventlog evidence check-statement .*?)</pre>", page_text)[0]
    )
    assert shlex.split(command)[-1].startswith(f"{hostile}+")
    other = _Text()
    other.feed((Path(export_evidence(home, tmp_path / "out").path) / "index.html").read_text())
    assert "<script>alert(1)</script>" in other.text
    assert other.names == page.names


@pytest.mark.parametrize("kind", ["create", "fdatasync", "rename", "fsync_dir"])
def test_an_export_that_fails_leaves_nothing(
    home: Path, key: VerifierKey, tmp_path: Path, kind: str
) -> None:
    for nth in (1, 6):
        disk = FaultDisk()
        fault = disk.fail(kind, nth=nth, error=EIO)
        with pytest.raises(OSError):
            export_evidence(home, tmp_path / "out", disk=disk)
        assert fault.fired
        assert list(tmp_path.iterdir()) == []


def test_nothing_is_exported_over_a_directory_into_a_home_or_of_another_log(
    home: Path, key: VerifierKey, directory: Path, tmp_path: Path
) -> None:
    before = (directory / "SHA256SUMS").read_bytes()
    with pytest.raises(ProjectionError, match="already"):
        export_evidence(home, directory)
    assert (directory / "SHA256SUMS").read_bytes() == before
    with pytest.raises(UnsafePath):
        export_evidence(home, home / "export")
    other = tmp_path / "other"
    with EventLog(other) as log:
        log.append_many(signals(3))
    create_key(other, "other.example")
    with pytest.raises(NotProved, match="no checkpoint"):
        export_evidence(other, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_command_exports(home: Path, key: VerifierKey, tmp_path: Path) -> None:
    done = eventlog("evidence", "export", tmp_path / "out", "--json", home=home)
    found = json.loads(done.out)
    assert (done.code, found["size"], found["origin"]) == (0, LINES + 3, ORIGIN)
    assert found["files"] == len(list(files_in(tmp_path / "out")))
