"""Growth of a log between two checkpoints, as an auditor sees it.

The file is the body of an `add-checkpoint` request of https://c2sp.org/tlog-witness:

    old SIZE
    HASH ...
    (empty line)
    the checkpoint

Invariant: a head is accepted only if it continues the one that was kept.
"""

from dataclasses import dataclass

from projections.errors import NotProved
from projections.evidence.checkpoint import OpenedCheckpoint, SignedHead, open_checkpoint
from projections.evidence.encoding import decode_hash, decode_number, encode_base64
from projections.evidence.keys import VerifierKey
from projections.evidence.merkle import PATH_HASHES_MAX, is_consistent
from projections.evidence.note import NOTE_BYTES_MAX


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
    if len(data) > NOTE_BYTES_MAX:
        raise NotProved(f"the file has more than {NOTE_BYTES_MAX} bytes")
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NotProved("the file has other characters than ASCII before its checkpoint") from None
    if not separator or not lines[0].startswith("old "):
        raise NotProved("the file does not begin with the size that it continues")
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
    if growth.old_size != kept.size and new != kept:
        raise NotProved(f"the file continues size {growth.old_size}, and {kept.size} was kept")
    if new == kept:
        return opened
    if not is_consistent(kept.size, new.size, kept.root, new.root, growth.path):
        raise NotProved(
            f"FORK: the file does not show that the log of {new.size} entries continues the one"
            f" of {kept.size} that was kept"
        )
    return opened
