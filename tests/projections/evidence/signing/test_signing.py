"""Checkpoints: what is signed was calculated twice, and continues what was signed before."""

import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import asdict
from errno import EIO
from pathlib import Path

import pytest

from eventlog import (
    EventLog,
    LogDiverged,
    LogFenced,
    LogIsReplica,
    LogNotFound,
    NotReplicated,
    UnsafePath,
)
from eventlog.plumbing import MirrorRecord, decode, write_record
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import SignedHead, open_checkpoint
from projections.evidence.formats.keys import COSIGNER, LOG, SigningKey, VerifierKey
from projections.evidence.formats.merkle import RunningRoot, is_consistent, leaf_hash
from projections.evidence.proofs.growth import parse_growth, verify_growth
from projections.evidence.proofs.proof import parse_proof, verify_proof
from projections.evidence.proofs.proving import prove, prove_growth, prove_signal
from projections.evidence.signing.signing import create_key, sign_checkpoint
from projections.evidence.tree.level_files import level_files
from projections.evidence.tree.projection import update_tree
from tests.harness.command import eventlog
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import lines_in
from tests.harness.read_side import project
from tests.harness.signals import signals

ORIGIN = "log.example/main"
LINES = 300


def fill(home: Path, count: int, *, start: int = 1) -> None:
    with EventLog(home) as log:
        log.append_many(signals(count, start=start))


@pytest.fixture
def filled(home: Path) -> Path:
    fill(home, LINES)
    return home


@pytest.fixture
def key(filled: Path) -> VerifierKey:
    return create_key(filled, ORIGIN)


def signed_root(home: Path, key: VerifierKey, size: int) -> bytes:
    head = open_checkpoint(checkpoint_file(home, size).read_bytes(), key).head
    assert (head.origin, head.size) == (ORIGIN, size)
    return head.root


def checkpoint_file(home: Path, size: int) -> Path:
    return home / "evidence" / f"{size:020d}.checkpoint"


def model(home: Path, size: int) -> bytes:
    running = RunningRoot()
    for line in lines_in(home)[:size]:
        running.add(leaf_hash(line.removesuffix(b"\n")))
    return running.root()


def names(home: Path) -> set[str]:
    return {path.name for path in (home / "evidence").iterdir()}


def flip_bit(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_checkpoints_continue_each_other(filled: Path, key: VerifierKey) -> None:
    first = sign_checkpoint(filled)
    assert (first.size, first.is_new, Path(first.path)) == (
        LINES,
        True,
        checkpoint_file(filled, LINES),
    )
    assert sign_checkpoint(filled) == type(first)(path=first.path, size=LINES, is_new=False)
    fill(filled, 250, start=LINES + 1)
    assert sign_checkpoint(filled).size == 550
    old, new = signed_root(filled, key, LINES), signed_root(filled, key, 550)
    assert (old, new) == (model(filled, LINES), model(filled, 550))
    with level_files(filled) as files:
        assert is_consistent(LINES, 550, old, new, files.tree().consistency(LINES, 550))
    kept = {f"{LINES:020d}.checkpoint", f"{550:020d}.checkpoint", f"{550:020d}.peaks"}
    assert names(filled) == {"key", "vkey", "resumed", *kept}


def test_the_key_is_private_and_never_replaced(filled: Path, key: VerifierKey) -> None:
    path = filled / "evidence" / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    before = path.read_bytes()
    for origin in (ORIGIN, "other.example"):
        with pytest.raises(ProjectionError, match="a key already"):
            create_key(filled, origin)
    path.unlink()
    with pytest.raises(ProjectionError, match="a key already"):
        create_key(filled, ORIGIN)  # the vkey may have signed
    path.write_bytes(before)
    path.chmod(0o640)
    with pytest.raises(UnsafePath, match="can read the key"):
        sign_checkpoint(filled)
    assert not list((filled / "evidence").glob("*.checkpoint"))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (SigningKey(name=ORIGIN, kind=LOG, seed=bytes(32)).to_secret(), "not that of this log"),
        (SigningKey(name=ORIGIN, kind=COSIGNER, seed=bytes(32)).to_secret(), "key of a witness"),
        ("PRIVATE+KEY+damaged", "cannot be used"),
    ],
    ids=["another", "witness", "damaged"],
)
def test_no_key_signs_that_the_vkey_does_not_verify(
    filled: Path, key: VerifierKey, secret: str, problem: str, signed: bool
) -> None:
    if signed:
        sign_checkpoint(filled)
        fill(filled, 1, start=LINES + 1)
    before = names(filled)
    (filled / "evidence" / "key").write_text(f"{secret}\n")
    with pytest.raises(ProjectionError, match=problem) as error:
        sign_checkpoint(filled)
    assert error.value.where == str(filled / "evidence" / "key")
    assert (names(filled), secret in str(error.value)) == (before, False)


