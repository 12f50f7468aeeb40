"""The signals table of lines that are not in a home, in a file that is removed again.

The lines are folded by the code that rebuilds the table of a home.

Invariant: equal lines give the table that `rebuild-database` makes of them.
"""

import errno
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from eventlog.plumbing import VerifiedChunk
from projections.errors import ProjectionError
from projections.rebuild.batches import prepare_batches
from projections.rebuild.loader import NewDatabase
from projections.signals.schema import SQLITE
from projections.sqlite.file import connect
from projections.sqlite.scratch import scratch_directory

PAGE_BYTES = 4096
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def lines_table(
    chunks: Iterable[VerifiedChunk], scratch_parent: Path
) -> Iterator[sqlite3.Connection]:
    """A connection that reads the table of verified lines from seq 1 on.

    It is made in a directory within `scratch_parent`, which takes about as much as the lines.
    Raises what `chunks` raises, ProjectionError where the disk is full.
    """
    try:
        with scratch_directory(scratch_parent) as directory:
            path = directory / "signals.db"
            with closing(NewDatabase(path, name=SQLITE, page_bytes=PAGE_BYTES)) as new:
                new.fill(prepare_batches(chunks))
                new.make_indexes()
            with closing(connect(path, readonly=True, is_shared=False)) as database:
                yield database
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise _full_error(scratch_parent) from error
    except sqlite3.OperationalError as error:
        if (getattr(error, "sqlite_errorcode", 0) & 0xFF) != sqlite3.SQLITE_FULL:
            raise
        raise _full_error(scratch_parent) from error


def _full_error(scratch_parent: Path) -> ProjectionError:
    return ProjectionError(
        "there is no space for the table of these lines",
        where=str(scratch_parent),
        do="free as much space as the lines take, or name another directory with --scratch",
    )
