"""Programs that are not ours accept our proofs, and refuse each with one byte changed."""

import subprocess
from pathlib import Path

import pytest

from projections.evidence.keys import parse_secret
from tests.harness.requirements import needs_tool
from tests.projections.evidence.test_proof import proof
from tests.projections.evidence.vectors import vectors

VKEY = parse_secret(vectors()["secret"]).verifier.to_text()
SCRIPT = Path(__file__).with_name("verify_with_openssl.sh")


def accepts(data: bytes, scratch: Path) -> bool:
    file = scratch / "proof"
    file.write_bytes(data)
    done = subprocess.run(
        ["bash", SCRIPT, VKEY, file, scratch], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


@pytest.mark.parametrize("index", [1, 256])
def test_openssl_xxd_and_coreutils_accept_a_proof_and_no_changed_one(
    tmp_path: Path, index: int
) -> None:
    needs_tool("openssl", apt="openssl")
    needs_tool("xxd", apt="xxd")
    data = proof(index).to_bytes()
    assert accepts(data, tmp_path)
    line, path = data.index(b"extra ") + 10, data.index(b"index ") + len(f"index {index}\n") + 3
    root, signature = data.index(b"300\n") + 8, data.rindex(b"vectors K/bF") + 20
    for at in (line, path, root, signature):
        changed = data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]
        assert not accepts(changed, tmp_path), at
    wrong_index = data.replace(b"index %d\n" % index, b"index %d\n" % (index - 1))
    assert not accepts(wrong_index, tmp_path)
