"""Signed checkpoints: origin, size and root of a tree. https://c2sp.org/tlog-checkpoint

Invariant: an `OpenedCheckpoint` was signed by the key of its log.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from projections.errors import NotProved
from projections.evidence.formats.encoding import (
    decode_hash,
    decode_number,
    encode_base64,
    time_text,
)
from projections.evidence.formats.keys import COSIGNER, LOG, SigningKey, VerifierKey
from projections.evidence.formats.merkle import EMPTY_ROOT
from projections.evidence.formats.note import Note, parse_note, sign_note

STAMP_BYTES_MAX = 64 * 1024  # a reply with its certificates has some 6 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """What a checkpoint says: the root over the first `size` lines of the log `origin`."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()  # further lines, which other logs may add

    def to_text(self) -> bytes:
        """The text that is signed."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    """A witness has seen the checkpoint not later than `time_s`."""

    name: str
    time_s: int  # since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """A time stamp authority has stamped the checkpoint at `time_s`."""

    name: str  # the subject of its certificate
    time_s: int  # since 1970


def not_later_than(*found: Cosignature | Stamp) -> list[dict[str, str]]:
    """For a program, in their order; names need not differ."""
    return [
        {
            "by": "witness" if isinstance(each, Cosignature) else "authority",
            "name": each.name,
            "time": time_text(each.time_s),
        }
        for each in found
    ]


def not_later_than_text(*found: Cosignature | Stamp) -> list[str]:
    """For a reader, a line for each, in their order."""
    return [
        f"  {'seen' if isinstance(each, Cosignature) else 'stamped'} by {each.name}"
        f" not later than {time_text(each.time_s)}"
        for each in found
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint whose signatures were verified."""

    head: SignedHead
    note: Note
    cosignatures: tuple[Cosignature, ...] = ()  # of the witnesses given, in their order


def parse_head(text: bytes) -> SignedHead:
    """The text of a checkpoint. Raises NotProved."""
    try:
        *lines, rest = text.decode().split("\n")
    except UnicodeDecodeError:
        raise NotProved("the checkpoint is not UTF-8") from None
    if rest or len(lines) < 3 or "" in lines:
        raise NotProved("the checkpoint does not have the lines origin, size and root")
    origin, size, root, *extensions = lines
    found = SignedHead(
        origin=origin,
        size=decode_number(size, what="the size of the checkpoint"),
        root=decode_hash(root, what="the root of the checkpoint"),
        extensions=tuple(extensions),
    )
    if found.size == 0 and found.root != EMPTY_ROOT:
        raise NotProved("the checkpoint of an empty log has not the root of an empty log")
    return found


def sign_head(head: SignedHead, key: SigningKey) -> Note:
    """The checkpoint with the signature of its log."""
    if key.kind != LOG or key.name != head.origin:
        raise ValueError("a checkpoint is signed by the key of its origin")
    return sign_note(head.to_text(), key)


def open_checkpoint(
    data: bytes, log: VerifierKey, witnesses: Sequence[VerifierKey] = ()
) -> OpenedCheckpoint:
    """Parses a checkpoint and verifies its signatures of the log and of the witnesses.

    Signatures of other keys are ignored, as the format demands. Raises NotProved where the log has
    not signed it, and where a signature of one of these keys is wrong.
    """
    note = parse_note(data)
    head = parse_head(note.text)
    if log.kind != LOG or head.origin != log.name:
        raise NotProved(f"the checkpoint is of {head.origin[:80]!r}, the key of {log.name!r}")
    if not note.verified_by(log):
        raise NotProved("the checkpoint is not signed by the key of the log")
    seen = []
    for witness in witnesses:
        if witness.kind != COSIGNER:
            raise NotProved(f"the key of {witness.name} is not that of a witness")
        times = [time_s for time_s in note.verified_by(witness) if time_s is not None]
        if times:
            seen.append(Cosignature(name=witness.name, time_s=min(times)))
    return OpenedCheckpoint(head=head, note=note, cosignatures=tuple(seen))
