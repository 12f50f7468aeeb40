"""Errors of the read side; all are EventLogErrors.

    EventLogError
    └── ProjectionError
        ├── CheckpointMoved     somebody else moved on: read the checkpoint again and go on from it
        ├── ProjectionStalled   nothing was applied now; the same batch may pass later
        └── SchemaTooNew        a newer version of this program made the database

Invariant: after each of them the projection holds what it held before, checkpoint included.
"""

from eventlog import EventLogError


class ProjectionError(EventLogError):
    """A projection could not be brought up to the log."""


class CheckpointMoved(ProjectionError):
    """The stored checkpoint is no longer the one that the batch was to follow.

    Another daemon, a rebuild or a newer schema was there. Roll back, forget what was in memory,
    open again and go on from the checkpoint that is found.
    """


class ProjectionStalled(ProjectionError):
    """The batch could not be applied for a reason that may go away, such as a full disk."""


class SchemaTooNew(ProjectionError):
    """The database was made by a newer version of this program."""
