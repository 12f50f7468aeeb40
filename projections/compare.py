"""What a rebuild changes: the rows of two `signals` tables side by side.

Invariant: the old table is read as of one moment, that at which the comparison was made ready.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from projections import database, schema

_OTHERS = schema.COLUMNS[1:]
_OLD = ", ".join(f"old.{column}" for column in _OTHERS)
_NEW = ", ".join(f"new.{column}" for column in _OTHERS)
# Both tables lie in the order of the id: a merge, and no index is needed.
_DIFFER = f"""SELECT count(*), coalesce(sum(old.id IS NULL), 0),
    coalesce(sum(old.id IS NOT NULL AND ({_NEW}) IS NOT ({_OLD})), 0)
    FROM new.signals AS new LEFT JOIN main.signals AS old ON old.id = new.id"""
_COUNT = "SELECT count(*) FROM main.signals"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Rows, by their id."""

    added: int
    removed: int
    changed: int


class Comparison:
    """The live table at `old`, as it is now, beside the one in `new`. May run in another thread."""

    def __init__(self, old: Path, new: Path) -> None:
        self._db = database.connect(old, readonly=True)
        try:
            self._db.execute("ATTACH ? AS new", (f"file:{quote(str(new))}?mode=ro",))
            self._db.execute("BEGIN")
            self._db.execute("SELECT 1 FROM main.signals LIMIT 1").fetchone()  # from here on
        except BaseException:
            self._db.close()
            raise

    def run(self) -> Difference | None:
        """The difference; None where the old table cannot be read."""
        with closing(self._db):
            try:
                rows, added, changed = self._db.execute(_DIFFER).fetchone()
                (before,) = self._db.execute(_COUNT).fetchone()
            except sqlite3.Error:
                return None
            return Difference(added=added, removed=before - (rows - added), changed=changed)
