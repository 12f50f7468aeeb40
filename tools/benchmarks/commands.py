"""B10 and B15: whole commands, from the start of the process to its end.

Invariant: the figure includes the interpreter's start, as a user waits for it.
"""

from __future__ import annotations

import sys

from tools.benchmarks.ours import build_log, command, long_log
from tools.benchmarks.peers import Command, command_s
from tools.benchmarks.runner import Bench, Rounds

VERIFY_ENTRIES = 200_000
VERIFY_QUICK_ENTRIES = 20_000
# 128 MB of lines fall into about eight segments, so that each core gets several.
VERIFY_SEGMENT_BYTES = 16 * 1024 * 1024
VERIFY_QUICK_SEGMENT_BYTES = 2 * 1024 * 1024

# The peer of B10: the least that one process must do to read and hash each line.
PARSE_AND_HASH = """
import sys
from hashlib import sha256
from orjson import loads
for path in sys.argv[1:]:
    with open(path, "rb") as lines:
        for line in lines:
            loads(line)
            sha256(line).digest()
"""


def verify_against_parse_and_hash(bench: Bench) -> Rounds:
    """B10: entries a second that `verify` hashes."""
    entries = VERIFY_QUICK_ENTRIES if bench.quick else VERIFY_ENTRIES
    segment_bytes = VERIFY_QUICK_SEGMENT_BYTES if bench.quick else VERIFY_SEGMENT_BYTES
    bench.progress(f"making a log of {entries:,} entries")
    home = build_log(bench.fresh_dir("b10"), entries, segment_bytes=segment_bytes)
    segments = sorted((home / "logs").glob("*.jsonl"))
    ours = command("--home", home, "verify", "--json")
    peer: Command = [sys.executable, "-c", PARSE_AND_HASH, *segments]
    return bench.alternate(
        lambda: entries / command_s(ours),
        lambda: entries / command_s(peer),
        rounds=bench.rounds_of_commands,
    )


def help_against_import_click(bench: Bench) -> Rounds:
    """B15: the milliseconds of `eventlog --help`."""
    return _against_import_click(bench, command("--help"))


def status_against_import_click(bench: Bench) -> Rounds:
    """B15: the milliseconds of `eventlog status` on a long log."""
    home, _ = long_log(bench)
    return _against_import_click(bench, command("--home", home, "status"))


def _against_import_click(bench: Bench, ours: Command) -> Rounds:
    peer: Command = [sys.executable, "-c", "import click"]
    command_s(ours), command_s(peer)  # both from the page cache from here on
    return bench.alternate(
        lambda: 1_000 * command_s(ours),
        lambda: 1_000 * command_s(peer),
    )
