"""Makes the proof of one line, and that of growth; each is verified before it is returned.

Invariant: a proof that is returned verifies with the vkey of the log.
"""

from pathlib import Path
from sqlite3 import Connection

from eventlog.plumbing import Disk, decode, printable_value, read_entries
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import open_checkpoint
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import is_consistent
from projections.evidence.kept.kept_files import KeptFiles, kept_files
from projections.evidence.kept.newest import kept_size
from projections.evidence.proofs.growth import Growth
from projections.evidence.proofs.proof import Proof, parse_proof, verify_proof
from projections.evidence.tree.level_files import level_files, stored_files
from projections.evidence.tree.projection import update_tree
from projections.queries.table import read_home


def prove(home: Path, seq: int, *, size: int | None = None, disk: Disk | None = None) -> bytes:
    """The proof file of entry `seq` for the newest checkpoint, or for the kept one of `size`.

    Raises NotProved where that checkpoint does not cover the entry, and where there is none;
    ProjectionError where tree, log and checkpoint do not agree, LogNotFound.
    """
    if seq < 1:
        raise ValueError("seqs begin at 1")
    with kept_files(home, disk=disk) as kept:
        key, signed = kept.read_vkey(), kept_size(kept, size)
        if signed < seq:
            raise _not_covered_error(kept, seq, size)
        checkpoint = kept.read_checkpoint(signed)
    line = _line(home, seq)
    for again in (False, True):
        proof = _proof(home, line, seq, signed, checkpoint, again=again, disk=disk)
        if proof is not None and _verifies(proof, key):
            return proof.to_bytes()
    raise ProjectionError(
        f"entry {seq} is not part of what was signed at size {signed}",
        where=str(home),
        do="run `eventlog verify`, and compare the log with a backup",
    )


def prove_by_stored_tree(home: Path, seq: int, size: int, *, disk: Disk | None = None) -> bytes:
    """The proof file of entry `seq` for the checkpoint of `size`. Changes nothing.

    Raises ProjectionError where the tree on disk does not give it, which is not built again here.
    """
    with kept_files(home, disk=disk) as kept:
        key, checkpoint = kept.read_vkey(), kept.read_checkpoint(size)
    line = _line(home, seq)
    with stored_files(home) as files:
        tree = None if files is None else files.tree()
        if tree is not None and tree.size >= size:
            path = tree.inclusion(seq - 1, size)
            proof = Proof(line=line, index=seq - 1, path=path, checkpoint=checkpoint)
            if _verifies(proof, key):
                return proof.to_bytes()
    raise ProjectionError(
        f"the tree in data/ does not prove entry {seq}",
        where=str(home),
        do=f"run `eventlog evidence prove {seq}`, which builds the tree again",
    )


def _not_covered_error(kept: KeptFiles, seq: int, size: int | None) -> NotProved:
    newest = kept.sizes()[-1]
    if size is not None and newest >= seq:
        return NotProved(
            f"the checkpoint of {size} entries does not cover entry {seq}",
            where=kept.path,
            do=f"choose one of {seq} entries or more",
        )
    return NotProved(
        f"no checkpoint covers entry {seq}: the newest covers {newest} entries",
        where=kept.path,
        do="run `eventlog evidence checkpoint`",
    )


def prove_signal(
    home: Path, signal_id: str, *, size: int | None = None, disk: Disk | None = None
) -> bytes:
    """The proof file of the entry of a signal, which the signals table finds.

    Raises what `prove` raises, and ProjectionError where the table has no such signal.
    """

    def find(database: Connection) -> int | None:
        sql = "SELECT id FROM signals WHERE signal_id = ?"
        row = database.execute(sql, (signal_id,)).fetchone()
        return None if row is None else int(row[0])

    seq = read_home(home, find)
    if seq is None:
        raise ProjectionError(
            f"the signals table has no signal {printable_value(signal_id)}",
            where=str(home),
            do="run `eventlog project sqlite --once` if it was appended just now, or give the seq",
        )
    data = prove(home, seq, size=size, disk=disk)
    if decode(parse_proof(data).line + b"\n").payload.get("signal_id") != signal_id:
        raise ProjectionError(
            f"entry {seq} is not the signal {printable_value(signal_id)}, as the table says",
            where=str(home),
            do="build the table again with `eventlog rebuild-database`",
        )
    return data


def prove_growth(home: Path, old_size: int, *, disk: Disk | None = None) -> bytes:
    """The file that shows that the newest checkpoint continues the log of `old_size` entries.

    Raises NotProved where no checkpoint reaches so far, and otherwise what `prove` raises.
    """
    with kept_files(home, disk=disk) as kept:
        key, sizes = kept.read_vkey(), kept.sizes()
        if not sizes or sizes[-1] < old_size:
            raise NotProved(
                f"no checkpoint has {old_size} entries or more",
                where=kept.path,
                do="run `eventlog evidence checkpoint`",
            )
        checkpoint = kept.read_checkpoint(sizes[-1])
    new = open_checkpoint(checkpoint, key).head
    for again in (False, True):
        extend_tree(home, new.size, again=again, disk=disk)
        with level_files(home, disk=disk) as files:
            tree = files.tree()
            if tree.size < new.size:
                continue
            path, old_root = tree.consistency(old_size, new.size), tree.root(old_size)
        if is_consistent(old_size, new.size, old_root, new.root, path):
            return Growth(old_size=old_size, path=path, checkpoint=checkpoint).to_bytes()
    raise ProjectionError(
        f"the log does not have the root that was signed at size {new.size}",
        where=str(home),
        do="run `eventlog verify`, and compare the log with a backup",
    )


def extend_tree(home: Path, size: int, *, again: bool, disk: Disk | None) -> None:
    """Extends the tree on disk to `size` lines, or with `again` builds it again."""
    with level_files(home, disk=disk) as files:
        is_short = files.read_state().seq < size
    if is_short or again:
        update_tree(home, disk=disk, again=again)


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
    extend_tree(home, size, again=again, disk=disk)
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
    entry = next(read_entries(str(home), after=seq - 1, first_only=True), None)
    if entry is None or entry.seq != seq:  # damage may have been accepted there
        raise ProjectionError(
            f"the log has no entry {seq}, which was signed",
            where=str(home),
            do="restore the log from a backup that has it",
        )
    return entry.line.removesuffix(b"\n")
