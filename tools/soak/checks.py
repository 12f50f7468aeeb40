"""The checks at the end of a soak; each function returns the problems that it finds.

Invariant: no check asks a daemon: log, table and Alpine are read as any other program reads them.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from eventlog import EventLog
from tools.soak.generator import COMMAND, EntryHead, item

PAGE_SIGNALS = 200
ALPINE_TIMEOUT_S = 30.0

# A process that has warmed up has its full size: SQLite's page cache (2 MB), a read buffer, arenas
# of the allocator. Code that runs first in an outage (retries, probes) still adds some MB to the
# daemon that delivers; in a run of twelve minutes it ended where it was, at 46.6 MB. A leak of one
# payload for each entry is found in five minutes, a smaller one needs a longer run.
RSS_GROWTH_MAX = 1.20
RSS_SAMPLES_MIN = 20


@dataclass(slots=True)
class Found:
    """The contents of the log, and its problems."""

    entries: int = 0
    sha256: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def read_log(home: Path, receipts: Mapping[str, Mapping[int, EntryHead]]) -> Found:
    """Checks order, times and uniqueness, and that each receipt is in the log at its place."""
    problems: list[str] = []
    places: dict[tuple[object, str], EntryHead] = {}
    hashes: list[str] = []
    seq, recorded_at = 0, ""
    with EventLog(home) as log:
        for entry in log.read():
            if entry.seq != seq + 1 or entry.recorded_at < recorded_at:
                problems.append(f"entry {entry.seq} of {entry.recorded_at} follows {seq}")
            seq, recorded_at = entry.seq, entry.recorded_at
            key = (entry.payload["signal_id"], entry.event)
            if key in places:
                problems.append(f"{key} is in the log twice: {places[key][0]} and {seq}")
            places[key] = (seq, entry.chain)
            if entry.event == "signal":
                hashes.append(str(entry.payload["sha256"]))
    for name, kept in receipts.items():
        for number, place in kept.items():
            expected = item(name, number)
            key = (expected["signal_id"], expected.get("event", "signal"))
            if places.get(key) != place:
                problems.append(f"{key} was acknowledged as {place}, and is {places.get(key)}")
    return Found(seq, frozenset(hashes), tuple(problems))


def verify(home: Path) -> Iterator[str]:
    """Runs `eventlog verify`."""
    report = eventlog(home, "verify", "--json")
    if not report["ok"] or report["findings"]:
        yield f"verify: {report['findings'][:3]}"


def compare_table(home: Path) -> Iterator[str]:
    """Compares the table of the daemons with one that is rebuilt from the log."""
    live = subprocess.run(
        [COMMAND, "--home", home, "digest"], capture_output=True, text=True, check=True
    ).stdout.strip()
    rebuilt = eventlog(home, "rebuild-database", "--json")
    if rebuilt["digest"] != live:
        yield f"the digest of the table is {live}, and {rebuilt['digest']} after a rebuild"
    for change in ("added", "removed", "changed"):
        if rebuilt[change]:
            yield f"rebuilding the table {change} {rebuilt[change]} rows"


def compare_alpine(url: str, key: str, hashes: frozenset[str]) -> Iterator[str]:
    """Compares the list of Alpine with the hashes of the log."""
    try:
        theirs = _hashes_of_alpine(url, key)
    except OSError as error:
        yield f"Alpine does not list its signals: {error}"
        return
    if len(theirs) != len(set(theirs)):
        yield f"Alpine holds {len(theirs) - len(set(theirs))} signals twice"
    if missing := hashes - set(theirs):
        yield f"Alpine lacks {len(missing)} of {len(hashes)} signals"
    if extra := set(theirs) - hashes:
        yield f"Alpine holds {len(extra)} signals that are not in the log"


def _hashes_of_alpine(url: str, key: str) -> list[str]:
    theirs: list[str] = []
    after: int | None = 0
    while after is not None:
        address = f"{url}/api/v1/signals?limit={PAGE_SIGNALS}&after={after}"
        request = urllib.request.Request(address, headers={"X-API-Key": key})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ALPINE_TIMEOUT_S) as answer:
            page = json.load(answer)
        theirs += [row["verification_hash"] for row in page["signals"]]
        after = page["next"]
    return theirs


def memory(samples: Sequence[int]) -> tuple[float, float] | None:
    """Medians of the second quarter, after the warm-up, and of the last; None: too few samples."""
    if len(samples) < RSS_SAMPLES_MIN:
        return None
    quarter = len(samples) // 4
    return median(samples[quarter : 2 * quarter]), median(samples[-quarter:])


def compare_memory(name: str, samples: Sequence[int]) -> Iterator[str]:
    """Checks that a daemon that was not killed has not grown."""
    found = memory(samples)
    if found is not None and found[1] > RSS_GROWTH_MAX * found[0]:
        yield f"{name} has grown from {found[0] / 1e6:.1f} to {found[1] / 1e6:.1f} MB"


def eventlog(home: Path, *words: str) -> Any:
    """The JSON output of a command, for any exit code."""
    done = subprocess.run(
        [COMMAND, "--home", home, *words], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        raise RuntimeError(f"eventlog {words[0]} has failed: {done.stderr}")
    return json.loads(done.stdout)
