"""The checks of the databases: the table of signals, and the delivery state.

Invariant: nothing is changed, and the duration does not grow with the table.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from eventlog import UnsafePath
from projections.delivery.outbox import load_outbox, outbox_path
from projections.doctor.finding import NOTE, OK, PROBLEM, DoctorFinding
from projections.sqlite.database import (
    ALTERED,
    DAMAGED,
    MISSING,
    NEWER,
    OLDER,
    database_path,
    inspect_database,
)

WHOLE_BYTES_MAX = 64 << 20  # up to this size every page is checked


def check_table(home: Path, *, whole_bytes_max: int = WHOLE_BYTES_MAX) -> Iterator[DoctorFinding]:
    """Reports whether there is a table, and whether SQLite can read it.

    Every page of a database of up to `whole_bytes_max` bytes is checked, and a sample of the rows
    of a larger one.
    """
    level, do = PROBLEM, "run `eventlog project sqlite` or `eventlog rebuild-database`"
    path = database_path(home)
    try:
        state = inspect_database(path, check_pages=True, whole_bytes_max=whole_bytes_max)
    except UnsafePath as error:
        found, do = f"data/signals.db cannot be read: {error.what}", "move it away"
    except sqlite3.Error as error:
        found, do = f"data/signals.db cannot be read: {error}", "see `eventlog status`"
    else:
        if state == MISSING:
            level, found = NOTE, "there is none yet"
        elif state == DAMAGED:
            found = "data/signals.db is damaged"
        elif state == ALTERED:
            found = "another program has changed the tables of data/signals.db"
        elif state == OLDER:
            found = "data/signals.db was made by an older version of eventlog"
            do = "run `eventlog project sqlite --once` or `eventlog rebuild-database`"
        elif state == NEWER:
            found = "data/signals.db was written by a newer version of eventlog"
            do = "install that version"
        else:
            level = OK
            is_whole = path.stat().st_size <= whole_bytes_max
            part = "every page" if is_whole else "a sample of the rows and indexes"
            found = f"{part} of data/signals.db can be read"
    yield DoctorFinding(check="table", level=level, found=found, do=None if level == OK else do)
    yield from _check_outbox(home)


def _check_outbox(home: Path) -> Iterator[DoctorFinding]:
    """Reports a delivery state that cannot be read."""
    try:
        load_outbox(outbox_path(home))
    except FileNotFoundError:
        return  # delivery has not started yet
    except UnsafePath as error:
        problem, do = error.what, "move it away"
    except (sqlite3.Error, OSError) as error:
        problem, do = str(error), "start the daemon, which sets a damaged file aside"
    else:
        return
    found = f"data/alpine.db cannot be read: {problem}"
    yield DoctorFinding(check="table", level=PROBLEM, found=found, do=do)
