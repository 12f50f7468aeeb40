"""A promotion that is in the log of one home alone."""

import asyncio
from pathlib import Path

from eventlog.plumbing import Promoted, ReplicaLog, ReplicaState
from eventlog.plumbing import promote as promote_log
from tests.harness.scripted_consumers import ScriptedConsumers, stream_lines


def promote_alone(home: Path, *, host: str = "b") -> Promoted:
    """Appends the next promotion to the log, as if its stream held the lines of the log."""
    stream = ScriptedConsumers(stream_lines(home))
    replica = ReplicaLog.open(home)
    replica.begin(ReplicaState(stream="main"), replica.catch_up())
    found = asyncio.run(promote_log(stream.open, replica, host=host))
    replica.drop()
    assert isinstance(found, Promoted)
    return found
