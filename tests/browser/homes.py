"""The homes that the console shows in these tests: two years of trades, and hostile text.

    write_trades(home)      some 400 signals of three strategies, recorded over two years
    write_hostile(home)     an entry of each kind with text that tries to be more than text

Both are signed, cosigned and stamped.

Invariant: the trades are the same on each machine; only the hostile entries are recorded now.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from eventlog import EventLog
from eventlog.append.batch import AppendRequest
from eventlog.append.dedupe import DEDUPE_ENTRIES_DEFAULT
from eventlog.append.group_commit import GroupCommit
from eventlog.append.segment_writer import WriterSettings
from eventlog.append.writer import Writer
from eventlog.format.segment import SEGMENT_BYTES_DEFAULT
from eventlog.schema.validation import validate
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.projections.evidence.additions import add_cosignature, add_stamp
from tools.generator import Book
from tools.prices import SIMULATED_FROM, Bar, simulate

STRATEGIES = ("breakout", "momentum_v2", "mean_reversion")
SYMBOLS = ("AAPL", "AMD", "BTC-USD", "ETH-USD", "JPM", "MSFT", "NVDA", "XOM")
FIRST_DAY = date(2024, 1, 1)  # a Monday, as the first simulated day is
DAYS = 430

REFUSALS = (  # the last signals get these answers
    b'{"detail":"entry_price is 4.2 % away from the last trade"}',
    b'{"detail":"symbol is not traded on this account"}',
    b'{"detail":[{"loc":["body","strategy"],"msg":"unknown strategy"}]}',
)

MARKUP = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
BIDI = "a\u202egnp.exe\u2066"  # reads as `aexe.png`
CONTROL = "\x1b[2J\x00\x07"
FORMULA = '=HYPERLINK("javascript:alert(3)","x")'
HOSTILE_SYMBOL = "<SVG/ONLOAD=ALERT>"
HOSTILE_ORIGIN = "<svg/onload=alert(5)>"
HOSTILE_ID = f"\"'>{MARKUP}"
HOSTILE_STRATEGY = f"{BIDI}{SCRIPT}"
HOSTILE_ANSWER = f"{MARKUP}{SCRIPT}{BIDI}{CONTROL} javascript:alert(4)"


def write_trades(home: Path, *, days: int = DAYS) -> dict[str, bytes]:
    """Appends the trades; each day is recorded in its own evening. Returns Alpine's refusals."""
    recorded_at, signal_ids = "", list[str]()
    settings = WriterSettings(SEGMENT_BYTES_DEFAULT, DEDUPE_ENTRIES_DEFAULT, 30.0)
    writer = Writer(RealDisk(), home_at(home), lambda: recorded_at, settings, os.getpid())
    committer = GroupCommit(writer)
    for day, items in _days(days):
        recorded_at = f"{day}T23:59:59.000000Z"
        now, new_id = (lambda at=recorded_at: at), (lambda: "never")
        committer.run(AppendRequest([validate(item, now=now, new_id=new_id) for item in items]))
        signal_ids += [item["signal_id"] for item in items if "event" not in item]
    committer.close()
    sign(home, "log.example.com/main", "witness.example.com/one")
    return dict(zip(signal_ids[-len(REFUSALS) :], REFUSALS, strict=True))


def sign(home: Path, origin: str, witness: str) -> None:
    """Signs the log; the checkpoint is cosigned and stamped."""
    create_key(home, origin)
    size, now_s = sign_checkpoint(home).size, int(time.time())
    add_cosignature(home, size, now_s, by=witness)
    add_stamp(home, size, now_s)


def _days(count: int) -> Iterator[tuple[date, list[Mapping[str, Any]]]]:
    """The items of each day on which there are some."""
    books = {seed: Book(strategy=name) for seed, name in enumerate(STRATEGIES)}
    later = FIRST_DAY - SIMULATED_FROM
    markets = [simulate(seed, SYMBOLS, days=count) for seed in books]
    for days in zip(*markets, strict=True):
        items: list[Mapping[str, Any]] = []
        for seed, (_, bars) in enumerate(days):
            items += books[seed].take({name: _moved(bar, later) for name, bar in bars.items()})
        if items:
            yield days[0][0] + later, items


def _moved(bar: Bar, by: timedelta) -> Bar:
    return replace(bar, day=bar.day + by)


def hostile_signal(number: int = 1) -> dict[str, Any]:
    """A signal with hostile text in each field that takes text."""
    return {
        "signal_id": f"{HOSTILE_ID}{number}",
        "symbol": HOSTILE_SYMBOL,
        "action": "BUY",
        "entry_price": 150.0,
        "target_price": 160.0,
        "stop_price": 140.0,
        "confidence": 85.5,
        "strategy": HOSTILE_STRATEGY,
        "asset_type": MARKUP,
        "data_source": FORMULA,
        "reasoning": f"{SCRIPT}{CONTROL}{BIDI}\nsecond line " + "x" * 3000,
        MARKUP: {SCRIPT: [MARKUP, {CONTROL: BIDI}]},
    }


def write_hostile(home: Path) -> dict[str, bytes]:
    """Appends the hostile entries: two signals and facts. Returns Alpine's answer to the second."""
    first, second = hostile_signal(1), hostile_signal(2)
    fact = {"signal_id": first["signal_id"], MARKUP: CONTROL}
    with EventLog(home) as log:
        log.append_many(
            [
                first,
                second,
                {**fact, "event": "executed", "order_id": MARKUP, "fill_price": 151.0},
                {**fact, "event": "closed", "exit_price": 161.0},
                {**fact, "event": "closed", "exit_price": 162.0, "reason": SCRIPT},  # a conflict
                {"signal_id": second["signal_id"], "event": "skipped", "reason": f"{SCRIPT}{BIDI}"},
                {"event": "reviewed", "signal_id": first["signal_id"], MARKUP: SCRIPT},
            ]
        )
    sign(home, HOSTILE_ORIGIN, f"w{HOSTILE_ORIGIN}")
    return {second["signal_id"]: HOSTILE_ANSWER.encode()}