def test_a_damaged_vkey_signs_nothing(filled: Path, key: VerifierKey) -> None:
    flip_bit(filled / "evidence" / "vkey", 3)
    with pytest.raises(ProjectionError, match="the vkey cannot be used"):
        sign_checkpoint(filled)


def test_a_key_whose_vkey_was_not_written_yet_is_completed(filled: Path, key: VerifierKey) -> None:
    (filled / "evidence" / "vkey").unlink()
    with pytest.raises(ProjectionError, match="a key already"):
        create_key(filled, "other.example")
    assert create_key(filled, ORIGIN) == key


def test_without_a_log_or_a_key_nothing_is_made(home: Path, tmp_path: Path) -> None:
    with pytest.raises(LogNotFound):
        create_key(tmp_path / "nothing", ORIGIN)
    assert not (tmp_path / "nothing").exists()
    fill(home, 1)
    with pytest.raises(ProjectionError, match="no key"):
        sign_checkpoint(home)
    assert not (home / "evidence").exists()


@pytest.mark.parametrize("name", ["0", "1"])
def test_a_flipped_bit_in_the_tree_signs_no_wrong_root(
    filled: Path, key: VerifierKey, name: str
) -> None:
    sign_checkpoint(filled)
    for at in (0, 31) if name == "1" else (0, 255 * 32, 256 * 32, 299 * 32 + 31):
        flip_bit(filled / "data" / "tree" / name, at)
        assert not sign_checkpoint(filled).is_new
        flip_bit(filled / "data" / "tree" / name, at)
        size = len(lines_in(filled)) + 1
        fill(filled, 1, start=size)
        assert sign_checkpoint(filled).size == size
        assert signed_root(filled, key, size) == model(filled, size)


def test_a_flipped_bit_in_the_tree_gives_no_proof_that_fails(
    filled: Path, key: VerifierKey
) -> None:
    sign_checkpoint(filled)
    for name, at in (("0", 31), ("0", 280 * 32), ("1", 3)):
        flip_bit(filled / "data" / "tree" / name, at)
        for seq in (1, 2, 256, 257, LINES):
            proof = parse_proof(prove(filled, seq))
            assert verify_proof(proof, key).head.size == LINES
            assert proof.line + b"\n" == lines_in(filled)[seq - 1]


def test_a_wrong_leaf_since_the_last_checkpoint_is_noticed(filled: Path, key: VerifierKey) -> None:
    sign_checkpoint(filled)
    fill(filled, 2, start=LINES + 1)
    update_tree(filled)
    flip_bit(filled / "data" / "tree" / "0", LINES * 32)
    assert sign_checkpoint(filled).size == LINES + 2
    assert signed_root(filled, key, LINES + 2) == model(filled, LINES + 2)


@pytest.mark.parametrize("peaks", [None, b"", b"AAAA\n", b"A" * 43 + b"=\n"])
def test_lost_peaks_only_cost_a_calculation_over_all_lines(
    filled: Path, key: VerifierKey, peaks: bytes | None
) -> None:
    sign_checkpoint(filled)
    path = filled / "evidence" / f"{LINES:020d}.peaks"
    path.unlink()
    if peaks is not None:
        path.write_bytes(peaks)
    fill(filled, 3, start=LINES + 1)
    sign_checkpoint(filled)
    assert signed_root(filled, key, LINES + 3) == model(filled, LINES + 3)


