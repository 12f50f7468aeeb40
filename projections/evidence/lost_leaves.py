"""Leaf hashes of lines that the log has lost: `evidence/lost`, one line of text for each.

    SEQ BASE64

They are copied from the tree before an operator accepts the loss. With them the tree goes on over
the gap, and other proofs stay valid: a leaf hash stands for its line in every root.

Invariant: a hash that was kept is never changed or removed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eventlog import LogCorrupt
from eventlog.plumbing import Directory, Disk, count_text, own_chain
from projections.errors import NotProved, ProjectionError
from projections.evidence.encoding import decode_hash, decode_number, encode_base64
from projections.evidence.kept_listing import DIRECTORY_NAME
from projections.evidence.level_files import level_files, stored_state
from projections.projection import Checkpoint

LOST_NAME = "lost"
LOST_BYTES_MAX = 64 << 20  # a million lines: more than some ten segments have


def read_lost(home: Path, *, disk: Disk | None = None) -> dict[int, bytes]:
    """The leaf hashes of lost lines by seq; none without the file. Raises ProjectionError."""
    try:
        with Directory.open(home / DIRECTORY_NAME, disk=disk) as directory:
            return _read(directory)
    except (FileNotFoundError, NotADirectoryError):
        return {}


def keep_lost(
    home: Path, ranges: Sequence[tuple[int, int]], *, disk: Disk | None = None
) -> tuple[int, ...]:
    """Keeps the hashes of lines that are about to be accepted as lost; returns what is not kept.

    `ranges` are first and last seqs. Where the home signs nothing, nothing is kept and nothing is
    returned. A hash comes from the tree, which read the line when it was whole. Raises OSError,
    UnsafePath, ProjectionError.
    """
    try:
        directory = Directory.open(home / DIRECTORY_NAME, disk=disk)
    except FileNotFoundError:
        return ()
    with directory:
        known = _read(directory)
        wanted = [seq for first, last in ranges for seq in range(first, last + 1)]
        missing = [seq for seq in wanted if seq not in known]
        found = _from_tree(home, missing, disk)
        if found:
            known |= found
            directory.replace(LOST_NAME, _encode(known))
        return tuple(seq for seq in missing if seq not in found)


def before_loss(home: str, ranges: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Keeps the hashes before `repair --accept` records a loss; yields what it could not keep."""
    missing = keep_lost(Path(home), ranges)
    if missing:
        yield (
            f"evidence: {count_text(len(missing), 'lost entry')} (the first is entry {missing[0]})"
            " had no hash in data/tree, so nothing can be signed until the log has them again"
        )


def _from_tree(home: Path, seqs: Sequence[int], disk: Disk | None) -> dict[int, bytes]:
    state = stored_state(home)
    if state is None or not _is_of_log(home, state):
        return {}
    with level_files(home, disk=disk) as files:
        return {seq: files.read(0, seq - 1, 1) for seq in seqs if seq <= state.seq}


def _is_of_log(home: Path, state: Checkpoint) -> bool:
    """Whether the tree covers lines of this log, as far as its damage lets that be seen."""
    try:
        return own_chain(str(home), state.seq) == state.chain
    except LogCorrupt:
        return True


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
