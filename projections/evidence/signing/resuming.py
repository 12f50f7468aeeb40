"""Lets a home sign that was restored, or that became the primary: it must contain what was signed.

Steps, each durable before the next, so that a run that dies is repeated:

    the newest checkpoint    is verified, and this log must have its root, line by line
    peaks, checkpoint        are kept, where this home lacked them
    line, vkey, key          are noted and brought in
    the mark `restored`      is removed

Invariant: a home signs only if its log contains the newest checkpoint that was given to it.
"""

from pathlib import Path

from eventlog import EventLog, LogDiverged
from eventlog.plumbing import Disk
from projections.errors import ProjectionError
from projections.evidence.formats.checkpoint import SignedHead, open_checkpoint, sign_head
from projections.evidence.formats.keys import LOG
from projections.evidence.formats.merkle import RunningRoot
from projections.evidence.kept.kept_files import KeptFiles, kept_files
from projections.evidence.kept.kept_listing import DIRECTORY_NAME
from projections.evidence.kept.key_files import read_key_file
from projections.evidence.signing.signing import (
    SignedCheckpoint,
    add_lines,
    examined_line,
    last_head,
    require_primary,
    signing_lock,
)


def resume(
    home: Path, newest: bytes, key_path: Path, *, disk: Disk | None = None
) -> SignedCheckpoint:
    """Allows signing after a restore or a promotion; returns the newest checkpoint.

    `newest` is the newest checkpoint that anyone holds. Raises NotProved where it is not signed by
    the key of this log, LogDiverged where this log does not contain it, ProjectionError.
    """
    require_primary(home)
    key = read_key_file(key_path, kind=LOG)
    if not (home / DIRECTORY_NAME).exists():
        open_checkpoint(newest, key.verifier)  # before it is made
    with kept_files(home, create=True, disk=disk) as kept, signing_lock(home):
        if kept.has_vkey() and key.verifier != kept.read_vkey():
            raise ProjectionError(
                "the key is not that of this log, which `vkey` names",
                where=str(key_path),
                do="name the file with the key that has signed the checkpoints in evidence/",
            )
        head = open_checkpoint(newest, key.verifier).head
        last = last_head(kept, key.verifier)
        if head.size < last.size:
            raise ProjectionError(
                f"a newer checkpoint is kept here: of {last.size} entries, not of {head.size}",
                where=kept.checkpoint_path(last.size),
                do="name the newest checkpoint that anyone holds: ask witnesses and clients, and"
                " look into the directory of `eventlog evidence publish`",
            )
        with EventLog(home) as log:
            end_seq = log.last_seq
        is_new = head.size not in kept.sizes()
        peaks = _peaks(home, last, head, end_seq, kept)
        if is_new:
            # Lines of others are not verified here; `evidence cosigned` brings them in.
            kept.write_checkpoint(head.size, sign_head(head, key).to_bytes(), peaks)
        kept.resume(key, *examined_line(home, end_seq, else_=head.size))
        return SignedCheckpoint(path=kept.checkpoint_path(head.size), size=head.size, is_new=is_new)


def _peaks(
    home: Path, last: SignedHead, head: SignedHead, end_seq: int, kept: KeptFiles
) -> tuple[bytes, ...]:
    """The peaks at the size of `head`, from each line of the log. Raises LogDiverged."""
    if end_seq < head.size:
        raise LogDiverged(
            f"this log ends with entry {end_seq}, and {head.size} entries were signed",
            where=str(home),
            do="restore a backup that has them; without them nothing can be signed with this key"
            " again: begin a new log with a new key",
        )
    running = RunningRoot()
    if add_lines(home, running, last, head.size) is None or running.root() != head.root:
        raise LogDiverged(
            f"this log is not the one that was signed at size {head.size}",
            where=kept.path,
            do="find out which of the two is right: run `eventlog verify`, and compare with a"
            " backup; nothing was signed",
        )
    return running.peaks