@pytest.mark.parametrize("count", [10, LINES, LINES + 20])
def test_another_log_than_the_one_that_was_signed_is_refused(
    filled: Path, key: VerifierKey, tmp_path: Path, count: int
) -> None:
    sign_checkpoint(filled)
    other = tmp_path / "other"
    fill(other, count, start=9000)
    os.rename(filled / "evidence", other / "evidence")
    before = names(other)
    with pytest.raises(LogDiverged, match="not the one that was signed"):
        sign_checkpoint(other)
    (other / "evidence" / f"{LINES:020d}.peaks").unlink()
    with pytest.raises(LogDiverged):
        sign_checkpoint(other)
    assert names(other) == before - {f"{LINES:020d}.peaks"}


def test_a_tree_that_holds_old_leaves_of_another_log_does_not_hide_a_fork(
    home: Path, tmp_path: Path
) -> None:
    fill(home, 256)
    other = tmp_path / "other"
    shutil.copytree(home, other, symlinks=True)
    create_key(home, ORIGIN)
    fill(home, 44, start=257)
    sign_checkpoint(home)
    fill(other, 344, start=9000)
    update_tree(other)
    # Now the tree of `other` has the signed root at 300, and that of its own lines at 600.
    signed = (home / "data" / "tree" / "0").read_bytes()[256 * 32 : 300 * 32]
    with (other / "data" / "tree" / "0").open("r+b") as file:
        file.seek(256 * 32)
        file.write(signed)
    (home / "evidence" / f"{LINES:020d}.peaks").unlink()
    os.rename(home / "evidence", other / "evidence")
    with pytest.raises(LogDiverged, match="not the one that was signed"):
        sign_checkpoint(other)
    assert not checkpoint_file(other, 600).exists()


def test_a_restored_home_signs_nothing(filled: Path, key: VerifierKey) -> None:
    (filled / "evidence" / "restored").touch()
    with pytest.raises(ProjectionError, match="restored from a backup"):
        sign_checkpoint(filled)


@pytest.mark.parametrize(
    ("name", "state", "error"),
    [
        (".replica", b'{"stream":"main","epoch":1}', LogIsReplica),
        (".fenced", b'{"stream":"main","seq":1}', LogFenced),
    ],
)
def test_a_home_that_is_not_the_primary_signs_nothing_and_proves(
    filled: Path, key: VerifierKey, name: str, state: bytes, error: type[Exception]
) -> None:
    sign_checkpoint(filled)
    fill(filled, 1, start=LINES + 1)
    (filled / "logs" / name).write_bytes(state)
    with pytest.raises(error):
        sign_checkpoint(filled)
    assert not checkpoint_file(filled, LINES + 1).exists()
    shutil.rmtree(filled / "data")
    (filled / "evidence" / "key").unlink()
    assert verify_proof(parse_proof(prove(filled, 5)), key).head.size == LINES


def note_replicated(home: Path, acked: int, replicas: int = 3) -> None:
    chain = None
    if acked:
        chain = decode(lines_in(home)[acked - 1]).chain
    record = MirrorRecord(
        stream="EVENTLOG_main",
        acked=acked,
        acked_chain=chain,
        state="mirroring",
        replicas=replicas,
        replicas_current=replicas,
    )
    (home / "data").mkdir(exist_ok=True)
    write_record(home / "data", "mirror.json", asdict(record))


def test_with_a_mirror_only_replicated_entries_are_signed(filled: Path, key: VerifierKey) -> None:
    note_replicated(filled, 0)
    with pytest.raises(ProjectionError, match="no entry to sign"):
        sign_checkpoint(filled)
    note_replicated(filled, 200)
    assert sign_checkpoint(filled).size == 200
    assert signed_root(filled, key, 200) == model(filled, 200)
    assert not sign_checkpoint(filled).is_new
    note_replicated(filled, 260)
    assert sign_checkpoint(filled).size == 260
    assert signed_root(filled, key, 260) == model(filled, 260)
    note_replicated(filled, 270, replicas=1)
    with pytest.raises(NotReplicated):
        sign_checkpoint(filled)


