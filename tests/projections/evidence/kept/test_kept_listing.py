"""The listing of what is kept: sizes, and the times of checkpoints, cosignatures and stamps."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from projections.evidence.formats.note import cosign, parse_note
from projections.evidence.kept.kept_listing import (
    SEARCH_MAX,
    SeenBy,
    cosignatures_in,
    kept_listing,
    stamp_time,
)
from projections.evidence.signing.cosigning import keep_cosignatures
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.read_side import append
from tests.harness.requirements import needs_tool
from tests.harness.signals import signals
from tests.projections.evidence.additions import (
    WITNESS,
    add_cosignature,
    add_stamp,
    checkpoint_path,
    set_written,
)
from tests.projections.evidence.vectors import vectors

AUTHORITY = """
[tsa]
default_tsa = it
[it]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
[req]
distinguished_name = name
prompt = no
x509_extensions = usage
[name]
CN = authority.example
[usage]
extendedKeyUsage = critical,timeStamping
"""


@pytest.fixture
def signed(home: Path) -> Path:
    """A home with checkpoints of 2 and of 4 entries."""
    append(home, *signals(2))
    create_key(home, "log.example/main")
    sign_checkpoint(home)
    append(home, *signals(2, start=3))
    sign_checkpoint(home)
    return home


def test_it_has_the_sizes_and_what_was_added_to_each(signed: Path) -> None:
    add_cosignature(signed, 2, 1_764_412_800)
    add_stamp(signed, 4, 1_764_500_000)
    add_stamp(signed, 4, 1_764_400_000, number=2)
    set_written(signed, 4, 1_764_600_000)
    with kept_listing(signed) as kept:
        assert kept is not None
        assert (kept.count, kept.size) == (2, 4)
        newest, older = kept.newest()
        assert kept.key_mode() == 0o600
        assert kept.vkey() == (signed / "evidence" / "vkey").read_text().strip()
        assert not kept.is_restored
        assert kept.last_cosigned_s() == 1_764_412_800
        assert kept.last_stamp_s() == 1_764_500_000
    assert list(newest.stamps_s) == [1_764_400_000, 1_764_500_000]
    assert newest.written_s == 1_764_400_000  # its file is younger than its stamp
    assert newest.text == checkpoint_path(signed, 4).read_text()
    assert older.cosignatures == (SeenBy(name=WITNESS.name, time_s=1_764_412_800),)
    assert older.written_s == 1_764_412_800


def test_a_cosignature_leaves_the_time_of_signing_as_it_is(signed: Path) -> None:
    set_written(signed, 2, 1_764_000_000)
    note = parse_note(checkpoint_path(signed, 2).read_bytes())
    line = cosign(note.text, WITNESS, 1_764_412_800).to_text()
    keep_cosignatures(signed, note.to_bytes() + line.encode(), [WITNESS.verifier])
    with kept_listing(signed) as kept:
        assert kept is not None
        (found,) = kept.newest(2)
    assert found.written_s == 1_764_000_000
    assert found.cosignatures == (SeenBy(name=WITNESS.name, time_s=1_764_412_800),)


def test_a_home_without_the_directory_has_nothing(home: Path) -> None:
    append(home, *signals(1))
    with kept_listing(home) as kept:
        assert kept is None
    assert not (home / "evidence").exists()


def test_only_so_many_checkpoints_are_read_for_a_cosignature(signed: Path) -> None:
    text = checkpoint_path(signed, 4).read_bytes()
    for size in range(5, 5 + SEARCH_MAX):
        checkpoint_path(signed, size).write_bytes(text)
    add_cosignature(signed, 4, 1_764_412_800)
    with kept_listing(signed) as kept:
        assert kept is not None
        assert kept.last_cosigned_s() is None
    add_cosignature(signed, 5, 1_764_412_801)
    with kept_listing(signed) as kept:
        assert kept is not None
        assert kept.last_cosigned_s() == 1_764_412_801


def test_cosignatures_are_those_of_the_vectors() -> None:
    found = vectors()
    (seen,) = cosignatures_in(found["checkpoint"] + found["cosignature"])
    assert seen.name == found["witness_vkey"].partition("+")[0]
    assert 1_600_000_000 < seen.time_s < 2_000_000_000
    assert cosignatures_in(found["checkpoint"]) == ()
    late = found["cosignature"].rpartition(" ")[0] + " " + "/" * 100 + "8=\n"
    assert cosignatures_in(found["checkpoint"] + late) == ()


def test_the_time_of_a_stamp_is_the_one_that_openssl_put_into_it(tmp_path: Path) -> None:
    openssl = needs_tool("openssl", apt="openssl")
    (tmp_path / "authority.cnf").write_text(AUTHORITY)
    (tmp_path / "serial").write_text("01\n")

    def run(*words: str) -> str:
        done = subprocess.run(
            [openssl, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", "key")
    run("req", "-x509", "-config", "authority.cnf", *new_key, "-out", "certificate")
    run("ts", "-query", "-data", "serial", "-sha256", "-cert", "-out", "query")
    signer = ("-signer", "certificate", "-inkey", "key")
    run("ts", "-reply", "-config", "authority.cnf", *signer, "-queryfile", "query", "-out", "reply")
    text = run("ts", "-reply", "-in", "reply", "-text")
    (shown,) = (line for line in text.splitlines() if line.startswith("Time stamp: "))
    expected = datetime.strptime(shown, "Time stamp: %b %d %H:%M:%S %Y %Z").replace(tzinfo=UTC)
    data = (tmp_path / "reply").read_bytes()
    assert stamp_time(data) == expected.timestamp()
    assert stamp_time(data[:60]) is None
    assert stamp_time(b"\x18\x0f20251399120000Z") is None
