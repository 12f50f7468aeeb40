"""Lines whose loss was accepted: with their leaf hashes the tree and its proofs go on."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from eventlog import EventLog, LogDiverged
from eventlog.repair.repair import repair
from projections.errors import ProjectionError
from projections.evidence.checkpoint import open_checkpoint
from projections.evidence.keys import VerifierKey
from projections.evidence.level_files import level_files
from projections.evidence.lost_leaves import LOST_NAME, before_loss, keep_lost, read_lost
from projections.evidence.merkle import RunningRoot, leaf_hash
from projections.evidence.proof import parse_proof, verify_proof
from projections.evidence.proving import prove
from projections.evidence.signing import create_key, sign_checkpoint
from projections.evidence.tree import TreeProjection
from projections.runtime.projector import Projector
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in
from tests.harness.signals import signals

LINES, LOST = 300, (150, 151)
NOW = "2025-11-19T00:00:00.000000Z"


def fill(home: Path, count: int, *, start: int) -> None:
    with EventLog(home) as log:
        log.append_many(signals(count, start=start))


def damage(home: Path, lines: Sequence[bytes], seqs: Sequence[int]) -> None:
    (segment,) = (home / "logs").glob("0*.jsonl")
    data = segment.read_bytes()
    for seq in seqs:
        line = lines[seq - 1]
        data = data.replace(line, b"x" * (len(line) - 1) + b"\n")
    segment.write_bytes(data)


def accept(home: Path) -> list[str]:
    """Accepts the damage; returns what could not be kept."""
    notes: list[str] = []

    def keep(at: str, ranges: Sequence[tuple[int, int]]) -> None:
        notes.extend(before_loss(at, ranges))

    report = repair(home, accept=True, now=NOW, lock_timeout_s=5.0, before_loss=keep)
    assert report.is_done
    return notes


class Signed:
    """A home of LINES lines with a checkpoint over them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        fill(home, LINES, start=1)
        self.key: VerifierKey = create_key(home, "log.example/main")
        sign_checkpoint(home)
        self.lines = lines_in(home)

    def root(self, more: Sequence[bytes]) -> bytes:
        """Over the lines as they were written."""
        running = RunningRoot()
        for line in (*self.lines, *more):
            running.add(leaf_hash(line[:-1]))
        return running.root()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed") / "home")


@pytest.fixture
def home(original: Signed, tmp_path: Path) -> Path:
    shutil.copytree(original.home, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


@pytest.mark.parametrize("lost", ["data", "peaks", "neither"])
def test_with_their_hashes_the_signed_tree_goes_on_over_lost_lines(
    original: Signed, home: Path, lost: str
) -> None:
    damage(home, original.lines, LOST)
    assert accept(home) == []
    assert read_lost(home) == {seq: leaf_hash(original.lines[seq - 1][:-1]) for seq in LOST}
    if lost == "data":
        shutil.rmtree(home / "data")
    if lost == "peaks":
        (home / "evidence" / f"{LINES:020d}.peaks").unlink()
    fill(home, 2, start=LINES + 1)
    assert sign_checkpoint(home).size == LINES + 2
    checkpoint = (home / "evidence" / f"{LINES + 2:020d}.checkpoint").read_bytes()
    signed = open_checkpoint(checkpoint, original.key).head
    assert signed.root == original.root(lines_in(home)[-2:])
    for seq in (149, 152, LINES + 2):
        assert verify_proof(parse_proof(prove(home, seq)), original.key).head.size == LINES + 2
    with pytest.raises(ProjectionError, match="has no entry 150"):
        prove(home, 150)


def test_without_their_hashes_nothing_is_signed(original: Signed, home: Path) -> None:
    shutil.rmtree(home / "data")
    damage(home, original.lines, LOST)
    (note,) = accept(home)
    assert "2 lost entries (the first is entry 150)" in note
    fill(home, 1, start=LINES + 1)
    with pytest.raises(ProjectionError, match="lacks lines, the first of which has seq 150"):
        sign_checkpoint(home)
    assert not (home / "evidence" / LOST_NAME).exists()


def test_a_wrong_hash_of_a_signed_line_is_never_signed(original: Signed, home: Path) -> None:
    damage(home, original.lines, LOST)
    level = home / "data" / "tree" / "0"
    data = bytearray(level.read_bytes())
    data[149 * 32] ^= 1
    level.write_bytes(data)
    accept(home)
    shutil.rmtree(home / "data")
    fill(home, 1, start=LINES + 1)
    with pytest.raises(LogDiverged):
        sign_checkpoint(home)
    assert not (home / "evidence" / f"{LINES + 1:020d}.checkpoint").exists()


def test_the_daemon_goes_on_over_lost_lines(original: Signed, home: Path) -> None:
    damage(home, original.lines, LOST)
    accept(home)
    shutil.rmtree(home / "data")
    asyncio.run(Projector(home, TreeProjection()).run(once=True))
    with level_files(home) as files:
        assert files.tree().root() == original.root(())


def test_nothing_counts_as_lost_where_the_hashes_cannot_be_kept(
    original: Signed, home: Path
) -> None:
    damage(home, original.lines, LOST)
    (home / "evidence" / LOST_NAME).write_bytes(b"no hash\n")
    with pytest.raises(ProjectionError, match="cannot be read"):
        accept(home)
    assert not (home / "logs" / ".accepted").exists()


def test_hashes_are_added_and_none_is_changed(original: Signed, home: Path) -> None:
    assert keep_lost(home, [(1, 2)]) == ()
    before = (home / "evidence" / LOST_NAME).read_bytes()
    level = home / "data" / "tree" / "0"
    level.write_bytes(b"\0" * level.stat().st_size)
    assert keep_lost(home, [(2, 3), (LINES + 1, LINES + 1)]) == (LINES + 1,)
    after = (home / "evidence" / LOST_NAME).read_bytes()
    assert after.startswith(before)
    assert read_lost(home)[2] == leaf_hash(original.lines[1][:-1])


def test_a_home_that_signs_nothing_keeps_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    fill(home, 5, start=1)
    assert keep_lost(home, [(2, 2)]) == ()
    assert not (home / "evidence").exists()


def test_the_command_repair_keeps_them(original: Signed, home: Path) -> None:
    damage(home, original.lines, LOST)
    done = eventlog("repair", "--accept", home=home)
    assert (done.code, "evidence:" in done.err) == (0, False)
    assert set(read_lost(home)) == set(LOST)
