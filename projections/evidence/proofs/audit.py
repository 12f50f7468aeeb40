"""Keeps the newest checkpoint that an auditor has accepted, and accepts growth only.

An auditor that cosigns keeps its cosignature with the checkpoint, and so knows the time of its last
one.

Invariant: what is kept is replaced only by a checkpoint that continues it, durably, by one process
at a time; a cosignature is made only of a checkpoint that is kept, and its time is read once the
growth was verified.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import Directory, Disk, FileLock, PollInterval, printable
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import OpenedCheckpoint, SignedHead, open_checkpoint
from projections.evidence.formats.keys import SigningKey, VerifierKey
from projections.evidence.formats.merkle import EMPTY_ROOT
from projections.evidence.formats.note import NOTE_BYTES_MAX, Note, Signature, cosign
from projections.evidence.proofs.growth import parse_growth, verify_growth

LOCK_WAIT_S = 10.0  # an audit takes milliseconds
LOCK_POLL = PollInterval(0.001, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A log that has only grown."""

    origin: str
    old_size: int  # 0 at the first audit
    size: int
    cosignature: str | None = None  # the line of the auditor, without its newline

    def to_text(self) -> list[str]:
        """For a reader."""
        return [f"only grown: {printable(self.origin)} from {self.old_size} to {self.size} entries"]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        found = {"origin": self.origin, "old_size": self.old_size, "size": self.size}
        return found if self.cosignature is None else {**found, "cosignature": self.cosignature}


def audit(
    data: bytes,
    kept_path: Path,
    log: VerifierKey,
    *,
    is_first: bool = False,
    cosigner: SigningKey | None = None,
    clock: Callable[[], float] = time.time,
    disk: Disk | None = None,
) -> Audited:
    """Replaces the kept checkpoint by that of the file `data`, which continues it.

    Nothing may be kept yet at the first audit, whose file begins at size 0, and something must be
    at each other one. `cosigner`, the auditor's own key, signs the checkpoint and the time of
    `clock`, never an earlier one than before; that is kept too before it is returned. Raises
    NotProved, and then what is kept stays; ProjectionError, also where another audit holds the
    lock; OSError.
    """
    growth = parse_growth(data)
    with _locked_directory(kept_path, disk) as directory:
        before = None
        with suppress(FileNotFoundError):
            before = _kept_checkpoint(directory.read(kept_path.name, NOTE_BYTES_MAX), log)
        _require_kept(kept_path, before is not None, is_first)
        kept = SignedHead(origin=log.name, size=0, root=EMPTY_ROOT) if not before else before.head
        opened = verify_growth(growth, kept, log)
        new, line, data = opened.head, None, growth.checkpoint
        if cosigner is not None:
            last_s = _last_time_s(before, cosigner.verifier)
            line = cosign(opened.note.text, cosigner, max(int(clock()), last_s))
            data = _with_own(opened.note, log, line)
        if new != kept or line is not None:
            directory.replace(kept_path.name, data)
    cosignature = None if line is None else line.to_text().removesuffix("\n")
    return Audited(origin=new.origin, old_size=kept.size, size=new.size, cosignature=cosignature)


def _require_kept(kept_path: Path, is_kept: bool, is_first: bool) -> None:
    """Raises ProjectionError: without what was kept, any log could be taken for the same one."""
    if not is_kept and not is_first:
        raise ProjectionError(
            "there is no kept checkpoint",
            where=str(kept_path),
            do="name the file that the last audit of this log kept, or put it back from a copy; if"
            " you have never audited this log, say so with --first",
        )
    if is_kept and is_first:
        raise ProjectionError(
            "a checkpoint was kept already, so this is not the first audit",
            where=str(kept_path),
            do="leave out --first, or name a new file if this is another log",
        )


def _last_time_s(before: OpenedCheckpoint | None, own: VerifierKey) -> int:
    """The time of the last cosignature that is kept; 0 without one."""
    if before is None:
        return 0
    times = [0]
    for line in before.note.signatures:
        with suppress(NotProved):
            if (line.name, line.id) == (own.name, own.id):
                times.append(own.verify(before.note.text, line.value) or 0)
    return max(times)


def _with_own(note: Note, log: VerifierKey, line: Signature) -> bytes:
    """The checkpoint with the signatures of the log and of this auditor, and no others."""
    by_log = tuple(each for each in note.signatures if (each.name, each.id) == (log.name, log.id))
    return Note(text=note.text, signatures=(*by_log[:1], line)).to_bytes()


def _kept_checkpoint(data: bytes, log: VerifierKey) -> OpenedCheckpoint:
    try:
        return open_checkpoint(data, log)
    except NotProved as error:
        raise NotProved(f"what was kept is no checkpoint of this log: {error.what}") from None


@contextmanager
def _locked_directory(kept_path: Path, disk: Disk | None) -> Iterator[Directory]:
    parent = os.path.abspath(kept_path.parent)
    with Directory.open(parent, follow=True, disk=disk) as directory:
        lock = FileLock(f".{kept_path.name}.lock", dir_fd=directory.fd)
        try:
            if not lock.wait_for(LOCK_WAIT_S, LOCK_POLL):
                raise ProjectionError(
                    f"another audit has held its lock for {LOCK_WAIT_S:g} s",
                    where=str(kept_path),
                    do="run this again when it has ended",
                )
            yield directory
        finally:
            lock.drop()
