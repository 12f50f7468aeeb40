"""Roots and proofs of the tree, against the vectors and a naive model of RFC 6962."""

import base64
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.evidence.formats.merkle import (
    EMPTY_ROOT,
    RunningRoot,
    is_consistent,
    leaf_hash,
    root_from_inclusion,
)
from tests.projections.evidence.vectors import leaves, lines, tree, vectors

SIZE = 600


@cache
def naive_root(start: int, end: int) -> bytes:
    """MTH(D[start:end]) as RFC 6962, 2.1 defines it."""
    if end - start == 1:
        return sha256(b"\0" + lines()[start]).digest()
    if end == start:
        return sha256(b"").digest()
    k = 1
    while 2 * k < end - start:
        k *= 2
    left, right = naive_root(start, start + k), naive_root(start + k, end)
    return sha256(b"\1" + left + right).digest()


def decoded(path: list[str]) -> tuple[bytes, ...]:
    return tuple(map(base64.b64decode, path))


def test_roots_and_paths_are_those_of_the_vectors() -> None:
    found = vectors()
    assert leaf_hash(lines()[0]).hex() == found["leaf_hash_1"]
    assert leaf_hash(lines()[1]).hex() == found["leaf_hash_2"]
    for size_text, root in found["roots"].items():
        assert base64.b64encode(tree().root(int(size_text))).decode() == root
    for index, size, path in found["inclusion"]:
        assert tree().inclusion(index, size) == decoded(path)
    for old, new, path in found["consistency"]:
        assert tree().consistency(old, new) == decoded(path)


def test_every_size_has_the_root_of_the_naive_model_and_proofs_that_verify() -> None:
    running = RunningRoot()
    for size in range(SIZE + 1):
        root = naive_root(0, size)
        assert tree(size).root() == running.root() == root
        assert tree(size).peaks() == running.peaks
        assert RunningRoot(size, running.peaks).root() == root
        for index in {size // 3, size - 2, size - 1} & set(range(size)):
            path = tree().inclusion(index, size)
            assert root_from_inclusion(leaves()[index], index, size, path) == root
        for old in {0, size // 3, size - 1} & set(range(size)):
            path = tree().consistency(old, size)
            assert is_consistent(old, size, naive_root(0, old), root, path)
        if size < SIZE:
            running.add(leaves()[size])


SIZES = st.integers(min_value=1, max_value=SIZE)


@given(size=SIZES, data=st.data())
def test_an_inclusion_proof_verifies_for_its_own_leaf_index_and_size_only(
    size: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(min_value=0, max_value=size - 1))
    path, root = tree().inclusion(index, size), naive_root(0, size)
    assert root_from_inclusion(leaves()[index], index, size, path) == root
    other = data.draw(st.integers(min_value=0, max_value=SIZE - 1).filter(lambda i: i != index))
    assert root_from_inclusion(leaves()[other], index, size, path) != root
    assert root_from_inclusion(leaves()[index], other, size, path) != root
    assert root_from_inclusion(leaves()[index], index, size, (*path, root)) != root
    if path:
        assert root_from_inclusion(leaves()[index], index, size, path[:-1]) != root
        at = data.draw(st.integers(min_value=0, max_value=len(path) - 1))
        changed = (*path[:at], flipped(path[at]), *path[at + 1 :])
        assert root_from_inclusion(leaves()[index], index, size, changed) != root


@given(new=SIZES, data=st.data())
def test_a_consistency_proof_verifies_for_its_own_roots_and_path_only(
    new: int, data: st.DataObject
) -> None:
    old = data.draw(st.integers(min_value=0, max_value=new))
    path = tree().consistency(old, new)
    old_root, new_root = naive_root(0, old), naive_root(0, new)
    assert is_consistent(old, new, old_root, new_root, path)
    assert not is_consistent(old, new, flipped(old_root), new_root, path)
    if old:  # each tree continues the empty one
        assert not is_consistent(old, new, old_root, flipped(new_root), path)
    assert not is_consistent(old, new, old_root, new_root, (*path, new_root))
    if path:
        assert not is_consistent(old, new, old_root, new_root, path[:-1])
        at = data.draw(st.integers(min_value=0, max_value=len(path) - 1))
        changed = (*path[:at], flipped(path[at]), *path[at + 1 :])
        assert not is_consistent(old, new, old_root, new_root, changed)
    if old != new:
        assert not is_consistent(new, old, new_root, old_root, path)


def flipped(hash_: bytes) -> bytes:
    return bytes([hash_[0] ^ 1]) + hash_[1:]


def test_an_index_outside_the_tree_has_no_root() -> None:
    leaf = leaves()[0]
    assert root_from_inclusion(leaf, 1, 1, ()) is None
    assert root_from_inclusion(leaf, -1, 1, ()) is None
    assert root_from_inclusion(leaf, 0, 0, ()) is None
    assert not is_consistent(-1, 0, EMPTY_ROOT, EMPTY_ROOT, ())


@pytest.mark.parametrize("size", [-1, 601])
def test_a_tree_answers_for_no_size_that_it_does_not_have(size: int) -> None:
    for ask in (tree().root, tree().peaks, lambda size: tree().inclusion(0, size)):
        with pytest.raises(ValueError):
            ask(size)
