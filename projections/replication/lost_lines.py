"""What is said where the log has lost a line that the stream does not hold.

Invariant: the mirror and `doctor` say the same.
"""

import os
from pathlib import Path

from eventlog.plumbing import StreamUnfit, first_lost


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
