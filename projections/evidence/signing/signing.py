"""Signs the head of the log.

A wrong root that was signed cannot be taken back: it convicts the key of a fork. So nothing is
signed unless the last signed root is still a root of this log, and the new one comes out the same
in two calculations: from the tree on disk, and line by line from the peaks of the last signed size.
Nor is anything signed while another copy of this home may have signed more: after a restore, after
another home became the primary, and by a key that was brought here, until `resuming` has shown
otherwise. A key that was made here has signed nothing before, and needs no more.

Invariant: each checkpoint continues the one before it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eventlog import EventLog, LogDiverged, LogFenced, LogIsReplica
from eventlog.plumbing import (
    RECORD_NAME,
    Disk,
    decode,
    fence_state,
    is_replicated,
    own_chain,
    read_backup_end,
    read_mirror_record,
    replica_state,
)
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import SignedHead, open_checkpoint, sign_head
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import EMPTY_ROOT, RunningRoot
from projections.evidence.kept.kept_files import KeptFiles, kept_files
from projections.evidence.kept.locks import held_lock
from projections.evidence.tree.level_files import level_files
from projections.evidence.tree.log_leaves import leaf_batches
from projections.evidence.tree.projection import update_tree

LOCK_NAME = "evidence.lock"
PROMOTED = "promoted"  # the event of the entry by which another home became the primary
PROMOTED_KEY = b',"event":"promoted",'


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """The newest checkpoint of a log."""

    path: str
    size: int
    is_new: bool


def create_key(home: Path, origin: str, *, disk: Disk | None = None) -> VerifierKey:
    """Makes the key of a log.

    Raises ProjectionError where there is one, LogNotFound, LogIsReplica, LogFenced.
    """
    require_primary(home)
    with kept_files(home, create=True, disk=disk) as kept, signing_lock(home):
        with EventLog(home) as log:
            seq = log.last_seq
        return kept.create_key(origin, *examined_line(home, seq, else_=0))


def sign_checkpoint(
    home: Path,
    *,
    backup: Path | None = None,
    has_stream: bool = False,
    disk: Disk | None = None,
) -> SignedCheckpoint:
    """Signs the head of the log, or returns the newest checkpoint where nothing is new.

    With `backup` no entry is signed that this backup lacks; with `has_stream`, and wherever a
    mirror has left its record, none that is not replicated. Raises LogDiverged where the last
    signed root is not one of this log, or where the two calculations of the new root differ;
    LogIsReplica, LogFenced; BackupUnusable; ProjectionError.
    """
    require_primary(home)
    with kept_files(home, disk=disk) as kept, signing_lock(home):
        if kept.is_restored():
            raise ProjectionError(
                "this home was restored from a backup, which may lack what was signed later",
                where=kept.path,
                do="run `eventlog evidence resume` with the newest checkpoint that anyone holds",
            )
        key = kept.read_key()
        last = last_head(kept, key.verifier)
        examined_seq = _examined_seq(home, kept, key.verifier, last)
        size = _size_to_sign(home, update_tree(home, disk=disk).seq, backup, has_stream)
        if size <= last.size and kept.sizes():
            _require_contained(home, last, kept, disk)
            return SignedCheckpoint(
                path=kept.checkpoint_path(last.size), size=last.size, is_new=False
            )
        if size == 0:
            raise ProjectionError(
                "there is no entry to sign",
                where=str(home),
                do="append one; with a mirror or a backup, wait until it has the entry",
            )
        root, peaks = _checked_root(home, last, size, examined_seq, kept, disk)
        head = SignedHead(origin=key.name, size=size, root=root)
        kept.write_checkpoint(size, sign_head(head, key).to_bytes(), peaks)
        return SignedCheckpoint(path=kept.checkpoint_path(size), size=size, is_new=True)


def require_primary(home: Path) -> None:
    """Raises LogIsReplica or LogFenced where another home signs."""
    if replica_state(home) is not None:
        raise LogIsReplica(
            "this home is a replica: its primary signs",
            where=str(home),
            do="sign on the primary, or promote this home and bring `evidence/` over",
        )
    fence = fence_state(home)
    if fence is not None:
        raise LogFenced(
            f"this home is fenced, and signs nothing: {fence.to_text()}",
            where=str(home),
            do="sign on the new primary",
        )


def examined_line(home: Path, seq: int, *, else_: int) -> tuple[int, str]:
    """Seq and chain of an entry; of the earlier entry `else_` where that one was lost."""
    chain = _chain_at(home, seq)
    return (seq, chain) if chain else (else_, _chain_at(home, else_))


def _chain_at(home: Path, seq: int) -> str:
    """The chain of entry `seq`; empty where the log does not have it."""
    try:
        return own_chain(str(home), seq)
    except LogDiverged:  # it ends before
        return ""


def _examined_seq(home: Path, kept: KeptFiles, key: VerifierKey, last: SignedHead) -> int:
    """The seq up to which this log was examined for that key. Raises ProjectionError.

    Up to the last signed size its root vouches for the lines, behind it the chain does.
    """
    found = kept.examined()
    if found is None or found.vkey != key.to_text():
        problem = "the key was brought to this home, and may have signed more elsewhere"
    elif found.seq > last.size and _chain_at(home, found.seq) != found.chain:
        problem = f"this log has lost entry {found.seq}, up to which it was examined"
    else:
        return found.seq
    raise ProjectionError(problem, where=kept.path, do=_resume_advice(kept))


def _resume_advice(kept: KeptFiles) -> str:
    """What to do where the key may have signed elsewhere."""
    advice = "run `eventlog evidence resume` with the newest checkpoint that anyone holds"
    if kept.sizes():
        return advice
    return (
        f"{advice}; if this key has signed nothing at all, move it and `vkey` away, and make a"
        " new one with `eventlog evidence key ORIGIN`"
    )


def last_head(kept: KeptFiles, key: VerifierKey) -> SignedHead:
    """The newest signed head; that of the empty log where there is none."""
    sizes = kept.sizes()
    if not sizes:
        return SignedHead(origin=key.name, size=0, root=EMPTY_ROOT)
    where = kept.checkpoint_path(sizes[-1])
    try:
        head = open_checkpoint(kept.read_checkpoint(sizes[-1]), key).head
        if head.size != sizes[-1]:
            raise NotProved(f"the checkpoint is of size {head.size}")
    except NotProved as error:
        raise ProjectionError(
            f"the newest checkpoint cannot be continued: {error.what}",
            where=where,
            do="put back that file from a backup; nothing was signed",
        ) from error
    return head


def _size_to_sign(home: Path, last_seq: int, backup: Path | None, has_stream: bool) -> int:
    """How many lines may be signed: those in the backup; with a mirror those that are replicated.

    A record that cannot be read, or that the mirror has not written yet, tells of none. Raises
    ProjectionError, BackupUnusable.
    """
    if backup is not None:
        last_seq = min(last_seq, _backed_up_seq(home, backup))
    record = read_mirror_record(home)
    if record is None:
        has_record = os.path.lexists(home / "data" / RECORD_NAME)
        return 0 if has_stream or has_record else last_seq
    size = min(last_seq, record.acked)
    if not is_replicated(str(home), size):
        raise ProjectionError(
            f"entry {size} is not known to be replicated, and only replicated entries are signed",
            where=str(home),
            do="see the mirror in `eventlog status`, and run this again",
        )
    return size


def _backed_up_seq(home: Path, backup: Path) -> int:
    """The last entry of a backup of this log. Raises BackupUnusable, ProjectionError."""
    end = read_backup_end(backup)
    if not end.chain or own_chain(str(home), end.last_seq) != end.chain:  # it may be unknown
        raise ProjectionError(
            f"the backup ends with entry {end.last_seq}, and this log does not have that entry",
            where=str(backup),
            do="name a backup of this log; nothing was signed",
        )
    return end.last_seq


def _require_contained(home: Path, last: SignedHead, kept: KeptFiles, disk: Disk | None) -> None:
    """Raises LogDiverged unless the last signed root is one of this log."""
    for again in (False, True):
        if again:
            update_tree(home, disk=disk, again=True)
        with level_files(home, disk=disk) as files:
            tree = files.tree()
            if tree.size >= last.size and tree.root(last.size) == last.root:
                return
    raise diverged_error(last, kept)


def _checked_root(
    home: Path,
    last: SignedHead,
    size: int,
    examined_seq: int,
    kept: KeptFiles,
    disk: Disk | None,
) -> tuple[bytes, tuple[bytes, ...]]:
    """The root over `size` lines and its peaks, from two calculations that agree.

    The second one continues the last signed root, so a root that agrees with it does so too. The
    tree is built again once where they differ.
    """
    running = kept.read_peaks(last.size, last.root) or RunningRoot()
    promoted_seq = add_lines(home, running, last, size)
    if promoted_seq is None:
        raise diverged_error(last, kept)
    if promoted_seq > max(last.size, examined_seq):
        raise ProjectionError(
            f"another home became the primary at entry {promoted_seq}, and may have signed since",
            where=kept.path,
            do=_resume_advice(kept),
        )
    for again in (False, True):
        if again:
            update_tree(home, disk=disk, again=True)
        with level_files(home, disk=disk) as files:
            tree = files.tree()
            if tree.size < size:
                continue
            root = tree.root(size)
            if root == running.root():
                return root, running.peaks
    _require_contained(home, last, kept, disk)
    raise LogDiverged(
        f"two calculations of the root over {size} lines differ: nothing was signed",
        where=str(home),
        do="run `eventlog verify`, and check the memory of this machine",
    )


def add_lines(home: Path, running: RunningRoot, last: SignedHead, size: int) -> int | None:
    """Adds the lines up to `size`; None where those up to the last signed size give another root.

    Returns the seq of the newest line among them by which a home became the primary; 0 without one.
    """
    promoted_seq = 0
    for leaves, lines in leaf_batches(home, after=running.size, until=size):
        for leaf in leaves:
            running.add(leaf)
            if running.size == last.size and running.root() != last.root:
                return None
        for line in lines:
            if PROMOTED_KEY in line and (entry := decode(line)).event == PROMOTED:
                promoted_seq = entry.seq
    return promoted_seq


def diverged_error(last: SignedHead, kept: KeptFiles) -> LogDiverged:
    """The error for a log that does not have the last signed root."""
    return LogDiverged(
        f"this log is not the one that was signed at size {last.size}: nothing was signed",
        where=kept.checkpoint_path(last.size),
        do="find out which of the two is right: run `eventlog verify`, and compare with a backup",
    )


@contextmanager
def signing_lock(home: Path) -> Iterator[None]:
    """One process at a time signs."""
    with held_lock(home, LOCK_NAME, doing="signing"):
        yield