def test_what_is_not_known_to_be_replicated_is_not_signed(filled: Path, key: VerifierKey) -> None:
    """Where a stream is named, a record that is missing or damaged tells of no entry."""
    with pytest.raises(ProjectionError, match="no entry to sign"):
        sign_checkpoint(filled, has_stream=True)
    done = eventlog("evidence", "checkpoint", home=filled, env={"EVENTLOG_STREAM": "main"})
    assert (done.code, "no entry to sign" in done.err) == (3, True)
    note_replicated(filled, 200)
    assert sign_checkpoint(filled, has_stream=True).size == 200
    (filled / "data" / "mirror.json").write_bytes(b"damaged")
    assert not sign_checkpoint(filled).is_new
    (filled / "data" / "mirror.json").unlink()
    assert not sign_checkpoint(filled, has_stream=True).is_new
    assert sign_checkpoint(filled).size == LINES


def test_a_damaged_newest_checkpoint_is_not_continued(filled: Path, key: VerifierKey) -> None:
    sign_checkpoint(filled)
    fill(filled, 1, start=LINES + 1)
    flip_bit(checkpoint_file(filled, LINES), 40)
    with pytest.raises(ProjectionError, match="cannot be continued"):
        sign_checkpoint(filled)
    assert not checkpoint_file(filled, LINES + 1).exists()


@pytest.mark.parametrize("kind", ["create", "pwrite", "fdatasync", "rename", "unlink"])
def test_a_checkpoint_that_fails_at_any_call_is_signed_again(
    filled: Path, key: VerifierKey, kind: str
) -> None:
    sign_checkpoint(filled)
    fill(filled, 1, start=LINES + 1)
    for nth in range(1, 8):
        disk = FaultDisk()
        disk.fail(kind, nth=nth, error=EIO)
        with suppress(OSError, ProjectionError):
            sign_checkpoint(filled, disk=disk)
        size = len(lines_in(filled))
        assert sign_checkpoint(filled).size == size
        assert signed_root(filled, key, size) == model(filled, size)
        fill(filled, 1, start=size + 1)


def test_growth_is_shown_from_each_earlier_size(filled: Path, key: VerifierKey) -> None:
    with pytest.raises(NotProved, match="no checkpoint"):
        prove_growth(filled, 0)
    sign_checkpoint(filled)
    for old in (0, 1, 255, 256, 257, LINES):
        kept = SignedHead(origin=ORIGIN, size=old, root=model(filled, old))
        for name, at in (("0", old * 32 - 1), ("1", 5)):
            flip_bit(filled / "data" / "tree" / name, max(at, 0))
            found = parse_growth(prove_growth(filled, old))
            assert verify_growth(found, kept, key).head.size == LINES
    with pytest.raises(NotProved, match="no checkpoint"):
        prove_growth(filled, LINES + 1)


def test_the_table_finds_a_signal_and_the_line_shows_whether_it_is_right(
    home: Path,
) -> None:
    fill(home, 3)
    key = create_key(home, ORIGIN)
    sign_checkpoint(home)
    entries = [decode(line) for line in lines_in(home)]
    signal_id = str(entries[1].payload["signal_id"])
    project(home)
    assert verify_proof(parse_proof(prove_signal(home, signal_id)), key).head.size == 3
    assert parse_proof(prove_signal(home, signal_id)).index == 1
    with pytest.raises(ProjectionError, match="has no signal"):
        prove_signal(home, "nothing")
    with sqlite3.connect(home / "data" / "signals.db") as database:
        database.execute("UPDATE signals SET signal_id = 'moved' WHERE id = 2")
    database.close()
    with pytest.raises(ProjectionError, match="is not the signal moved"):
        prove_signal(home, "moved")


def test_an_entry_that_no_checkpoint_covers_is_not_proved(filled: Path, key: VerifierKey) -> None:
    with pytest.raises(NotProved, match="no checkpoint was signed yet"):
        prove(filled, 1)
    sign_checkpoint(filled)
    fill(filled, 1, start=LINES + 1)
    with pytest.raises(NotProved, match="covers 300"):
        prove(filled, LINES + 1)
    assert prove(filled, LINES)
    with pytest.raises(ValueError):
        prove(filled, 0)
