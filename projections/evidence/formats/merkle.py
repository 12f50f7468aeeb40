"""The Merkle tree of RFC 6962: leaf hashes, roots, inclusion and consistency proofs, verification.

A tree is reached by a `HashReader` over flat levels: level 0 holds the leaf hashes, level L the
roots of all complete runs of 256**L leaves. A node between two levels is calculated from at most
128 hashes of the lower one.

The verifiers follow RFC 9162, 2.1.3.2 and 2.1.4.2; they share only the two hash functions with what
makes the proofs.

Invariant: the same leaves give the same root, whatever the order in which levels were filled.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

from projections.evidence.formats.encoding import HASH_BYTES

TILE_HEIGHT = 8  # fixed by tlog-tiles
TILE_WIDTH = 1 << TILE_HEIGHT
PATH_HASHES_MAX = 63  # a tree of 2**63 - 1 leaves has no longer path
EMPTY_ROOT = sha256(b"").digest()

# (level, first, count) -> count * 32 bytes of that level. Raises where they are not there.
HashReader = Callable[[int, int, int], bytes]


def leaf_hash(line: bytes) -> bytes:
    """The hash of a leaf; a leaf is a line without its newline."""
    return sha256(b"\0" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


def fold(hashes: bytes) -> bytes:
    """The root over a power of two of concatenated hashes of equal height."""
    while len(hashes) > HASH_BYTES:
        pair_bytes = 2 * HASH_BYTES
        hashes = b"".join(
            [
                sha256(b"\1" + hashes[at : at + pair_bytes]).digest()
                for at in range(0, len(hashes), pair_bytes)
            ]
        )
    return hashes


class Tree:
    """The first `size` leaves behind a HashReader."""

    def __init__(self, size: int, hashes_at: HashReader) -> None:
        self.size = size
        self._hashes_at = hashes_at

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves; default: all."""
        size = self.size if size is None else size
        self._require_size(size)
        return self._root_of(0, size) if size else EMPTY_ROOT

    def peaks(self, size: int | None = None) -> tuple[bytes, ...]:
        """The roots of the complete subtrees that the first `size` leaves divide into, in order."""
        size = self.size if size is None else size
        self._require_size(size)
        found, start = [], 0
        for height in range(size.bit_length() - 1, -1, -1):
            if size >> height & 1:
                found.append(self._node(height, start >> height))
                start += 1 << height
        return tuple(found)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The path from leaf `index` to the root over `size` leaves, from the leaf upwards."""
        self._require_size(size)
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} is not in a tree of {size}")
        start, end, path = 0, size, []
        while end - start > 1:
            middle = start + _largest_power_below(end - start)
            if index < middle:
                path.append(self._root_of(middle, end))
                end = middle
            else:
                path.append(self._root_of(start, middle))
                start = middle
        return tuple(reversed(path))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The proof that the tree of `new` leaves continues that of `old`; empty for old 0 or new.

        RFC 9162, 2.1.4.1.
        """
        self._require_size(new)
        if not 0 <= old <= new:
            raise ValueError(f"a tree of {new} does not continue one of {old}")
        if old in (0, new):
            return ()
        start, end, path = 0, new, []
        while old != end:
            middle = start + _largest_power_below(end - start)
            if old <= middle:
                path.append(self._root_of(middle, end))
                end = middle
            else:
                path.append(self._root_of(start, middle))
                start = middle
        if start > 0:  # else the verifier has this root: it is that of the old tree
            path.append(self._root_of(start, end))
        return tuple(reversed(path))

    def _require_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, not {size}")

    def _root_of(self, start: int, end: int) -> bytes:
        """The root over the leaves from `start` to before `end`."""
        count = end - start
        if count & (count - 1) == 0:
            height = count.bit_length() - 1
            assert start % count == 0, "a complete subtree begins at a multiple of its size"
            return self._node(height, start >> height)
        middle = start + _largest_power_below(count)
        return node_hash(self._root_of(start, middle), self._root_of(middle, end))

    def _node(self, height: int, index: int) -> bytes:
        """The root over the leaves from `index << height` to before `(index + 1) << height`."""
        level, above = divmod(height, TILE_HEIGHT)
        return fold(self._hashes_at(level, index << above, 1 << above))


class RunningRoot:
    """Calculates a root leaf by leaf from the peaks of a smaller tree; holds no other node."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} has {size.bit_count()} peaks, not {len(peaks)}")
        self.size = size
        self._peaks = list(peaks)

    def add(self, leaf: bytes) -> None:
        """Adds the hash of the next leaf."""
        found, size = leaf, self.size
        while size & 1:
            found = node_hash(self._peaks.pop(), found)
            size >>= 1
        self._peaks.append(found)
        self.size += 1

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The peaks of the leaves so far."""
        return tuple(self._peaks)

    def root(self) -> bytes:
        """The root over the leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        *others, found = self._peaks
        for peak in reversed(others):
            found = node_hash(peak, found)
        return found


def root_from_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root over `size` leaves that a path leads to; None where it has another length."""
    if not 0 <= index < size:
        return None
    first, second, found = index, size - 1, leaf
    for hash_ in path:
        if second == 0:
            return None
        if first & 1 or first == second:
            found = node_hash(hash_, found)
            first, second = _skip_right_edge(first, second)
        else:
            found = node_hash(found, hash_)
        first, second = first >> 1, second >> 1
    return found if second == 0 else None


def is_consistent(
    old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Whether a path proves that the tree of `new` leaves continues that of `old`.

    The empty tree is continued by each one, without a path.
    """
    if not 0 <= old <= new:
        return False
    if old == new:
        return old_root == new_root and not path
    if old == 0:
        return old_root == EMPTY_ROOT and not path
    return consistent_roots(old, new, old_root, path) == (old_root, new_root)


def consistent_roots(
    old: int, new: int, old_root: bytes, path: Sequence[bytes]
) -> tuple[bytes, bytes] | None:
    """The roots of both trees by a path, 0 < old < new; None where it has another length.

    Where `old` is a power of two its root is not part of the path, and `old_root` is used.
    """
    hashes = list(path)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return None
    first, second = old - 1, new - 1
    while first & 1:
        first, second = first >> 1, second >> 1
    found_old = found_new = hashes[0]
    for hash_ in hashes[1:]:
        if second == 0:
            return None
        if first & 1 or first == second:
            found_old, found_new = node_hash(hash_, found_old), node_hash(hash_, found_new)
            first, second = _skip_right_edge(first, second)
        else:
            found_new = node_hash(found_new, hash_)
        first, second = first >> 1, second >> 1
    return (found_old, found_new) if second == 0 else None


def _skip_right_edge(first: int, second: int) -> tuple[int, int]:
    """Goes up while the node is the last of its row and has no sibling."""
    while not first & 1 and first:
        first, second = first >> 1, second >> 1
    return first, second


def _largest_power_below(count: int) -> int:
    """The largest power of two below `count`, which is 2 or more."""
    return 1 << (count - 1).bit_length() - 1
