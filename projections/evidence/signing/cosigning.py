"""Keeps what witnesses have signed with the checkpoint that they have seen.

A witness answers with one or more signature lines, and often when a newer checkpoint exists; so the
checkpoint is found by the signature.

Invariant: a checkpoint only gains signatures that were verified; what was there stays before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import Disk, printable
from projections.errors import NotProved
from projections.evidence.formats.checkpoint import Cosignature, not_later_than
from projections.evidence.formats.encoding import time_text
from projections.evidence.formats.keys import COSIGNER, VerifierKey
from projections.evidence.formats.note import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    Note,
    Signature,
    parse_note,
    parse_signatures,
    with_signatures,
)
from projections.evidence.kept.kept_files import kept_files
from projections.evidence.signing.signing import signing_lock

CHECKPOINTS_TRIED_MAX = 1000  # the newest ones: six weeks, if one is signed each hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """A checkpoint, and the cosignatures of a file that it now has."""

    path: str
    size: int
    cosignatures: tuple[Cosignature, ...]

    def to_text(self) -> list[str]:
        """For a reader."""
        return [
            f"the checkpoint of {self.size} entries was seen by {printable(found.name)}"
            f" not later than {time_text(found.time_s)}"
            for found in self.cosignatures
        ]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        seen = not_later_than(*self.cosignatures)
        return {"path": self.path, "size": self.size, "not_later_than": seen}


def keep_cosignatures(
    home: Path, data: bytes, witnesses: Sequence[VerifierKey], *, disk: Disk | None = None
) -> Cosigned:
    """Adds the signature lines of these witnesses to the checkpoint that they are of, durably.

    Lines of other keys are left out. Raises NotProved where a line is wrong, or is of none of the
    newest checkpoints.
    """
    known = {(key.name, key.id): key for key in witnesses if key.kind == COSIGNER}
    lines = [(known[by], line) for line in _parse(data) if (by := (line.name, line.id)) in known]
    if not lines:
        raise NotProved("the file holds no cosignature of these witnesses")
    with kept_files(home, disk=disk) as kept, signing_lock(home):
        for size in kept.sizes()[: -CHECKPOINTS_TRIED_MAX - 1 : -1]:
            note = parse_note(kept.read_checkpoint(size))
            seen = _verified(note, lines)
            if seen is None:
                continue
            added = [line for key, line in lines if _is_earlier(note, key, line)]
            if len(note.signatures) + len(added) > SIGNATURES_MAX:
                raise NotProved(
                    f"the checkpoint would have more than {SIGNATURES_MAX} signatures",
                    where=kept.checkpoint_path(size),
                )
            if added:
                kept.replace_checkpoint(size, with_signatures(note, added).to_bytes())
            return Cosigned(path=kept.checkpoint_path(size), size=size, cosignatures=seen)
        raise NotProved(
            f"the cosignature is of none of the newest {CHECKPOINTS_TRIED_MAX} checkpoints",
            where=kept.path,
        )


def _parse(data: bytes) -> tuple[Signature, ...]:
    """The signature lines of a file, which may be a whole checkpoint. Raises NotProved."""
    if len(data) > NOTE_BYTES_MAX:
        raise NotProved(f"the file has more than {NOTE_BYTES_MAX} bytes")
    if b"\n\n" in data:
        return parse_note(data).signatures
    try:
        return parse_signatures(data.decode())
    except UnicodeDecodeError:
        raise NotProved("the file is not UTF-8") from None


def _verified(
    note: Note, lines: Sequence[tuple[VerifierKey, Signature]]
) -> tuple[Cosignature, ...] | None:
    """What the lines show of this checkpoint; None if one of them is of another."""
    try:
        times = [(key.name, key.verify(note.text, line.value)) for key, line in lines]
    except NotProved:
        return None
    return tuple(
        Cosignature(name=name, time_s=time_s) for name, time_s in times if time_s is not None
    )


def _is_earlier(note: Note, key: VerifierKey, line: Signature) -> bool:
    """Whether this witness has not signed the checkpoint before: only its first time counts."""
    before = [time_s for time_s in note.verified_by(key) if time_s is not None]
    time_s = key.verify(note.text, line.value)
    return time_s is not None and time_s < min(before, default=time_s + 1)
