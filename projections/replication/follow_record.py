"""`run/follow.json`: the process that follows a stream into a home, and how far the stream is.

It is a run file: its lock is held while the process runs. Besides state and pid it holds what only
the follower knows, which stays readable after its end.

Invariant: at most one process follows into a home.
"""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eventlog import UnsafePath
from projections.errors import ProjectionError
from projections.run_directory import (
    RUNNING,
    STOPPED,
    RunState,
    read_private,
    run_directory,
    run_file_name,
    run_lock,
)

FOLLOW = "follow"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowFigures:
    """What the follower knows of the stream."""

    stream_seq: int = 0  # the last seq that the stream was known to hold
    resets: int = 0  # how often the stream was opened anew, since the follower was started


class FollowRecord:
    """The record of this process. Raises ProjectionError where another process follows."""

    def __init__(self, home: Path) -> None:
        self._lock = run_lock(home, run_file_name(FOLLOW))
        self._since = _now()
        self._written: tuple[FollowFigures, str | None] | None = None
        if not self._lock.try_take():
            self._lock.drop()
            raise ProjectionError(
                "another process follows into this home",
                where=str(home),
                do="stop it first, or leave it to that process",
            )

    def write(self, figures: FollowFigures, reason: str | None) -> None:
        """Replaces the record where it has changed. `reason`: why it waits. Raises OSError."""
        if self._written != (figures, reason):
            self._write(RUNNING, figures, reason)
            self._written = (figures, reason)

    def close(self, figures: FollowFigures) -> None:
        """Writes that the process has stopped, and lets another one follow."""
        try:
            self._since = _now()
            self._write(STOPPED, figures, None)
        except OSError:
            pass  # its lock is what counts
        finally:
            self._lock.drop()

    def _write(self, state: str, figures: FollowFigures, reason: str | None) -> None:
        run = RunState(state=state, pid=os.getpid(), since=self._since, reason=reason)
        known = {"stream_seq": figures.stream_seq, "resets": figures.resets}
        self._lock.write(json.dumps({**run.to_json(), **known}).encode() + b"\n")


def read_follow_figures(home: Path) -> FollowFigures | None:
    """What the last follower has recorded; None where there is no record that can be read."""
    path = run_directory(home) / run_file_name(FOLLOW)
    try:
        found = json.loads(read_private(path))
        return FollowFigures(stream_seq=int(found["stream_seq"]), resets=int(found["resets"]))
    except (OSError, UnsafePath, ValueError, TypeError, LookupError, RecursionError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
