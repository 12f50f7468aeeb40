"""Audits: the kept checkpoint moves forward only, and a failed replacement leaves it."""

from errno import EIO
from pathlib import Path

import pytest

from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.proofs.audit import audit
from projections.evidence.proofs.growth import Growth
from tests.harness.fault_disk import FaultDisk
from tests.projections.evidence.proofs.test_growth import KEY, growth, head


def test_an_auditor_accepts_growth_and_keeps_the_newest_checkpoint(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for old, new in ((0, 1), (1, 300), (300, 300), (300, 600)):
        found = audit(growth(old, new).to_bytes(), kept, KEY.verifier, is_first=old == 0)
        assert (found.origin, found.old_size, found.size) == (KEY.name, old, new)
        assert kept.read_bytes() == growth(old, new).checkpoint
    assert audit(growth(1, 600).to_bytes(), kept, KEY.verifier).old_size == 600  # once more


def test_a_first_audit_begins_at_the_empty_log(tmp_path: Path) -> None:
    with pytest.raises(NotProved, match="continues size 1, and 0 was kept"):
        audit(growth(1, 300).to_bytes(), tmp_path / "kept", KEY.verifier, is_first=True)
    assert not (tmp_path / "kept").exists()


def test_only_what_is_said_to_be_the_first_audit_begins_with_nothing(tmp_path: Path) -> None:
    kept, data = tmp_path / "kept", growth(0, 300).to_bytes()
    with pytest.raises(ProjectionError, match="no kept checkpoint") as error:
        audit(data, kept, KEY.verifier)  # a wrong name, or a file that was lost
    assert "--first" in error.value.do
    assert not kept.exists()
    audit(data, kept, KEY.verifier, is_first=True)
    for again in (data, growth(300, 600).to_bytes()):
        with pytest.raises(ProjectionError, match="not the first audit"):
            audit(again, kept, KEY.verifier, is_first=True)
    assert kept.read_bytes() == growth(0, 300).checkpoint


def test_a_fork_or_an_older_checkpoint_changes_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    other = SignedHead(origin=KEY.name, size=600, root=bytes(32))
    audit(growth(0, 300).to_bytes(), kept, KEY.verifier, is_first=True)
    before = kept.read_bytes()
    fork = Growth(
        old_size=300, path=growth(300, 600).path, checkpoint=sign_head(other, KEY).to_bytes()
    )
    for found in (fork, growth(0, 256), growth(257, 600)):
        with pytest.raises(NotProved):
            audit(found.to_bytes(), kept, KEY.verifier)
        assert kept.read_bytes() == before


def test_a_damaged_kept_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"x" + growth(0, 300).checkpoint)
    with pytest.raises(NotProved, match="what was kept"):
        audit(growth(300, 600).to_bytes(), kept, KEY.verifier)
    assert kept.read_bytes() == b"x" + growth(0, 300).checkpoint


@pytest.mark.parametrize("kind", ["create", "pwrite", "fdatasync", "rename"])
def test_what_is_kept_is_replaced_whole_or_not_at_all(tmp_path: Path, kind: str) -> None:
    kept = tmp_path / "kept"
    audit(growth(0, 300).to_bytes(), kept, KEY.verifier, is_first=True)
    disk = FaultDisk()
    fault = disk.fail(kind, error=EIO)
    with pytest.raises(OSError):
        audit(growth(300, 600).to_bytes(), kept, KEY.verifier, disk=disk)
    assert fault.fired
    assert kept.read_bytes() == growth(0, 300).checkpoint
    assert audit(growth(300, 600).to_bytes(), kept, KEY.verifier).size == 600
    assert head(600).to_text() in kept.read_bytes()
