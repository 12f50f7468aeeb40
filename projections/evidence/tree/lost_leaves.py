"""Leaf hashes of lines that the log has lost: `evidence/lost`, one line of text for each.

    SEQ BASE64

They are copied from the tree before an operator accepts the loss. With them the tree goes on over
the gap, and other proofs stay valid: a leaf hash stands for its line in every root. No line shows
later whether it is right. So a hash is kept only where a second value vouches for it: the root or
the CRC of its tile, or the root that was signed.

Invariant: a hash that was kept is never changed or removed, and is that of the line.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from eventlog import LogCorrupt, LogDiverged
from eventlog.plumbing import Directory, Disk, count_text, own_chain
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.encoding import decode_hash, decode_number, encode_base64
from projections.evidence.formats.merkle import TILE_WIDTH, Tree, root_from_inclusion
from projections.evidence.kept.kept_listing import DIRECTORY_NAME, kept_listing
from projections.evidence.tree.level_files import LevelFiles, stored_files

LOST_NAME = "lost"
LOST_BYTES_MAX = 64 << 20
LOST_MAX = 1_000_000  # which fit in that: more than some ten segments have


class NotKept(NamedTuple):
    """How many lines are about to be lost of which no hash was kept, and the first of them."""

    lines: int
    first: int


def read_lost(home: Path, *, disk: Disk | None = None) -> dict[int, bytes]:
    """The leaf hashes of lost lines by seq; none without the file. Raises ProjectionError."""
    try:
        with Directory.open(home / DIRECTORY_NAME, disk=disk) as directory:
            return _read(directory)
    except (FileNotFoundError, NotADirectoryError):
        return {}


def keep_lost(
    home: Path, ranges: Sequence[tuple[int, int]], *, disk: Disk | None = None
) -> NotKept:
    """Keeps the hashes of lines that are about to be accepted as lost; returns what is not kept.

    `ranges` are first and last seqs, which may be far behind the end of the tree. Where the home
    signs nothing, nothing is kept, and nothing counts as not kept. A hash comes from the tree,
    which read the line when it was whole. Raises OSError, UnsafePath, ProjectionError.
    """
    try:
        directory = Directory.open(home / DIRECTORY_NAME, disk=disk)
    except FileNotFoundError:
        return NotKept(0, 0)
    with directory:
        known = _read(directory)
        found = _from_tree(home, ranges, known)
        if found:
            known |= found
            directory.replace(LOST_NAME, _encode(known))
        return _not_kept(ranges, known)


def _not_kept(ranges: Sequence[tuple[int, int]], known: Mapping[int, bytes]) -> NotKept:
    lines, firsts = 0, []
    for first, last in ranges:
        kept = sorted(seq for seq in known if first <= seq <= last)
        lines += last - first + 1 - len(kept)
        gap = next((first + n for n, seq in enumerate(kept) if seq != first + n), first + len(kept))
        if gap <= last:
            firsts.append(gap)
    return NotKept(lines, min(firsts, default=0))


def before_loss(home: str, ranges: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Keeps the hashes before `repair --accept` records a loss; yields what it could not keep."""
    missing = keep_lost(Path(home), ranges)
    if missing.lines:
        yield (
            f"evidence: {count_text(missing.lines, 'lost entry')} (the first is entry"
            f" {missing.first}) had no intact hash in data/tree, so nothing can be signed until the"
            " log has them again"
        )


def _from_tree(
    home: Path, ranges: Sequence[tuple[int, int]], known: Mapping[int, bytes]
) -> dict[int, bytes]:
    """What the tree has of these lines, as far as something vouches for it, and room is for it."""
    found: dict[int, bytes] = {}
    with stored_files(home) as files:
        state = None if files is None else files.stored_state()
        if files is None or state is None or state.seq == 0:
            return found
        vouched = _Vouched(files, Tree(state.seq, files.read), _signed_root(home))
        if not vouched.is_of_log(home, state.chain):
            return found
        for first, last in ranges:
            for seq in range(max(first, 1), min(last, state.seq) + 1):
                if len(known) + len(found) >= LOST_MAX:
                    return found
                leaf = None if seq in known else vouched.leaf(seq)
                if leaf is not None:
                    found[seq] = leaf
    return found


class _Vouched:
    """The tree beside the root that was signed."""

    def __init__(self, files: LevelFiles, tree: Tree, signed: tuple[int, bytes] | None) -> None:
        self._files = files
        self._tree = tree
        self._signed = signed if signed is not None and signed[0] <= tree.size else None
        self._tile, self._is_tile_intact = -1, False  # the last one looked at

    def is_of_log(self, home: Path, chain: str) -> bool:
        """Whether the tree, whose last line has that chain, covers lines of this log.

        Where that line is damaged, the signed root shows it.
        """
        with suppress(LogCorrupt, LogDiverged):
            if found := own_chain(str(home), self._tree.size):
                return found == chain
        return self._signed is not None and self._tree.root(self._signed[0]) == self._signed[1]

    def leaf(self, seq: int) -> bytes | None:
        """The hash of a line; None where nothing vouches for it."""
        tile = (seq - 1) // TILE_WIDTH
        if tile != self._tile:
            self._tile, self._is_tile_intact = tile, self._files.is_tile_intact(tile)
        leaf = self._files.read(0, seq - 1, 1)
        return leaf if self._is_tile_intact or self._is_in_signed_root(leaf, seq - 1) else None

    def _is_in_signed_root(self, leaf: bytes, index: int) -> bool:
        if self._signed is None or index >= self._signed[0]:
            return False
        size, root = self._signed
        return root_from_inclusion(leaf, index, size, self._tree.inclusion(index, size)) == root


def _signed_root(home: Path) -> tuple[int, bytes] | None:
    """Size and root of the newest checkpoint; None without one that can be read.

    Its signature need not be verified: no damaged file has the root of a tree.
    """
    with kept_listing(home) as kept:
        newest = None if kept is None else next(kept.newest(), None)
    lines = [] if newest is None else newest.text.split("\n")
    try:
        return (newest.size, decode_hash(lines[2], what="the root")) if newest else None
    except (IndexError, NotProved):
        return None


def _read(directory: Directory) -> dict[int, bytes]:
    data = b""
    with suppress(FileNotFoundError):
        data = directory.read(LOST_NAME, LOST_BYTES_MAX)
    try:
        pairs = [line.split(" ") for line in data.decode("ascii").splitlines()]
        return {
            decode_number(seq, what="a seq"): decode_hash(leaf, what="a leaf hash")
            for seq, leaf in pairs
        }
    except (UnicodeDecodeError, ValueError, NotProved) as error:
        raise ProjectionError(
            f"the hashes of lost lines cannot be read: {error}",
            where=f"{directory.path}/{LOST_NAME}",
            do="put that file back from a backup",
        ) from None


def _encode(leaves: Mapping[int, bytes]) -> bytes:
    return "".join(f"{seq} {encode_base64(leaf)}\n" for seq, leaf in leaves.items()).encode()
