"""Signs the head of the log.

A wrong root that was signed cannot be taken back: it convicts the key of a fork. So nothing is
signed unless the last signed root is still a root of this log, and the new one comes out the same
in two calculations: from the tree on disk, and line by line from the peaks of the last signed size.

Invariant: each checkpoint continues the one before it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eventlog import LogDiverged, LogFenced, LogIsReplica
from eventlog.plumbing import (
    Disk,
    decode,
    fence_state,
    is_replicated,
    raw_lines,
    read_mirror_record,
    replica_state,
)
from projections.errors import NotProved, ProjectionError
from projections.evidence.checkpoint import SignedHead, open_checkpoint, sign_head
from projections.evidence.kept_files import KeptFiles, kept_files
from projections.evidence.keys import VerifierKey
from projections.evidence.level_files import level_files
from projections.evidence.merkle import EMPTY_ROOT, RunningRoot, leaf_hash
from projections.evidence.tree import LOCK_POLL, LOCK_WAIT_S, update_tree
from projections.run_directory import run_lock

LOCK_NAME = "evidence.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """The newest checkpoint of a log."""

    path: str
    size: int
    is_new: bool


def create_key(home: Path, origin: str, *, disk: Disk | None = None) -> VerifierKey:
    """Makes the key of a log. Raises ProjectionError where there is one, LogNotFound."""
    with kept_files(home, create=True, disk=disk) as kept, _signing(home):
        return kept.create_key(origin)


def sign_checkpoint(home: Path, *, disk: Disk | None = None) -> SignedCheckpoint:
    """Signs the head of the log, or returns the newest checkpoint where nothing is new.

    Raises LogDiverged where the last signed root is not one of this log, or where the two
    calculations of the new root differ; LogIsReplica, LogFenced; ProjectionError.
    """
    _require_primary(home)
    with kept_files(home, disk=disk) as kept, _signing(home):
        if kept.is_restored():
            raise ProjectionError(
                "this home was restored from a backup, which may lack what was signed later",
                where=kept.path,
                do="run `eventlog evidence resume` with the newest checkpoint that anyone holds",
            )
        key = kept.read_key()
        last = _last_head(kept, key.verifier)
        size = _size_to_sign(home, update_tree(home, disk=disk).seq)
        if size <= last.size and kept.sizes():
            _require_contained(home, last, kept, disk)
            return SignedCheckpoint(
                path=kept.checkpoint_path(last.size), size=last.size, is_new=False
            )
        if size == 0:
            raise ProjectionError("there is no entry to sign", where=str(home), do="append one")
        root, peaks = _checked_root(home, last, size, kept, disk)
        head = SignedHead(origin=key.name, size=size, root=root)
        kept.write_checkpoint(size, sign_head(head, key).to_bytes(), peaks)
        return SignedCheckpoint(path=kept.checkpoint_path(size), size=size, is_new=True)


def _require_primary(home: Path) -> None:
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


def _last_head(kept: KeptFiles, key: VerifierKey) -> SignedHead:
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


def _size_to_sign(home: Path, last_seq: int) -> int:
    """How many lines may be signed: with a mirror only those that are replicated."""
    record = read_mirror_record(home)
    if record is None:
        return last_seq
    size = min(last_seq, record.acked)
    if not is_replicated(str(home), size):
        raise ProjectionError(
            f"entry {size} is not known to be replicated, and only replicated entries are signed",
            where=str(home),
            do="see the mirror in `eventlog status`, and run this again",
        )
    return size


def _require_contained(home: Path, last: SignedHead, kept: KeptFiles, disk: Disk | None) -> None:
    """Raises LogDiverged unless the last signed root is one of this log."""
    for again in (False, True):
        if again:
            update_tree(home, disk=disk, again=True)
        with level_files(home, disk=disk) as files:
            tree = files.tree()
            if tree.size >= last.size and tree.root(last.size) == last.root:
                return
    raise _diverged_error(last, kept)


def _checked_root(
    home: Path, last: SignedHead, size: int, kept: KeptFiles, disk: Disk | None
) -> tuple[bytes, tuple[bytes, ...]]:
    """The root over `size` lines and its peaks, from two calculations that agree.

    The second one continues the last signed root, so a root that agrees with it does so too. The
    tree is built again once where they differ.
    """
    running = kept.read_peaks(last.size, last.root) or RunningRoot()
    if not _add_lines(home, running, last, size):
        raise _diverged_error(last, kept)
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


def _add_lines(home: Path, running: RunningRoot, last: SignedHead, size: int) -> bool:
    """Adds the lines up to `size`; whether those up to the last signed size gave its root."""
    for lines in raw_lines(str(home), after=running.size, limit=size - running.size):
        for line in lines:
            running.add(leaf_hash(line[:-1]))
            if running.size == last.size and running.root() != last.root:
                return False
        if decode(lines[-1]).seq != running.size:
            break
    if running.size != size:
        raise ProjectionError(
            f"the log lacks lines before seq {size}: its damage was accepted",
            where=str(home),
            do="put the lines back with `eventlog repair --from BACKUP`; nothing was signed",
        )
    return True


def _diverged_error(last: SignedHead, kept: KeptFiles) -> LogDiverged:
    return LogDiverged(
        f"this log is not the one that was signed at size {last.size}: nothing was signed",
        where=kept.checkpoint_path(last.size),
        do="find out which of the two is right: run `eventlog verify`, and compare with a backup",
    )


@contextmanager
def _signing(home: Path) -> Iterator[None]:
    """One process at a time signs."""
    lock = run_lock(home, LOCK_NAME)
    try:
        if not lock.wait_for(LOCK_WAIT_S, LOCK_POLL):
            raise ProjectionError(
                f"{lock.holder()} has been signing for {LOCK_WAIT_S:g} s",
                where=str(home),
                do="run this again when it has ended",
            )
        yield
    finally:
        lock.drop()
