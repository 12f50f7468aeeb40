"""Growth between two checkpoints: only a log that continues the kept one is accepted."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.formats.keys import parse_secret
from projections.evidence.proofs.growth import Growth, parse_growth, verify_growth
from tests.projections.evidence.vectors import tree, vectors

KEY = parse_secret(vectors()["secret"])


def head(size: int) -> SignedHead:
    return SignedHead(origin=KEY.name, size=size, root=tree().root(size))


def growth(old: int, new: int) -> Growth:
    path = tree().consistency(old, new)
    return Growth(old_size=old, path=path, checkpoint=sign_head(head(new), KEY).to_bytes())


SIZES = st.integers(min_value=0, max_value=600)


@given(old=SIZES, new=SIZES)
def test_each_later_size_continues_an_earlier_one(old: int, new: int) -> None:
    old, new = sorted((old, new))
    found = growth(old, new)
    assert parse_growth(found.to_bytes()) == found
    assert verify_growth(found, head(old), KEY.verifier).head == head(new)


def test_the_file_is_the_body_of_a_request_to_a_witness() -> None:
    lines = growth(257, 600).to_bytes().decode().split("\n\n")[0].split("\n")
    wanted = next(path for old, new, path in vectors()["consistency"] if (old, new) == (257, 600))
    assert lines == ["old 257", *wanted]
    assert growth(0, 300).to_bytes() == b"old 0\n\n" + vectors()["checkpoint"].encode()


def test_a_fork_is_named_so() -> None:
    other = SignedHead(origin=KEY.name, size=257, root=bytes(32))
    with pytest.raises(NotProved, match=r"FORK: .* log of 600"):
        verify_growth(growth(257, 600), other, KEY.verifier)
    for old in (0, 3, 256, 257):  # which the operator chooses
        with pytest.raises(NotProved, match=r"FORK: two logs of 257"):
            verify_growth(growth(old, 257), other, KEY.verifier)


def test_a_damaged_path_accuses_nobody() -> None:
    whole = growth(257, 600)
    for at, hash_ in enumerate(whole.path):
        changed = (*whole.path[:at], bytes([hash_[0] ^ 1]) + hash_[1:], *whole.path[at + 1 :])
        for path in (changed, whole.path[:at], (*whole.path, hash_)):
            with pytest.raises(NotProved, match="does not show that the log of 600") as error:
                verify_growth(replace(whole, path=path), head(257), KEY.verifier)
            assert "FORK" not in str(error.value)
            assert "consistency --from 257" in error.value.do


def test_an_older_checkpoint_or_one_that_continues_another_size_is_no_fork() -> None:
    for old in (0, 300):
        with pytest.raises(NotProved, match="has 300 entries, and the kept one 600"):
            verify_growth(growth(old, 300), head(600), KEY.verifier)
    with pytest.raises(NotProved, match="continues size 256, and 257 was kept"):
        verify_growth(growth(256, 600), head(257), KEY.verifier)


def test_the_checkpoint_that_was_kept_is_accepted_again() -> None:
    assert verify_growth(growth(256, 600), head(600), KEY.verifier).head == head(600)


@pytest.mark.parametrize("old", [0, 256, 257])
def test_no_changed_byte_is_accepted(old: int) -> None:
    data = growth(old, 600).to_bytes()
    for at in range(len(data)):
        for changed in (
            data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[:at] + data[at : at + 1] + data[at:],
        ):
            if changed != data:
                with pytest.raises(NotProved):
                    verify_growth(parse_growth(changed), head(old), KEY.verifier)


@pytest.mark.parametrize(
    "start", [b"", b"old\n", b"old  257\n", b"Old 257\n", b"old 0257\n", b"old 257\r\n", b"257\n"]
)
def test_another_spelling_is_refused(start: bytes) -> None:
    data = growth(257, 600).to_bytes()
    assert data.startswith(b"old 257\n")
    with pytest.raises(NotProved):
        parse_growth(start + data.removeprefix(b"old 257\n"))
