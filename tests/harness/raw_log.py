"""Writes a log without the code of the packages, also items that validation would refuse.

    raw = RawLog(home)
    raw.add(history)              entries of (event, payload), in batches of three
    raw.cut(5)                    leaves five entries
    swap(home, other)             puts the log of another home in its place

Invariant: the log is valid by the format; there is no lock record, and nothing is locked.
"""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

EPOCH = datetime(2025, 11, 18, 2, tzinfo=UTC)
LINES_IN_BATCH = 3


class RawLog:
    """The segments of one home."""

    def __init__(self, home: Path) -> None:
        self.log_dir = home / "logs"
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.lines: list[bytes] = []

    def add(
        self, items: Sequence[tuple[str, dict[str, Any]]], *, lines_in_segment: int = 10
    ) -> None:
        """Appends entries; each segment gets `lines_in_segment` of them."""
        for event, payload in items:
            seq = len(self.lines) + 1
            batch = (seq - 1) // LINES_IN_BATCH * LINES_IN_BATCH + 1
            moment = EPOCH + timedelta(microseconds=batch * 400_001)
            head = {
                "v": 1,
                "seq": seq,
                "batch": batch,
                "recorded_at": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "event": event,
            }
            # Payloads in Python's JSON, as another writer may produce; heads in the required form.
            body = orjson.dumps(head)[:-1] + b"".join(
                b"," + orjson.dumps(key) + b":" + json.dumps(value).encode()
                for key, value in payload.items()
            )
            chain = sha256(self._chain().encode() + body).hexdigest()
            self.lines.append(body + b',"chain":"' + chain.encode() + b'"}\n')
            first_seq = (seq - 1) // lines_in_segment * lines_in_segment + 1
            with (self.log_dir / f"{first_seq:020}.jsonl").open("ab") as segment:
                segment.write(self.lines[-1])

    def cut(self, count: int) -> None:
        """Leaves the first `count` entries, in one segment."""
        for segment in self.log_dir.glob("*.jsonl"):
            segment.unlink()
        self.lines = self.lines[:count]
        (self.log_dir / f"{1:020}.jsonl").write_bytes(b"".join(self.lines))

    def _chain(self) -> str:
        return self.lines[-1][-67:-3].decode() if self.lines else "0" * 64


def swap(home: Path, other: Path) -> None:
    """Replaces the log of a home by a copy of another home's log."""
    shutil.rmtree(home / "logs")
    shutil.copytree(other / "logs", home / "logs", symlinks=True)
