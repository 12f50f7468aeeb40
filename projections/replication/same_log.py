"""Checks that a stream ends with a line of this log, and that the log has each line after it.

Invariant: nothing is changed; the mirror and `doctor` say the same.
"""

import os
from pathlib import Path

from eventlog import EventLog, LogDiverged
from eventlog.plumbing import StreamEnd, StreamUnfit, first_lost
from projections.runtime.home_log import entry_at


def require_lines(home: Path, end_seq: int) -> None:
    """Raises StreamUnfit where the log has lost a line from the last one of the stream on.

    The stream ends at `end_seq`. The loss was accepted: readers pass over it, and a stream cannot.
    """
    lost = first_lost(home, after=max(0, end_seq - 1))
    if lost is not None:
        raise lost_error(home, lost)


def lost_error(home: Path, seq: int) -> StreamUnfit:
    """The error for a log that has lost that entry."""
    return StreamUnfit(
        f"the log has lost entry {seq}, whose damage was accepted, and message N of the stream "
        "must be line N",
        where=os.fspath(home),
        do="put it back with `eventlog repair --from HOME`, where HOME is a backup or a replica "
        "that has it; if none has, append the lines to a new home (`eventlog cat | eventlog --home "
        "NEW append --stored --skip-invalid`), and mirror that one to a stream of another name",
    )


def others_error(seq: int, where: str) -> LogDiverged:
    """The error for a stream that was created again, and filled by others up to that entry."""
    return LogDiverged(
        f"the stream was created again, and at seq {seq} it holds another line than this log",
        where=where,
        do="find out what else publishes to it, delete the stream, and create it again: the "
        "mirror fills it",
    )


def require_line_of_log(home: Path, end: StreamEnd, where: str) -> None:
    """Raises LogDiverged unless the last line of the stream is a line of this log.

    Raises StreamForeign where it is no line at all.
    """
    chain = end.chain
    with EventLog(home) as log:
        last_seq = log.last_seq
        entry = entry_at(log, end.seq) if end.seq <= last_seq else None
    if end.seq == 0 or (entry is not None and (entry.seq, entry.chain) == (end.seq, chain)):
        return
    found = (
        f"the stream ends at seq {end.seq}, and this log at {last_seq}"
        if end.seq > last_seq
        else f"at seq {end.seq} the stream holds another line than this log"
    )
    raise LogDiverged(
        f"{found}: another home continued the stream, or this log was restored to an older state",
        where=where,
        do="find out which of the two is right; this log publishes nothing until they agree",
    )
