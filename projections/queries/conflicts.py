"""The entries that did not fit: seq, signal_id, reason and the raw line of each.

Invariant: they are listed in the order of the log, and no read of the table stays open.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from eventlog.plumbing import printable, printable_value, require_home
from projections.queries.log_lines import read_lines
from projections.queries.table import read_home

ROWS_PER_READ = 1_000  # with a line of 65,535 bytes each it is 65 MB
_PAGE = "SELECT seq, signal_id, reason FROM conflicts WHERE seq > ? ORDER BY seq LIMIT ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An entry that did not fit."""

    seq: int
    signal_id: str | None  # None where the entry has no valid one
    reason: str
    line: str | None  # None for damage that was accepted

    def to_json(self) -> dict[str, object]:
        """The object that `eventlog conflicts --json` prints."""
        return asdict(self)

    def to_text(self) -> list[str]:
        """A line for the conflict, and the entry's own line below it."""
        signal_id = "-" if self.signal_id is None else printable_value(self.signal_id)
        line = [] if self.line is None else [f"  {printable(self.line)}"]
        return [f"{self.seq}  {signal_id}  {printable(self.reason)}", *line]


def read_conflicts(home: str | os.PathLike[str]) -> Iterator[Conflict]:
    """Yields all conflicts of a home. Raises ProjectionError, LogNotFound, LogCorrupt."""
    require_home(home)
    after = 0
    while rows := read_home(
        home,
        lambda database, after=after: database.execute(  # type: ignore[misc]  # bound at once
            _PAGE, (after, ROWS_PER_READ)
        ).fetchall(),
    ):
        lines = dict(read_lines(home, [seq for seq, *_ in rows]))
        for seq, signal_id, reason in rows:
            yield Conflict(seq=seq, signal_id=signal_id, reason=str(reason), line=lines[seq])
        after = rows[-1][0]
