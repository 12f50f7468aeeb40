"""Checks a proof file without a home and without a network.

Invariant: a result is returned only for a line that the log has signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from eventlog import Entry
from eventlog.plumbing import printable
from projections.errors import NotProved
from projections.evidence.formats.checkpoint import (
    Cosignature,
    OpenedCheckpoint,
    Stamp,
    not_later_than,
    not_later_than_text,
)
from projections.evidence.formats.keys import LOG, VerifierKey
from projections.evidence.proofs.entry_line import parse_entry
from projections.evidence.proofs.proof import parse_proof, verify_proof


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedProof:
    """What a proof shows."""

    origin: str
    size: int
    entry: Entry
    cosignatures: tuple[Cosignature, ...]
    checkpoint: bytes  # the signed note, which a time stamp is of
    stamps: tuple[Stamp, ...] = ()  # that were verified beside the proof

    def to_text(self) -> list[str]:
        """For a reader; the line comes last."""
        lines = [
            f"PROVED: entry {self.entry.seq} of {self.size} in the log {self.origin}",
            f"  recorded_at {self.entry.recorded_at} (the operator's own clock)",
            *not_later_than_text(*self.cosignatures, *self.stamps),
            self.entry.line.decode().removesuffix("\n"),
        ]
        return [printable(line) for line in lines]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        return {
            "proved": True,
            "origin": self.origin,
            "seq": self.entry.seq,
            "size": self.size,
            "recorded_at": self.entry.recorded_at,
            "not_later_than": not_later_than(*self.cosignatures, *self.stamps),
            "line": self.entry.line.decode().removesuffix("\n"),
        }


def check_proof(data: bytes, keys: Sequence[VerifierKey], *, quorum: int = 0) -> CheckedProof:
    """What a proof file shows by these keys: one of the log, the others of witnesses.

    Raises NotProved, also where fewer than `quorum` witnesses have cosigned the checkpoint.
    """
    log, witnesses = log_and_witnesses(keys)
    proof = parse_proof(data)
    opened = verify_proof(proof, log, witnesses)
    entry = parse_entry(proof.line)
    if entry.seq != proof.index + 1:
        raise NotProved(f"the line has seq {entry.seq}, and is leaf {proof.index + 1} of the tree")
    require_quorum(opened, quorum)
    return CheckedProof(
        origin=opened.head.origin,
        size=opened.head.size,
        entry=entry,
        cosignatures=opened.cosignatures,
        checkpoint=proof.checkpoint,
    )


def log_and_witnesses(keys: Sequence[VerifierKey]) -> tuple[VerifierKey, list[VerifierKey]]:
    """The one key of a log among these keys, and those of witnesses. Raises NotProved."""
    logs = [key for key in keys if key.kind == LOG]
    witnesses = [key for key in keys if key.kind != LOG]
    if len(logs) != 1:
        raise NotProved(f"one key of a log is needed, and {len(logs)} were given")
    if len({key.public for key in keys}) < len(keys):
        raise NotProved("a key was given twice, maybe under two names: it counts as one")
    return logs[0], witnesses


def require_quorum(opened: OpenedCheckpoint, quorum: int) -> None:
    """Raises NotProved where fewer than `quorum` witnesses have cosigned."""
    if len(opened.cosignatures) < quorum:
        raise NotProved(
            f"{len(opened.cosignatures)} of the witnesses have cosigned the checkpoint of"
            f" {opened.head.size} entries, and {quorum} must",
            do="ask the operator for the same by a checkpoint that they have cosigned, with --size",
        )
