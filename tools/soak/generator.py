"""One generator of the soak, a process: `python -m tools.soak.generator`.

It appends items that depend only on its name and their number, and writes each receipt to a file.
When it is started again, it continues after the last receipt in the file. A batch that was under
way when it was killed is therefore appended again with the same content.

Invariant: the receipt of an item is in the file before an item of a later batch is appended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eventlog import EventLog, Receipt

COMMAND = Path(sys.executable).with_name("eventlog")
BATCH_ITEMS_MAX = 8
FACT_EVERY = 3  # each third item closes the signal before it

Item = dict[str, Any]
EntryHead = tuple[int, str]  # seq and chain of a receipt
AppendBatch = Callable[[list[Item]], list[EntryHead]]


def item(name: str, number: int) -> Item:
    """The item with that number; the same on each call."""
    if number % FACT_EVERY == 0:
        return {"event": "closed", "signal_id": f"{name}-{number - 1}", "exit_price": 99.0}
    return {
        "signal_id": f"{name}-{number}",
        "symbol": "SOAK",
        "action": "BUY" if number % 2 else "SELL",
        "entry_price": 100.0 + number,
        "target_price": 110.0 + number,
        "stop_price": 90.0 + number,
        "confidence": 80.0,
        "strategy": name,
        "timestamp": "2025-11-18T02:00:00Z",
        "reasoning": f"the soak goes on, and this is item {number} of generator {name}",
    }


def read_receipts(path: Path) -> dict[int, EntryHead]:
    """The receipts in the file, by the number of the item; none if there is no file yet."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {number: (seq, chain) for number, seq, chain in map(json.loads, lines)}


def main() -> None:
    options = _options()
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    number = max(read_receipts(options.receipts), default=0)
    receipts_fd = os.open(options.receipts, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    with APPEND_METHODS[options.by](options) as append_batch:
        while not stopped:
            count = random.randint(1, BATCH_ITEMS_MAX)
            places = append_batch([item(options.name, number + n) for n in range(1, count + 1)])
            kept = [[number + n, *place] for n, place in enumerate(places, 1)]
            # One write of less than a page: a kill leaves all of it or nothing.
            os.write(receipts_fd, b"".join(json.dumps(row).encode() + b"\n" for row in kept))
            number += count
            time.sleep(count / options.rate)


@contextmanager
def _by_api(options: argparse.Namespace) -> Iterator[AppendBatch]:
    """Appends through the Python API: one by one, in one call, or from concurrent tasks."""
    with EventLog(options.home, segment_bytes=options.segment_bytes) as log:

        async def from_tasks(batch: list[Item]) -> list[Receipt]:
            return list(await asyncio.gather(*map(log.append_async, batch)))

        def append_batch(batch: list[Item]) -> list[EntryHead]:
            match len(batch) % 3:
                case 0:
                    receipts = list(map(log.append, batch))
                case 1:
                    receipts = log.append_many(batch)
                case _:
                    receipts = asyncio.run(from_tasks(batch))
            return [(receipt.seq, receipt.chain) for receipt in receipts]

        yield append_batch


@contextmanager
def _by_pipe(options: argparse.Namespace) -> Iterator[AppendBatch]:
    """Appends through one `eventlog append` that runs as long as this process."""
    words = ["--quiet", "--home", options.home, "append"]
    words += ["--segment-bytes", str(options.segment_bytes)]
    with subprocess.Popen(
        [COMMAND, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        to_log, from_log = process.stdin, process.stdout
        assert to_log is not None and from_log is not None

        def append_batch(batch: list[Item]) -> list[EntryHead]:
            to_log.write(b"".join(json.dumps(item).encode() + b"\n" for item in batch))
            to_log.flush()
            receipts = [json.loads(from_log.readline()) for _ in batch]
            return [(receipt["seq"], receipt["chain"]) for receipt in receipts]

        yield append_batch
        to_log.close()
        assert process.wait() == 0, "eventlog append has failed"


APPEND_METHODS = {"api": _by_api, "pipe": _by_pipe}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--by", choices=APPEND_METHODS, required=True)
    parser.add_argument("--receipts", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="items a second")
    parser.add_argument("--segment-bytes", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
