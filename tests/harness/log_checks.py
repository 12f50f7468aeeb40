"""Reads and checks the files of a log without the code of the packages.

    assert_valid_log(home)  dense, chained, ordered, hashed, named as the format says
    entries_in(home)        its lines as dicts
    tree_contents(home)     every file, to compare before and after

Invariant: this module imports neither package.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HASHED_FIELDS = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price", "confidence"),
    *("strategy", "timestamp"),
)


def segments_in(home: Path) -> list[Path]:
    return sorted((home / "logs").glob("*.jsonl"))


def segment_contents(home: Path) -> dict[str, bytes]:
    """The bytes of each raw segment, by name."""
    return {path.name: path.read_bytes() for path in segments_in(home)}


def lines_in(home: Path) -> list[bytes]:
    """All lines, newlines included; the last one may be unfinished."""
    return _by_newline(b"".join(path.read_bytes() for path in segments_in(home)))


def _by_newline(data: bytes) -> list[bytes]:
    *lines, rest = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([rest] if rest else [])


def entries_in(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_in(home)]


def ids_in(home: Path) -> list[str]:
    """The signal_ids of its signals, in order."""
    return [entry["signal_id"] for entry in entries_in(home) if entry["event"] == "signal"]


def content_sha256(payload: Mapping[str, Any]) -> str:
    """The hash of a signal, as Alpine recomputes it."""
    text = json.dumps({key: payload[key] for key in HASHED_FIELDS}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def assert_valid_log(home: Path) -> list[dict[str, Any]]:
    """Checks everything that the format says of a log without a writer; returns its entries."""
    chain, batch, recorded_at = "0" * 64, 0, ""
    entries: list[dict[str, Any]] = []
    for path in segments_in(home):
        assert path.name == f"{len(entries) + 1:020d}.jsonl"
        data = path.read_bytes()
        assert not data or data.endswith(b"\n"), f"{path.name} ends in an unfinished line"
        for line in _by_newline(data):
            body, _, end = line.rpartition(b',"chain":"')
            chain = hashlib.sha256(chain.encode() + body).hexdigest()
            assert end == chain.encode() + b'"}\n', f"the chain breaks at entry {len(entries) + 1}"
            entry = json.loads(line)
            assert list(entry)[:5] == ["v", "seq", "batch", "recorded_at", "event"]
            assert entry["v"] == 1
            assert entry["seq"] == len(entries) + 1
            assert entry["batch"] in (entry["seq"], batch)
            assert entry["recorded_at"] >= recorded_at
            if entry["event"] == "signal":
                assert entry["sha256"] == content_sha256(entry)
            assert len(line) <= 65_535
            batch, recorded_at = entry["batch"], entry["recorded_at"]
            entries.append(entry)
    return entries


def assert_receipts_kept(home: Path, receipts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checks that the log is valid and holds each acknowledged signal exactly once."""
    entries = assert_valid_log(home)
    ids = [entry["signal_id"] for entry in entries if entry["event"] == "signal"]
    assert len(ids) == len(set(ids)), "a signal is in the log twice"
    for receipt in receipts:
        entry = entries[receipt["seq"] - 1]
        for key in ("seq", "chain", "recorded_at"):
            assert entry[key] == receipt[key], f"receipt {receipt} is not of entry {entry}"
        assert entry.get("signal_id") == receipt["signal_id"]
    return entries


def tree_contents(root: Path) -> dict[str, bytes | str]:
    """Each path below `root`, with the bytes of files and the targets of links."""
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *files)):
            mode = path.lstat().st_mode
            name = str(path.relative_to(root))
            if stat.S_ISLNK(mode):
                found[name] = f"link to {path.readlink()}"
            elif stat.S_ISREG(mode):
                found[name] = path.read_bytes()
            else:
                found[name] = f"mode {mode:o}"
    return found
