"""Growth of a log between two checkpoints, as an auditor sees it.

The file is the body of an `add-checkpoint` request of https://c2sp.org/tlog-witness:

    old SIZE
    HASH ...
    (empty line)
    the checkpoint

Whether a file accuses its owner of a fork depends on what is signed: two roots at one size, or a
path that leads to the new root from another old one. Any other path may be damaged on its way.

Invariant: a head is accepted only if it continues the one that was kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import OpenedCheckpoint, SignedHead, open_checkpoint
from projections.evidence.formats.encoding import decode_hash, decode_number, encode_base64
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import PATH_HASHES_MAX, consistent_roots, is_consistent
from projections.evidence.formats.note import split_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The parts of the file, not checked."""

    old_size: int
    path: tuple[bytes, ...]  # the consistency proof; empty where old_size is 0
    checkpoint: bytes  # the signed note

    def to_bytes(self) -> bytes:
        """The file."""
        lines = (f"old {self.old_size}", *map(encode_base64, self.path), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


def parse_growth(data: bytes) -> Growth:
    """Splits the file; verifies nothing. Raises NotProved."""
    lines, checkpoint = split_file(data, what="the file")
    if not lines or not lines[0].startswith("old "):
        raise NotProved(
            "the file does not begin with the size that it continues",
            do="give what `eventlog evidence consistency` prints",
        )
    if len(lines) > 1 + PATH_HASHES_MAX:
        raise NotProved(f"the proof has more than {PATH_HASHES_MAX} hashes")
    return Growth(
        old_size=decode_number(lines[0].removeprefix("old "), what="the old size"),
        path=tuple(decode_hash(text, what="a hash of the proof") for text in lines[1:]),
        checkpoint=checkpoint,
    )


def verify_growth(growth: Growth, kept: SignedHead, log: VerifierKey) -> OpenedCheckpoint:
    """The new checkpoint, which continues the head that was kept. Raises NotProved.

    `kept` was signed by the log, or is the head of the empty log at a first audit.
    """
    opened = open_checkpoint(growth.checkpoint, log)
    new = opened.head
    if new.size < kept.size:  # an older checkpoint, which may be of the same log
        raise NotProved(f"the checkpoint has {new.size} entries, and the kept one {kept.size}")
    if new == kept:
        return opened
    if new.size == kept.size and new.root != kept.root:
        raise NotProved(f"FORK: two logs of {new.size} entries are signed by this key")
    if growth.old_size != kept.size:
        raise NotProved(
            f"the file continues size {growth.old_size}, and {kept.size} was kept",
            do=f"ask for a file of `eventlog evidence consistency --from {kept.size}`",
        )
    if is_consistent(kept.size, new.size, kept.root, new.root, growth.path):
        return opened
    if _leads_from_another_root(growth.path, kept, new):
        raise NotProved(
            f"FORK: the log of {new.size} entries does not begin with the one of {kept.size} that"
            " was kept, and both are signed by this key"
        )
    raise NotProved(
        f"the file does not show that the log of {new.size} entries continues the one of"
        f" {kept.size} that was kept: it was damaged, or there are two logs",
        do=f"ask for a new file of `eventlog evidence consistency --from {kept.size}`; keep both if"
        " that one does not show it either",
    )


def _leads_from_another_root(path: Sequence[bytes], kept: SignedHead, new: SignedHead) -> bool:
    """Whether a path shows that the new tree begins with other lines than those of the kept one."""
    if not 0 < kept.size < new.size:
        return False
    roots = consistent_roots(kept.size, new.size, kept.root, path)
    return roots is not None and roots[0] != kept.root and roots[1] == new.root
