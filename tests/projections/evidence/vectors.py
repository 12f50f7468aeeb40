"""The vectors of tests/data/evidence, which another implementation has confirmed."""

import json
from functools import cache
from hashlib import sha256
from typing import TypedDict

from projections.evidence.formats.encoding import HASH_BYTES
from projections.evidence.formats.merkle import TILE_WIDTH, Tree, fold, leaf_hash
from tests.harness.requirements import CHECKOUT

DATA = CHECKOUT / "tests" / "data" / "evidence"


class Vectors(TypedDict):
    lines_sha256: str
    secret: str
    vkey: str
    witness_vkey: str
    leaf_hash_1: str
    leaf_hash_2: str
    roots: dict[str, str]
    inclusion: list[tuple[int, int, list[str]]]
    consistency: list[tuple[int, int, list[str]]]
    checkpoint: str
    cosignature: str


@cache
def vectors() -> Vectors:
    found: Vectors = json.loads((DATA / "vectors.json").read_text())
    return found


@cache
def lines() -> tuple[bytes, ...]:
    """The 600 lines, without their newlines."""
    data = (DATA / "vectors.jsonl").read_bytes()
    assert sha256(data).hexdigest() == vectors()["lines_sha256"]
    return tuple(data.splitlines())


@cache
def leaves() -> tuple[bytes, ...]:
    return tuple(leaf_hash(line) for line in lines())


@cache
def levels() -> tuple[bytes, bytes]:
    """Leaf hashes, and the roots of complete runs of 256."""
    low, run = b"".join(leaves()), HASH_BYTES * TILE_WIDTH
    return low, b"".join(fold(low[at : at + run]) for at in range(0, len(low) // run * run, run))


def hashes_at(level: int, first: int, count: int) -> bytes:
    found = levels()[level][first * HASH_BYTES : (first + count) * HASH_BYTES]
    assert len(found) == count * HASH_BYTES
    return found


def tree(size: int = 600) -> Tree:
    return Tree(size, hashes_at)
