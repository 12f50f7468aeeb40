"""The errors of the read side; all are EventLogErrors.

    EventLogError
    └── ProjectionError
        ├── CheckpointMoved     another process moved the checkpoint: read it again, go on from it
        ├── NotProved           a file of evidence is malformed, or does not show what it claims
        ├── ProjectionStalled   the batch was not applied; it may pass later
        ├── SchemaTooNew        a newer version of this program created the database
        └── SchemaTooOld        an older version created it: `eventlog project` builds it anew

Invariant: after each of them the projection is unchanged, its checkpoint included.
"""

from eventlog import EventLogError


class ProjectionError(EventLogError):
    """A projection could not be brought in sync with the log."""


class CheckpointMoved(ProjectionError):
    """The stored checkpoint is no longer the one that the batch follows.

    Another daemon, a rebuild or a newer schema has moved it. Roll back, drop all memory, open again
    and go on from the stored checkpoint.
    """


class NotProved(ProjectionError):
    """A file of evidence is malformed, wrongly signed, or does not show what it claims."""


class ProjectionStalled(ProjectionError):
    """The batch could not be applied for a passing reason, such as a full disk."""


class SchemaTooNew(ProjectionError):
    """The database was created by a newer version of this program."""


class SchemaTooOld(ProjectionError):
    """The database was created by an older version of this program.

    `eventlog project` and `eventlog rebuild-database` build it anew from the log.
    """
