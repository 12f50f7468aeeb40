"""Which checkpoint others have seen, for who hands out a proof or a statement.

Cosignatures and time stamps come after a checkpoint was signed, often after the next one. So the
newest one has fewer of them than an older one that covers the same entry.

Invariant: nothing is created or changed.
"""

from itertools import islice
from pathlib import Path

from projections.evidence.kept.kept_listing import SEARCH_MAX, kept_listing


def seen_sizes_hint(home: Path, seq: int, size: int) -> str | None:
    """What to choose where the checkpoint of `size` lacks what an older one has that covers `seq`.

    None where there is no such one among the newest SEARCH_MAX.
    """
    with kept_listing(home) as kept:
        if kept is None:
            return None
        found = [each for each in islice(kept.newest(size), SEARCH_MAX) if each.size >= seq]
    if not found or found[0].size != size:
        return None
    cosigned = next((each.size for each in found if each.cosignatures), size)
    stamped = next((each.size for each in found if each.stamps_s), size)
    lacks = {"cosignature": cosigned, "time stamp": stamped}
    better = [f"{older} entries has a {what}" for what, older in lacks.items() if older != size]
    if not better:
        return None
    return (
        f"this is the checkpoint of {size} entries; that of {', that of '.join(better)}, which this"
        " one lacks: choose with --size"
    )
