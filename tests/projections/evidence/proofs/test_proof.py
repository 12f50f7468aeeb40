"""Proof files: they verify whole, and in no changed form."""

import random
from dataclasses import replace

import pytest

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import OpenedCheckpoint, SignedHead, sign_head
from projections.evidence.formats.keys import COSIGNER, SigningKey, parse_secret
from projections.evidence.formats.note import cosign, parse_note, with_signatures
from projections.evidence.proofs.growth import parse_growth
from projections.evidence.proofs.proof import PROOF_BYTES_MAX, Proof, parse_proof, verify_proof
from tests.projections.evidence.vectors import lines, tree, vectors

SIZE, INDEX = 300, 256
WITNESS = SigningKey(name="witness.example/vectors", kind=COSIGNER, seed=bytes(range(32, 64)))
KEY = parse_secret(vectors()["secret"])


def proof(index: int = INDEX) -> Proof:
    head = SignedHead(origin=KEY.name, size=SIZE, root=tree().root(SIZE))
    note = sign_head(head, KEY)
    signed = with_signatures(note, [cosign(note.text, WITNESS, 1764412800)]).to_bytes()
    path = tree().inclusion(index, SIZE)
    return Proof(line=lines()[index], index=index, path=path, checkpoint=signed)


def verify(data: bytes) -> OpenedCheckpoint:
    return verify_proof(parse_proof(data), KEY.verifier, [WITNESS.verifier])


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_a_proof_is_rebuilt_to_the_byte_and_verifies(index: int) -> None:
    found = proof(index)
    assert parse_proof(found.to_bytes()) == found
    opened = verify_proof(found, KEY.verifier, [WITNESS.verifier])
    assert opened.head.size == SIZE
    assert [seen.name for seen in opened.cosignatures] == [WITNESS.name]


def test_no_byte_of_a_proof_can_be_changed_left_out_or_doubled() -> None:
    data, chance = proof().to_bytes(), random.Random(5)
    witness_from = data.rindex("\N{EM DASH}".encode())
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[:at] + data[at : at + 1] + data[at:],
            data[:at],
        ):
            if changed == data:
                continue
            try:
                opened = verify(changed)
            except NotProved:
                continue
            # The signature of an unknown witness is ignored, as the format demands.
            assert at >= witness_from, (at, changed)
            assert opened.head.size == SIZE
            assert opened.cosignatures == ()


def test_each_part_must_belong_to_the_others() -> None:
    found = proof()
    assert verify_proof(found, KEY.verifier).cosignatures == ()
    wrong = (
        replace(found, line=lines()[INDEX - 1]),
        replace(found, line=found.line + b"\n"),
        replace(found, index=INDEX - 1),
        replace(found, index=SIZE),
        replace(found, path=found.path[:-1]),
        replace(found, path=(*found.path, found.path[0])),
        replace(found, path=found.path[::-1]),
    )
    for changed in wrong:
        with pytest.raises(NotProved, match="not part of the tree"):
            verify_proof(changed, KEY.verifier)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v2"),
        (b"index 256", b"index 0256"),
        (b"index 256", b"index +256"),
        (b"index 256", b"index  256"),
        (b"index 256", b"Index 256"),
        (b"index 256\n", b""),
        (b"index 256\n", b"index 256\r\n"),
        (b"extra ", b""),
        (b"extra ", b"extra"),
        (b"extra ", b"extra  "),
        (b"index 256\n", b"index 256\nAAAA\n"),
        (b"index 256\n", b"index 256\n\xc3\xa4\n"),
        (b"index 256\n", b"index 256\n\n"),
        (b"index 256\n", b"index 256\n" + 64 * (b"A" * 43 + b"=\n")),
    ],
)
def test_a_proof_in_another_spelling_is_refused(old: bytes, new: bytes) -> None:
    data = proof().to_bytes()
    assert data.count(old) == 1
    with pytest.raises(NotProved):
        verify(data.replace(old, new))


def test_a_file_that_is_no_proof_is_refused() -> None:
    data = proof().to_bytes()
    for bad in (b"", b"\n\n", data.partition(b"\n\n")[0], b"A" * (PROOF_BYTES_MAX + 1)):
        with pytest.raises(NotProved):
            parse_proof(bad)


def test_changed_line_ends_are_named() -> None:
    data = proof(1).to_bytes().replace(b"\n", b"\r\n")
    for read in (parse_proof, parse_growth, parse_note):
        with pytest.raises(NotProved, match="carriage returns"):
            read(data)
