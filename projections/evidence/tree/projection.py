"""The projection `tree`: the Merkle tree of RFC 6962 over the lines of the log.

Leaf n-1 is line n without its newline. The tree is derived from the log and may be removed at any
time. A daemon and the commands of `evidence` may extend it at the same time: each batch is written
under a lock, and only where the stored checkpoint is the one that it follows.

Invariant: the leaves up to the checkpoint are the lines of the log, in order.
"""

import errno
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from eventlog import Entry, EventLog, EventLogError
from eventlog.plumbing import Disk, decode, run_in_thread
from projections.errors import CheckpointMoved, ProjectionStalled
from projections.evidence.kept.locks import LOCK_POLL, LOCK_WAIT_S
from projections.evidence.tree.level_files import NAME, LevelFiles, level_files
from projections.evidence.tree.log_leaves import leaf_batches, leaves_of
from projections.evidence.tree.lost_leaves import read_lost
from projections.evidence.tree.many_leaves import add_many_leaves
from projections.projection import Checkpoint
from projections.run_directory import run_lock
from projections.runtime.home_log import entry_at

logger = logging.getLogger(__name__)

LOCK_NAME = "tree.lock"
BATCH_LINES = 1 << 14  # of an update: 512 KiB of hashes for each sync
NO_CHAIN = ""  # that of no line
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class TreeProjection:
    """Extends the tree of one home."""

    name = NAME

    def __init__(self, *, disk: Disk | None = None) -> None:
        self._disk = disk
        self._home = Path()

    async def open(self, home: Path) -> Checkpoint:
        """The stored checkpoint; a tree of another log is begun anew."""
        self._home = home
        return await run_in_thread(self._start)

    async def apply(
        self, entries: Sequence[Entry], *, before: Checkpoint, after: Checkpoint
    ) -> None:
        """Adds a batch. Raises CheckpointMoved, and ProjectionStalled while the disk is full."""
        await run_in_thread(lambda: self._append(entries, before, after))

    async def status(self) -> Mapping[str, object]:
        """Nothing beyond the checkpoint."""
        return {}

    async def close(self) -> None:
        """Releases nothing: files are open during a batch only."""

    def _start(self) -> Checkpoint:
        with _writing(self._home, self._disk) as files:
            return _state_of_log(self._home, files)

    def _append(self, entries: Sequence[Entry], before: Checkpoint, after: Checkpoint) -> None:
        leaves = leaves_of(self._home, entries, after=before.seq, until=after.seq)
        with _writing(self._home, self._disk) as files:
            found = files.read_state()
            if (found.seq, found.chain) != (before.seq, before.chain):
                raise CheckpointMoved(f"the tree ends at seq {found.seq}, not at {before.seq}")
            files.append(b"".join(leaves), after)


def update_tree(home: Path, *, disk: Disk | None = None, again: bool = False) -> Checkpoint:
    """Extends the tree to the end of the log; with `again` it is built from seq 1.

    Raises LogCorrupt at damage, after the lines before it were added, and ProjectionError where
    an operator has accepted the loss of lines of which no hash was kept.
    """
    with _writing(home, disk) as files:
        if again:
            files.reset()
        state = _state_of_log(home, files)

        def add(leaves: bytes, last_line: bytes) -> None:
            nonlocal state
            last = decode(last_line)
            state = Checkpoint(projection=NAME, seq=last.seq, chain=last.chain)
            files.append(leaves, state)

        add_many_leaves(home, state.seq, add)
        for leaves, last_line in _batches(home, state.seq):
            add(leaves, last_line)
        return _over_lost_end(home, files, state)


def _over_lost_end(home: Path, files: LevelFiles, state: Checkpoint) -> Checkpoint:
    """The state, extended over lost lines at the end of the log whose hashes were kept.

    No line shows the chain there, so the next run builds the tree again, until an entry follows.
    """
    with EventLog(home) as log:
        end_seq = log.last_seq
    lost = read_lost(home) if end_seq > state.seq else {}
    leaves = [lost[seq] for seq in range(state.seq + 1, end_seq + 1) if seq in lost]
    if not leaves or len(leaves) < end_seq - state.seq:
        return state
    state = Checkpoint(projection=NAME, seq=end_seq, chain=NO_CHAIN)
    files.append(b"".join(leaves), state)
    return state


def _batches(home: Path, after: int) -> Iterator[tuple[bytes, bytes]]:
    """The leaf hashes of many lines, and the last of these lines."""
    leaves: list[bytes] = []
    last_line = b""
    problem = None
    try:
        for batch in leaf_batches(home, after=after):
            leaves += batch.leaves
            last_line = batch.lines[-1]
            if len(leaves) >= BATCH_LINES:
                yield b"".join(leaves), last_line
                leaves = []
    except EventLogError as error:
        problem = error
    if leaves:
        yield b"".join(leaves), last_line
    if problem is not None:
        raise problem


def _state_of_log(home: Path, files: LevelFiles) -> Checkpoint:
    """The state, or the start where it is not that of a line of this log."""
    state = files.read_state()
    if state.seq == 0:
        return state
    with EventLog(home) as log:
        entry = entry_at(log, state.seq)
    if entry is not None and (entry.seq, entry.chain) == (state.seq, state.chain):
        return state
    logger.warning("tree_of_another_log home=%s seq=%d: it is built again", home, state.seq)
    files.reset()
    return Checkpoint(projection=NAME)


@contextmanager
def _writing(home: Path, disk: Disk | None) -> Iterator[LevelFiles]:
    """The files of the tree, under its lock. A full disk becomes ProjectionStalled."""
    lock = run_lock(home, LOCK_NAME)
    try:
        if not lock.wait_for(LOCK_WAIT_S, LOCK_POLL):
            raise ProjectionStalled(
                f"{lock.holder()} has held the lock of the tree for {LOCK_WAIT_S:g} s",
                where=str(home),
                do="see what that process does: building a tree ends by itself",
            )
        with level_files(home, disk=disk) as files:
            yield files
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise ProjectionStalled(
            "the tree was not extended: the disk is full", where=str(home), do="free some space"
        ) from error
    finally:
        lock.drop()
