"""Cosignatures of witnesses are kept with the checkpoint that they are of, and proofs have them."""

import shutil
from dataclasses import replace
from errno import EIO
from pathlib import Path

import pytest

from eventlog import EventLog, UnsafePath
from eventlog.plumbing import FileLock
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import open_checkpoint
from projections.evidence.formats.keys import COSIGNER, LOG, SigningKey, VerifierKey, new_key
from projections.evidence.formats.note import cosign, parse_note, with_signatures
from projections.evidence.kept.key_files import create_key_file, read_key_file
from projections.evidence.proofs.audit import audit
from projections.evidence.proofs.check import check_proof
from projections.evidence.proofs.proving import prove, prove_growth
from projections.evidence.signing.cosigning import keep_cosignatures
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.fault_disk import FaultDisk
from tests.harness.signals import signals
from tests.projections.evidence.proofs.test_growth import KEY, growth, head

A, B = (new_key(f"{name}.example.org", COSIGNER) for name in "ab")
TIME_S = 1_763_424_000  # 2025-11-18


class Log:
    """A home with checkpoints of 3 and 5 entries."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for count, start in ((3, 1), (2, 4)):
            with EventLog(home) as log:
                log.append_many(signals(count, start=start))
            if start == 1:
                self.key: VerifierKey = create_key(home, "log.example/main")
            sign_checkpoint(home)

    def path(self, size: int) -> Path:
        return self.home / "evidence" / f"{size:020d}.checkpoint"

    def cosigned(self, size: int, key: SigningKey, time_s: int = TIME_S) -> bytes:
        """What a witness answers."""
        text = parse_note(self.path(size).read_bytes()).text
        return cosign(text, key, time_s).to_text().encode()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tmp_path_factory.mktemp("log") / "home")


@pytest.fixture
def log(original: Log, tmp_path: Path) -> Log:
    found = Log.__new__(Log)
    found.home, found.key = tmp_path / "home", original.key
    shutil.copytree(original.home, found.home, symlinks=True)
    return found


def test_a_proof_has_the_cosignatures_that_were_kept(log: Log) -> None:
    before = log.path(5).read_bytes()
    found = keep_cosignatures(
        log.home, log.cosigned(5, A) + log.cosigned(5, B, TIME_S + 60), [A.verifier, B.verifier]
    )
    assert (found.size, found.path) == (5, str(log.path(5)))
    assert found.to_json()["not_later_than"] == [
        {"by": "witness", "name": A.name, "time": "2025-11-18T00:00:00Z"},
        {"by": "witness", "name": B.name, "time": "2025-11-18T00:01:00Z"},
    ]
    assert log.path(5).read_bytes().startswith(before)  # so that a backup takes it
    checked = check_proof(prove(log.home, 2), [log.key, A.verifier, B.verifier], quorum=2)
    assert [(each.name, each.time_s) for each in checked.cosignatures] == [
        (A.name, TIME_S),
        (B.name, TIME_S + 60),
    ]
    assert not sign_checkpoint(log.home).is_new  # it still opens
    with EventLog(log.home) as more:
        more.append_many(signals(1, start=6))
    assert sign_checkpoint(log.home).size == 6


def test_a_late_answer_finds_its_older_checkpoint(log: Log) -> None:
    newest = log.path(5).read_bytes()
    assert keep_cosignatures(log.home, log.cosigned(3, A), [A.verifier]).size == 3
    assert log.path(5).read_bytes() == newest
    opened = open_checkpoint(log.path(3).read_bytes(), log.key, [A.verifier])
    assert [each.time_s for each in opened.cosignatures] == [TIME_S]


def test_a_witness_is_kept_once_with_its_first_time(log: Log) -> None:
    keep_cosignatures(log.home, log.cosigned(5, A), [A.verifier])
    once = log.path(5).read_bytes()
    for time_s in (TIME_S, TIME_S + 9):
        keep_cosignatures(log.home, log.cosigned(5, A, time_s), [A.verifier])
        assert log.path(5).read_bytes() == once
    keep_cosignatures(log.home, log.cosigned(5, A, TIME_S - 9), [A.verifier])
    opened = open_checkpoint(log.path(5).read_bytes(), log.key, [A.verifier])
    assert [each.time_s for each in opened.cosignatures] == [TIME_S - 9]


def test_a_whole_checkpoint_with_cosignatures_is_taken_too(log: Log) -> None:
    note = parse_note(log.path(5).read_bytes())
    given = with_signatures(note, [cosign(note.text, B, TIME_S)]).to_bytes()
    keep_cosignatures(log.home, given, [A.verifier, B.verifier])
    assert log.path(5).read_bytes() == given


def test_nothing_is_kept_that_was_not_verified(log: Log) -> None:
    before = {size: log.path(size).read_bytes() for size in (3, 5)}
    good = log.cosigned(5, A)
    other = new_key(A.name, COSIGNER)
    wrong = cosign(b"log.example/main\n5\n%s\n" % (b"A" * 43 + b"="), A, TIME_S).to_text().encode()
    for data, problem in (
        (log.cosigned(5, other), "no cosignature of these witnesses"),
        (b"", "signature line"),
        (b"\xff\n", "UTF-8"),
        (good[:-1], "newline"),
        (wrong, "none of the newest"),
        (good + log.cosigned(3, A), "none of the newest"),  # of two checkpoints
        (log.cosigned(5, B), "no cosignature of these witnesses"),
    ):
        with pytest.raises(NotProved, match=problem):
            keep_cosignatures(log.home, data, [A.verifier])
    with pytest.raises(NotProved):
        keep_cosignatures(log.home, good, [log.key])
    assert {size: log.path(size).read_bytes() for size in (3, 5)} == before


def test_a_checkpoint_is_replaced_whole_or_not_at_all(log: Log) -> None:
    before = log.path(5).read_bytes()
    for kind in ("create", "pwrite", "fdatasync"):
        disk = FaultDisk()
        disk.fail(kind, error=EIO)
        with pytest.raises(OSError):
            keep_cosignatures(log.home, log.cosigned(5, A), [A.verifier], disk=disk)
        assert log.path(5).read_bytes() == before


class Clock:
    """Gives times in turn, and notes what an auditor has done by then."""

    def __init__(self, kept: Path, *times_s: float) -> None:
        self.kept, self.times_s = kept, list(times_s)
        self.was_locked: list[bool] = []

    def __call__(self) -> float:
        lock = FileLock(str(self.kept.with_name(f".{self.kept.name}.lock")))
        self.was_locked.append(not lock.try_take())
        lock.drop()
        return self.times_s.pop(0)


def test_an_auditor_cosigns_what_is_kept_and_the_operator_keeps_it(
    log: Log, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    clock = Clock(kept, TIME_S + 0.9, TIME_S + 1, TIME_S - 5)
    found = audit(prove_growth(log.home, 0), kept, log.key, is_first=True, cosigner=A, clock=clock)
    assert found.cosignature is not None
    line = f"{found.cosignature}\n".encode()
    assert line == log.cosigned(5, A)
    assert kept.read_bytes() == log.path(5).read_bytes() + line
    assert keep_cosignatures(log.home, line, [A.verifier]).size == 5
    assert found.to_json()["cosignature"] == found.cosignature
    for time_s in (TIME_S + 1, TIME_S + 1):  # the last clock was set back
        again = audit(prove_growth(log.home, 5), kept, log.key, cosigner=A, clock=clock)
        assert f"{again.cosignature}\n".encode() == log.cosigned(5, A, time_s)
    assert clock.was_locked == [True, True, True]


def test_the_time_of_a_cosignature_is_read_after_the_growth_was_verified(tmp_path: Path) -> None:
    kept, clock = tmp_path / "kept", Clock(tmp_path / "kept", TIME_S)
    with pytest.raises(NotProved):
        audit(growth(1, 300).to_bytes(), kept, KEY.verifier, is_first=True, cosigner=A, clock=clock)
    assert clock.was_locked == []


def test_what_is_kept_with_a_cosignature_has_no_line_of_a_stranger(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    note = parse_note(growth(0, 300).checkpoint)
    wrong = replace(cosign(note.text, A, TIME_S + 99), value=bytes(72))  # in the auditor's name
    given = replace(note, signatures=(cosign(note.text, B, 7), wrong, *note.signatures))
    data = replace(growth(0, 300), checkpoint=given.to_bytes()).to_bytes()
    audit(data, kept, KEY.verifier, is_first=True)  # without a cosigner it is kept as it came
    for _ in range(2):
        found = audit(data, kept, KEY.verifier, cosigner=A, clock=lambda: TIME_S)
        line = f"{found.cosignature}\n".encode()
        assert line == cosign(note.text, A, TIME_S).to_text().encode()
        assert kept.read_bytes() == growth(0, 300).checkpoint + line


def test_an_auditor_cosigns_nothing_that_was_not_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    audit(growth(0, 300).to_bytes(), kept, KEY.verifier, is_first=True)
    disk = FaultDisk()
    disk.fail("rename", error=EIO)
    with pytest.raises(OSError):
        audit(growth(300, 600).to_bytes(), kept, KEY.verifier, cosigner=A, disk=disk)
    with pytest.raises(NotProved):
        audit(growth(0, 256).to_bytes(), kept, KEY.verifier, cosigner=A)
    assert open_checkpoint(kept.read_bytes(), KEY.verifier).head == head(300)


def test_key_files_are_private_new_and_of_one_kind(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "witness"
    create_key_file(path, A)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key_file(path, kind=COSIGNER) == A
    with pytest.raises(ProjectionError, match="there is a file already"):
        create_key_file(path, B)
    with pytest.raises(ProjectionError, match="the key of a witness"):
        read_key_file(path, kind=LOG)
    with pytest.raises(ProjectionError, match="the key of a log"):
        read_key_file(log.home / "evidence" / "key", kind=COSIGNER)
    with pytest.raises(UnsafePath):
        create_key_file(log.home / "witness", B)
    path.chmod(0o644)
    with pytest.raises(UnsafePath, match="can read the key"):
        read_key_file(path, kind=COSIGNER)
    path.write_bytes(b"nothing")
    path.chmod(0o600)
    with pytest.raises(ProjectionError, match="cannot be used") as error:
        read_key_file(path, kind=COSIGNER)
    assert error.value.where == str(path)
