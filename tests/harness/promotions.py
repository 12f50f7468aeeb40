"""Promotions on a stream in memory."""

import asyncio
from pathlib import Path

from eventlog.plumbing import Promoted, ReplicaLog, ReplicaState
from eventlog.plumbing import promote as promote_log
from tests.harness.scripted_consumers import ScriptedConsumers, stream_lines


def promote_alone(home: Path) -> Promoted:
    """Appends the next promotion to the log, as if its stream held the lines of the log."""
    return promote_on(ScriptedConsumers(stream_lines(home)), home)


def promote_on(stream: ScriptedConsumers, home: Path, *, host: str = "b") -> Promoted:
    """Lets a home that is a replica of the stream, or new, become its primary."""
    replica = ReplicaLog.open(home)
    replica.begin(ReplicaState(stream="main"), replica.catch_up())
    found = asyncio.run(promote_log(stream.open, replica, host=host))
    replica.drop()
    assert isinstance(found, Promoted)
    return found
