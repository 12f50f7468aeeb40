"""Reads the table of a home in one snapshot, with errors that say what to do.

Invariant: a read changes nothing, and sees one state of the table.
"""

import os
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection, Error
from typing import TypeVar

from projections.errors import ProjectionError
from projections.queries.as_of import seq_as_of
from projections.sqlite.database import (
    database_path,
    inspect_database,
    missing_error,
    read_table,
    require_readable,
    unreadable_error,
)
from projections.sqlite.file import BUSY_TIMEOUT_S, DamagedDatabase, is_busy

T = TypeVar("T")


class TableBusy(ProjectionError):
    """Another program kept the table locked for longer than a read waits."""


def read_home(
    home: str | os.PathLike[str],
    read: Callable[[Connection], T],
    *,
    timeout_s: float = BUSY_TIMEOUT_S,
) -> T:
    """Returns `read(connection)` in one snapshot. `read` may be called again.

    Raises ProjectionError without a readable database, TableBusy where it stays locked, ForeignHome
    for one of the old tracker.
    """
    path = database_path(Path(home))
    try:
        return read_table(path, read, timeout_s=timeout_s)
    except FileNotFoundError:
        raise missing_error(path) from None
    except DamagedDatabase as error:
        require_readable(path, inspect_database(path, check_pages=False))
        raise unreadable_error(path, error) from error
    except Error as error:
        if is_busy(error):
            raise TableBusy(
                "the table is busy: another program has locked it",
                where=str(path),
                do="try again in a moment; if it stays so, find the program that holds the lock",
            ) from error
        raise unreadable_error(path, error) from error


def read_as_of(
    home: str | os.PathLike[str], moment: str | None, read: Callable[[Connection, int | None], T]
) -> T:
    """Returns `read(connection, seq)` in one snapshot; `seq` is None for now.

    `moment` is in the form that `parse_as_of` returns. Raises ProjectionError where the result as
    of that time may still change.
    """

    def read_snapshot(database: Connection) -> T:
        return read(database, None if moment is None else seq_as_of(database, home, moment))

    return read_home(home, read_snapshot)
