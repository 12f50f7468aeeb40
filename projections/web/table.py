"""Reads the table for a page, which does not wait for the lock of another program.

Invariant: a read that finds the table locked raises TableBusy within a second.
"""

from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

from projections.queries import table
from projections.queries.table import TableBusy

T = TypeVar("T")

# A page says so, and its reader may try again. It is less than a request for outcomes waits.
BUSY_S_MAX = 0.2


def read_home(home: Path, read: Callable[[Connection], T]) -> T:
    """Returns `read(connection)` in one snapshot. Raises ProjectionError, TableBusy."""
    return table.read_home(home, read, timeout_s=BUSY_S_MAX)


__all__ = ["TableBusy", "read_home"]
