"""Makes the proof of one line, and verifies it before it is returned.

Invariant: a proof that is returned verifies with the vkey of the log.
"""

from pathlib import Path

from eventlog.plumbing import Disk, raw_lines
from projections.errors import NotProved, ProjectionError
from projections.evidence.kept_files import kept_files
from projections.evidence.keys import VerifierKey
from projections.evidence.level_files import level_files
from projections.evidence.proof import Proof, verify_proof
from projections.evidence.tree import update_tree


def prove(home: Path, seq: int, *, disk: Disk | None = None) -> bytes:
    """The proof file of entry `seq` for the newest checkpoint.

    Raises NotProved where no checkpoint covers the entry yet, ProjectionError where tree, log and
    checkpoint do not agree, LogNotFound.
    """
    if seq < 1:
        raise ValueError("seqs begin at 1")
    with kept_files(home, disk=disk) as kept:
        key, sizes = kept.read_vkey(), kept.sizes()
        if not sizes or sizes[-1] < seq:
            covered = f"the newest covers {sizes[-1]} entries" if sizes else "there is none"
            raise NotProved(
                f"no checkpoint covers entry {seq}: {covered}",
                where=kept.path,
                do="run `eventlog evidence checkpoint`",
            )
        checkpoint = kept.read_checkpoint(sizes[-1])
    line = _line(home, seq)
    for again in (False, True):
        proof = _proof(home, line, seq, sizes[-1], checkpoint, again=again, disk=disk)
        if proof is not None and _verifies(proof, key):
            return proof.to_bytes()
    raise ProjectionError(
        f"entry {seq} is not part of what was signed at size {sizes[-1]}",
        where=str(home),
        do="run `eventlog verify`, and compare the log with a backup",
    )


def _proof(
    home: Path,
    line: bytes,
    seq: int,
    size: int,
    checkpoint: bytes,
    *,
    again: bool,
    disk: Disk | None,
) -> Proof | None:
    """The proof by the tree on disk, which is extended or built again first; None if too short."""
    with level_files(home, disk=disk) as files:
        is_short = files.read_state().seq < size
    if is_short or again:
        update_tree(home, disk=disk, again=again)
    with level_files(home, disk=disk) as files:
        tree = files.tree()
        if tree.size < size:
            return None
        path = tree.inclusion(seq - 1, size)
    return Proof(line=line, index=seq - 1, path=path, checkpoint=checkpoint)


def _verifies(proof: Proof, key: VerifierKey) -> bool:
    try:
        verify_proof(proof, key)
    except NotProved:
        return False
    return True


def _line(home: Path, seq: int) -> bytes:
    found = [line for lines in raw_lines(str(home), after=seq - 1, limit=1) for line in lines]
    if not found:
        raise ProjectionError(
            f"the log has no entry {seq}, which was signed",
            where=str(home),
            do="restore the log from a backup that has it",
        )
    return found[0].removesuffix(b"\n")
