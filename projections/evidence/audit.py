"""Keeps the newest checkpoint that an auditor has accepted, and accepts growth only.

Invariant: what is kept is replaced only by a checkpoint that continues it, durably, by one process
at a time; a cosignature is made only of a checkpoint that is kept.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import Directory, Disk, FileLock, PollInterval
from projections.errors import NotProved, ProjectionError
from projections.evidence.checkpoint import SignedHead, open_checkpoint
from projections.evidence.growth import parse_growth, verify_growth
from projections.evidence.keys import SigningKey, VerifierKey
from projections.evidence.merkle import EMPTY_ROOT
from projections.evidence.note import NOTE_BYTES_MAX, cosign

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
        return [f"only grown: {self.origin} from {self.old_size} to {self.size} entries"]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        found = {"origin": self.origin, "old_size": self.old_size, "size": self.size}
        return found if self.cosignature is None else {**found, "cosignature": self.cosignature}


def audit(
    data: bytes,
    kept_path: Path,
    log: VerifierKey,
    *,
    cosigner: tuple[SigningKey, int] | None = None,
    disk: Disk | None = None,
) -> Audited:
    """Replaces the kept checkpoint by that of the file `data`, which continues it.

    Where nothing is kept yet, the file must begin at size 0. `cosigner`, the auditor's own key and
    the time in seconds since 1970, signs the checkpoint once it is kept, durably. Raises NotProved,
    and then what is kept stays; ProjectionError where another audit holds the lock; OSError.
    """
    growth = parse_growth(data)
    with _locked_directory(kept_path, disk) as directory:
        kept = SignedHead(origin=log.name, size=0, root=EMPTY_ROOT)
        with suppress(FileNotFoundError):
            kept = _kept_head(directory.read(kept_path.name, NOTE_BYTES_MAX), log)
        opened = verify_growth(growth, kept, log)
        new = opened.head
        if new != kept:
            directory.replace(kept_path.name, growth.checkpoint)
    cosignature = None
    if cosigner is not None:
        key, time_s = cosigner
        cosignature = cosign(opened.note.text, key, time_s).to_text().removesuffix("\n")
    return Audited(origin=new.origin, old_size=kept.size, size=new.size, cosignature=cosignature)


def _kept_head(data: bytes, log: VerifierKey) -> SignedHead:
    try:
        return open_checkpoint(data, log).head
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
