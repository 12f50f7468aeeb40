"""Lines whose loss was accepted: with their leaf hashes the tree and its proofs go on."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from eventlog import EventLog
from eventlog.repair.repair import repair
from projections.errors import ProjectionError
from projections.evidence.formats.checkpoint import open_checkpoint
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import RunningRoot, leaf_hash
from projections.evidence.proofs.proof import parse_proof, verify_proof
from projections.evidence.proofs.proving import prove
from projections.evidence.signing.signing import create_key, sign_checkpoint
from projections.evidence.tree import lost_leaves
from projections.evidence.tree.level_files import level_files
from projections.evidence.tree.lost_leaves import (
    LOST_BYTES_MAX,
    LOST_MAX,
    LOST_NAME,
    before_loss,
    keep_lost,
    read_lost,
)
from projections.evidence.tree.projection import TreeProjection, update_tree
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


def test_lines_lost_at_the_end_leave_the_signed_root_what_it_was(
    original: Signed, home: Path
) -> None:
    damage(home, original.lines, (LINES - 1, LINES))
    assert accept(home) == []
    for data_is_lost in (False, True):
        if data_is_lost:
            shutil.rmtree(home / "data")
        assert not sign_checkpoint(home).is_new
        assert verify_proof(parse_proof(prove(home, 2)), original.key).head.size == LINES
    fill(home, 1, start=LINES + 1)
    asyncio.run(Projector(home, TreeProjection()).run(once=True))
    assert sign_checkpoint(home).size == LINES + 1
    checkpoint = (home / "evidence" / f"{LINES + 1:020d}.checkpoint").read_bytes()
    signed = open_checkpoint(checkpoint, original.key).head
    assert signed.root == original.root(lines_in(home)[-1:])


def test_without_their_hashes_nothing_is_signed(original: Signed, home: Path) -> None:
    shutil.rmtree(home / "data")
    damage(home, original.lines, LOST)
    (note,) = accept(home)
    assert "2 lost entries (the first is entry 150)" in note
    fill(home, 1, start=LINES + 1)
    with pytest.raises(ProjectionError, match="lacks lines, the first of which has seq 150"):
        sign_checkpoint(home)
    assert not (home / "evidence" / LOST_NAME).exists()


def flip_leaf(home: Path, seq: int) -> None:
    level = home / "data" / "tree" / "0"
    data = bytearray(level.read_bytes())
    data[(seq - 1) * 32] ^= 1
    level.write_bytes(data)


@pytest.mark.parametrize(("seq", "other"), [(150, 299), (299, 150), (302, 20), (513, 302)])
def test_a_wrong_hash_of_a_lost_line_is_not_kept_and_never_signed(
    original: Signed, home: Path, seq: int, other: int
) -> None:
    """Whether the line was signed or not, and in a complete tile as in the last one."""
    fill(home, 215, start=LINES + 1)
    update_tree(home)
    lines = lines_in(home)
    shutil.copytree(home, source := home.with_name("source"), symlinks=True)
    flip_leaf(home, seq)
    damage(home, lines, (seq, other))
    (note,) = accept(home)
    assert (f"the first is entry {seq}" in note, set(read_lost(home))) == (True, {other})
    if seq > LINES:  # else neither calculation needs it
        with pytest.raises(ProjectionError, match=f"the first of which has seq {seq}"):
            sign_checkpoint(home)
        assert not (home / "evidence" / f"{515:020d}.checkpoint").exists()
    assert repair(home, backup=str(source), now=NOW, lock_timeout_s=5.0).is_done
    assert sign_checkpoint(home).size == 515
    checkpoint = (home / "evidence" / f"{515:020d}.checkpoint").read_bytes()
    assert open_checkpoint(checkpoint, original.key).head.root == original.root(lines[LINES:])


def test_a_bit_that_flips_before_its_tile_is_complete_is_not_folded_into_its_root(
    original: Signed, home: Path
) -> None:
    fill(home, 2, start=LINES + 1)
    update_tree(home)
    flip_leaf(home, 302)
    fill(home, 250, start=LINES + 3)
    update_tree(home)
    lines = lines_in(home)
    damage(home, lines, (302,))
    assert accept(home) == []
    assert sign_checkpoint(home).size == 552
    checkpoint = (home / "evidence" / f"{552:020d}.checkpoint").read_bytes()
    assert open_checkpoint(checkpoint, original.key).head.root == original.root(lines[LINES:])


def test_the_tree_of_another_log_keeps_nothing(
    original: Signed, home: Path, tmp_path: Path
) -> None:
    """Also where the damage hides it, as that of the last line does."""
    other = tmp_path / "other"
    with EventLog(other) as log:
        log.append_many(signals(LINES, start=9000))
    update_tree(other)
    shutil.rmtree(home / "data" / "tree")
    shutil.copytree(other / "data" / "tree", home / "data" / "tree")
    damage(home, original.lines, (LINES, 5))
    (note,) = accept(home)
    assert ("2 lost entries" in note, read_lost(home)) == (True, {})


def test_a_range_of_any_length_costs_no_more_than_the_tree(original: Signed, home: Path) -> None:
    assert keep_lost(home, [(LINES, 1 << 62)]) == ((1 << 62) - LINES, LINES + 1)
    assert set(read_lost(home)) == {LINES}


def test_no_more_is_kept_than_can_be_read_again(
    original: Signed, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_leaves, "LOST_MAX", 3)
    assert keep_lost(home, [(1, 2)]) == (0, 0)
    assert keep_lost(home, [(2, 5)]) == (2, 4)
    assert set(read_lost(home)) == {1, 2, 3}
    assert LOST_MAX * len(f"{10**19} {'x' * 44}\n") <= LOST_BYTES_MAX


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
    assert keep_lost(home, [(1, 2)]) == (0, 0)
    before = (home / "evidence" / LOST_NAME).read_bytes()
    level = home / "data" / "tree" / "0"
    good = level.read_bytes()
    level.write_bytes(b"\0" * level.stat().st_size)
    assert keep_lost(home, [(2, 3), (LINES + 1, LINES + 1)]) == (2, 3)
    level.write_bytes(good)
    assert keep_lost(home, [(2, 3), (LINES + 1, LINES + 1)]) == (1, LINES + 1)
    after = (home / "evidence" / LOST_NAME).read_bytes()
    assert after.startswith(before)
    assert read_lost(home)[2] == leaf_hash(original.lines[1][:-1])


def test_a_home_that_signs_nothing_keeps_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    fill(home, 5, start=1)
    assert keep_lost(home, [(2, 2)]) == (0, 0)
    assert not (home / "evidence").exists()


def test_the_command_repair_keeps_them(original: Signed, home: Path) -> None:
    damage(home, original.lines, LOST)
    done = eventlog("repair", "--accept", home=home)
    assert (done.code, "evidence:" in done.err) == (0, False)
    assert set(read_lost(home)) == set(LOST)
