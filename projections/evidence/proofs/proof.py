"""Proof files: one line of the log, its path to the root, the checkpoint.

https://c2sp.org/tlog-proof, with the line itself as `extra`:

    c2sp.org/tlog-proof@v1
    extra BASE64
    index N
    HASH ...
    (empty line)
    the checkpoint

Invariant: a proof that parses is rebuilt from its parts to the byte.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from projections.errors import NotProved
from projections.evidence.formats.checkpoint import OpenedCheckpoint, open_checkpoint
from projections.evidence.formats.encoding import (
    decode_base64,
    decode_hash,
    decode_number,
    encode_base64,
)
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import PATH_HASHES_MAX, leaf_hash, root_from_inclusion
from projections.evidence.formats.note import NOTE_BYTES_MAX, split_file

HEADER = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX = NOTE_BYTES_MAX  # a line of 64 KiB in base64, a path and a note


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The parts of a proof file, not checked."""

    line: bytes  # without its newline
    index: int  # seq - 1
    path: tuple[bytes, ...]  # from the leaf upwards
    checkpoint: bytes  # the signed note

    def to_bytes(self) -> bytes:
        """The file."""
        head = (HEADER, f"extra {encode_base64(self.line)}", f"index {self.index}")
        lines = (*head, *map(encode_base64, self.path), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.checkpoint


def parse_proof(data: bytes) -> Proof:
    """Splits a proof file; verifies nothing. Raises NotProved."""
    lines, checkpoint = split_file(data, what="the proof")
    if lines[:1] != [HEADER]:
        raise NotProved(
            f"the file is not a proof: it does not begin with {HEADER}",
            do="check a statement with `eventlog evidence check-statement`",
        )
    if len(lines) < 3 or not lines[1].startswith("extra "):
        raise NotProved("the proof does not hold the line that it proves")
    if not lines[2].startswith("index "):
        raise NotProved("the proof does not say which line it proves")
    if len(lines) > 3 + PATH_HASHES_MAX:
        raise NotProved(f"the path has more than {PATH_HASHES_MAX} hashes")
    return Proof(
        line=decode_base64(lines[1].removeprefix("extra "), what="the line"),
        index=decode_number(lines[2].removeprefix("index "), what="the index"),
        path=tuple(decode_hash(text, what="a hash of the path") for text in lines[3:]),
        checkpoint=checkpoint,
    )


def verify_proof(
    proof: Proof, log: VerifierKey, witnesses: Sequence[VerifierKey] = ()
) -> OpenedCheckpoint:
    """The checkpoint that covers the line of a proof. Raises NotProved where it does not."""
    opened = open_checkpoint(proof.checkpoint, log, witnesses)
    head = opened.head
    root = root_from_inclusion(leaf_hash(proof.line), proof.index, head.size, proof.path)
    if root != head.root:
        raise NotProved("the line is not part of the tree that was signed")
    return opened
