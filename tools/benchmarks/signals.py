"""Signals for measurements: realistic, seeded, the same for both sides.

Invariant: two factories of one seed return the same signals in the same order.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

Value = str | float
SignalDict = dict[str, Value]

FIRST_TIMESTAMP = datetime(2025, 11, 18, 2, 0, 0, 1, tzinfo=UTC)
RECORDED_AT = "2025-11-18T02:00:00.123456Z"
CHAIN_START = "0" * 64

# symbol, kind, and its approximate price
SYMBOLS = (
    ("AAPL", "stock", 270.0),
    ("AMZN", "stock", 230.0),
    ("MSFT", "stock", 510.0),
    ("NVDA", "stock", 185.0),
    ("TSLA", "stock", 410.0),
    ("SPY", "etf", 670.0),
    ("BTC-USD", "crypto", 95_000.0),
    ("ETH-USD", "crypto", 3_100.0),
)
REGIMES = ("TRENDING", "RANGING", "VOLATILE", "QUIET")
HASHED = (
    "signal_id",
    "symbol",
    "action",
    "entry_price",
    "target_price",
    "stop_price",
    "confidence",
    "strategy",
    "timestamp",
)


class Signals:
    """A factory of signals as a generator makes them: 13 fields, a line of about 600 bytes."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._made = 0

    def take(self, count: int) -> list[SignalDict]:
        return [self._make() for _ in range(count)]

    def _make(self) -> SignalDict:
        rng = self._random
        self._made += 1
        symbol, kind, around = SYMBOLS[int(rng.random() * len(SYMBOLS))]
        entry = round(around * (0.9 + 0.2 * rng.random()), 4)
        # The target of a BUY is above its entry and the stop below it; a SELL is the reverse.
        action, sign = ("BUY", 1.0) if rng.random() < 0.6 else ("SELL", -1.0)
        sources = 3 + int(rng.random() * 4)
        return {
            "signal_id": f"{rng.getrandbits(64):016x}",
            "symbol": symbol,
            "action": action,
            "entry_price": entry,
            "target_price": round(entry * (1 + sign * 0.05), 4),
            "stop_price": round(entry * (1 - sign * 0.025), 4),
            "confidence": round(75 + 24 * rng.random(), 2),
            "strategy": "weighted_consensus_v6",
            "asset_type": kind,
            "data_source": "weighted_consensus",
            "timestamp": (FIRST_TIMESTAMP + timedelta(milliseconds=137 * self._made)).isoformat(),
            "regime": REGIMES[int(rng.random() * len(REGIMES))],
            "reasoning": f"Weighted consensus of {sources} sources agrees on direction; "
            "momentum and volume confirm.",
        }


def sha256_of(signal: SignalDict) -> str:
    """The content hash of a signal, as Alpine recomputes it."""
    canonical = json.dumps({key: signal[key] for key in HASHED}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def ready_lines(signals: Iterable[SignalDict], *, seq: int = 1) -> Iterator[bytes]:
    """The lines of these signals, byte for byte as long as those of the log."""
    chain = CHAIN_START
    for number, signal in enumerate(signals, start=seq):
        head = {
            "v": 1,
            "seq": number,
            "batch": number,
            "recorded_at": RECORDED_AT,
            "event": "signal",
        }
        whole = head | signal | {"sha256": sha256_of(signal)}
        body = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()[:-1]
        chain = hashlib.sha256(chain.encode() + body).hexdigest()
        yield body + b',"chain":"%s"}\n' % chain.encode()


def ready_row(signal: SignalDict) -> tuple[Value, ...]:
    """A row for the SQLite peers: the signal's fields in order, then its hash."""
    return (*signal.values(), sha256_of(signal))


def ready_body(signal: SignalDict) -> bytes:
    """A message for peers that store bytes: the signal and its hash as JSON."""
    return json.dumps(signal | {"sha256": sha256_of(signal)}, separators=(",", ":")).encode()
