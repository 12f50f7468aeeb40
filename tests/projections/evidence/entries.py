"""Proofs of real entries, signed by the key of the vectors and cosigned by a witness."""

from functools import cache

from eventlog.format.line import CHAIN_START, encode
from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.formats.encoding import HASH_BYTES
from projections.evidence.formats.merkle import TILE_WIDTH, Tree, fold, leaf_hash
from projections.evidence.formats.note import cosign, with_signatures
from projections.evidence.proofs.proof import Proof
from tests.projections.evidence.proofs.test_proof import KEY, WITNESS

SIZE = 300
SEEN_S = 1764412800  # 2025-11-29T10:40:00Z


@cache
def entry_lines() -> tuple[bytes, ...]:
    """Lines of a log, without their newlines."""
    found, chain = [], CHAIN_START
    for seq in range(1, SIZE + 1):
        body = b'"signal_id":"s-%d","symbol":"AAPL","action":"BUY","entry_price":151.0' % seq
        line, chain = encode("signal", body, seq, seq, "2025-11-18T02:00:01.123456Z", chain)
        found.append(line[:-1])
    return tuple(found)


def entry_proof(index: int = 256) -> Proof:
    """The proof of one of them."""
    low = b"".join(map(leaf_hash, entry_lines()))
    levels = (low, fold(low[: TILE_WIDTH * HASH_BYTES]))

    def hashes_at(level: int, first: int, count: int) -> bytes:
        return levels[level][first * HASH_BYTES : (first + count) * HASH_BYTES]

    tree = Tree(SIZE, hashes_at)
    note = sign_head(SignedHead(origin=KEY.name, size=SIZE, root=tree.root()), KEY)
    signed = with_signatures(note, [cosign(note.text, WITNESS, SEEN_S)]).to_bytes()
    path = tree.inclusion(index, SIZE)
    return Proof(line=entry_lines()[index], index=index, path=path, checkpoint=signed)
