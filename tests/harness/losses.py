"""Makes a log lose an entry, whose damage is then accepted.

Invariant: the log has only one segment, and nothing else of it changes.
"""

from pathlib import Path

from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in


def lose_entry(home: Path, seq: int) -> list[bytes]:
    """Damages a line, and accepts its loss. Returns the lines as they were."""
    (segment,) = (home / "logs").glob("*.jsonl")
    lines = lines_in(home)
    bad = b"x" * (len(lines[seq - 1]) - 1) + b"\n"
    segment.write_bytes(b"".join([*lines[: seq - 1], bad, *lines[seq:]]))
    assert eventlog("repair", "--accept", home=home).code == 0
    return lines
