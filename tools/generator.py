"""An example of a generator: reads daily prices, decides, appends signals. Copy and change it.

    python tools/generator.py --home DIR --prices DIR
    python tools/generator.py --home DIR --simulate 7 --days 500 --rate 50

Three parts: `decide` is a pure function of the bars so far; `Book` keeps the open signals and turns
a day of prices into the items to append; `run` and `main` append them.

The rule. Seven votes: price over its 20-day average, 5 over 20, 20 over 50 and 50 over 100 days,
and the change over 10, 20 and 60 days. The majority names the side. Confidence, in percent, is the
majority's lead in votes, times how calm the market is: the volatility of 100 days over that of 20,
at most 1. From 65 on it is a signal at the day's close, with the target three and the stop two
average true ranges (14 days) away. It is executed at the symbol's next open, and closed at its
target, at its stop, or at the close of its 20th day; a day that opens beyond target or stop closes
it at the open.
If a day touches both, the stop is assumed: a daily bar does not show which came first. A symbol
has one open signal at a time. It is an example, not advice.

Invariant: the items of day t depend only on prices up to t, and the same prices give the same
items, to the digit. A run that was stopped can be started again: it skips what is in the log.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from itertools import islice, pairwise
from math import fsum, sqrt
from pathlib import Path
from types import FrameType

if not __package__:  # run as a file: let Python find `tools`; a copy says `import prices` instead
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eventlog import EventLog, EventLogError
from tools import prices
from tools.prices import Bar, Day

STRATEGY = "consensus_v1"  # begins every signal_id: a changed rule gets a new name
AVERAGES_DAYS = ((1, 20), (5, 20), (20, 50), (50, 100))
MOMENTA_DAYS = (10, 20, 60)
VOTES = len(AVERAGES_DAYS) + len(MOMENTA_DAYS)
VOLATILITY_DAYS = (20, 100)
RANGE_DAYS = 14
BARS_NEEDED = 101  # a hundred daily changes; older bars are never looked at
CONFIDENCE_MIN = 65.0  # percent
TARGET_RANGES, STOP_RANGES = 3.0, 2.0
HOLD_DAYS_MAX = 20
SLEEP_MAX_S = 0.1  # how long SIGTERM may wait while the pace is held

Item = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """To buy or sell at `entry`; `confidence` is in percent."""

    action: str
    entry: float
    target: float
    stop: float
    confidence: float
    reasoning: str


def decide(bars: Sequence[Bar]) -> Decision | None:
    """The rule: the last of `bars` (oldest first) is today's. None means: no signal today."""
    if len(bars) < BARS_NEEDED:
        return None
    closes = [bar.close for bar in bars[-BARS_NEEDED:]]
    lead = sum(votes(closes))
    recent, usual = (volatility(closes[-days - 1 :]) for days in VOLATILITY_DAYS)
    calm = min(1.0, usual / recent) if recent else 1.0
    confidence = round(100 * abs(lead) / VOTES * calm, 2)
    if confidence < CONFIDENCE_MIN:
        return None
    side, action = (1, "BUY") if lead > 0 else (-1, "SELL")
    entry, span = closes[-1], true_range(bars[-RANGE_DAYS - 1 :])
    target = prices.rounded(entry + side * TARGET_RANGES * span)
    stop = prices.rounded(entry - side * STOP_RANGES * span)
    if min(target, stop) <= 0 or entry in (target, stop):
        return None  # too volatile: one is below zero; or too flat: there is no distance
    return Decision(
        action=action,
        entry=entry,
        target=target,
        stop=stop,
        confidence=confidence,
        reasoning=f"{action} leads by {abs(lead)} of {VOTES} votes of averages and momentum; "
        f"volatility {recent:.2%} a day, usually {usual:.2%}; average true range {span:.6g}.",
    )


def votes(closes: Sequence[float]) -> Iterator[int]:
    """+1 for rising, -1 for falling, 0 for neither: one vote an average or momentum."""
    pairs = [(mean(closes[-short:]), mean(closes[-long:])) for short, long in AVERAGES_DAYS]
    pairs += [(closes[-1], closes[-1 - days]) for days in MOMENTA_DAYS]
    return ((now > before) - (now < before) for now, before in pairs)


def volatility(closes: Sequence[float]) -> float:
    """Standard deviation of the daily changes, as a fraction of the price."""
    changes = [now / before - 1 for before, now in pairwise(closes)]
    middle = mean(changes)
    return sqrt(mean([(change - middle) ** 2 for change in changes]))


def true_range(bars: Sequence[Bar]) -> float:
    """Average over all but the first bar, which only gives the close before."""
    return mean([max(b.high, a.close) - min(b.low, a.close) for a, b in pairwise(bars)])


def mean(values: Sequence[float]) -> float:
    """By fsum, since sum() adds differently from Python 3.12 on, and digits are to agree."""
    return fsum(values) / len(values)


def exit_of(decision: Decision, bar: Bar) -> float | None:
    """The price at which an open trade ends on this day, if it touches its target or stop."""
    side = 1 if decision.action == "BUY" else -1
    worst, best = (bar.low, bar.high) if side > 0 else (bar.high, bar.low)
    if side * (bar.open - decision.stop) <= 0 or side * (bar.open - decision.target) >= 0:
        return bar.open
    if side * (worst - decision.stop) <= 0:
        return decision.stop
    if side * (best - decision.target) >= 0:
        return decision.target
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """A signal that is not closed yet; while `days_held` is 0 it waits for the next open."""

    signal_id: str
    decision: Decision
    days_held: int = 0


class Book:
    """The bars so far and the open signals; takes one day at a time."""

    def __init__(self, *, strategy: str = STRATEGY, data_source: str = "daily_prices") -> None:
        self.strategy = strategy
        self.data_source = data_source
        self._seen: defaultdict[str, deque[Bar]] = defaultdict(lambda: deque(maxlen=BARS_NEEDED))
        self._open: dict[str, Trade] = {}

    def take(self, bars: Mapping[str, Bar]) -> list[Item]:
        """The bars of one day, by symbol -> the entries to append, in order."""
        items: list[Item] = []
        for symbol, bar in sorted(bars.items()):
            self._seen[symbol].append(bar)
            if trade := self._open.pop(symbol, None):
                items += self._hold(symbol, trade, bar)
            if symbol not in self._open and (decision := decide(list(self._seen[symbol]))):
                items.append(self._signal(symbol, bar.day, decision))
        return items

    def _signal(self, symbol: str, day: date, decision: Decision) -> Item:
        # Made from the content, never random, so that the log recognises a retry.
        signal_id = f"{self.strategy}:{symbol}:{day}"
        self._open[symbol] = Trade(signal_id=signal_id, decision=decision)
        return {
            "signal_id": signal_id,
            "symbol": symbol,
            "action": decision.action,
            "entry_price": decision.entry,
            "target_price": decision.target,
            "stop_price": decision.stop,
            "confidence": decision.confidence,
            "strategy": self.strategy,
            "asset_type": "crypto" if prices.is_crypto(symbol) else "stock",
            "data_source": self.data_source,
            "timestamp": prices.closes_at(symbol, day),
            "reasoning": decision.reasoning,
        }

    def _hold(self, symbol: str, trade: Trade, bar: Bar) -> Iterator[Item]:
        trade = replace(trade, days_held=trade.days_held + 1)
        if trade.days_held == 1:
            order: Item = {"order_id": f"order:{trade.signal_id}", "fill_price": bar.open}
            order["executed_at"] = prices.opens_at(symbol, bar.day)
            yield {"event": "executed", "signal_id": trade.signal_id, **order}
        exit_price = exit_of(trade.decision, bar)
        if exit_price is None and trade.days_held < HOLD_DAYS_MAX:
            self._open[symbol] = trade
            return
        # No outcome is named: the table derives it from the profit.
        close: Item = {"exit_price": bar.close if exit_price is None else exit_price}
        close["closed_at"] = prices.closes_at(symbol, bar.day)
        yield {"event": "closed", "signal_id": trade.signal_id, **close}


class Stop:
    """A signal handler: the append under way is finished first. A second signal kills."""

    name = ""

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(signum).name
        signal.signal(signum, signal.SIG_DFL)

    def sleep_until(self, due: float) -> None:
        while not self.name and (left := due - time.monotonic()) > 0:
            time.sleep(min(left, SLEEP_MAX_S))


def run(
    log: EventLog, days: Iterable[Day], book: Book, stop: Stop, *, by_day: bool, rate: float | None
) -> Counter[str]:
    """Append what `book` makes of `days`, at most `rate` entries a second; counts by kind.

    `by_day` makes one durable write of a day's entries instead of one of each.
    """
    known = appended_before(log, book.strategy)
    counts: Counter[str] = Counter()
    started = time.monotonic()
    for _, bars in days:
        items = book.take(bars)
        for group in [items] if by_day else [[item] for item in items]:
            if stop.name:
                return counts
            # An append returns when it is durable. After a kill before that, the run starts again:
            # the log recognises a signal_id, answers `duplicate` and writes nothing.
            fresh = [item for item in group if fingerprint(item) not in known]
            receipts = log.append_many(fresh) if by_day else [log.append(item) for item in fresh]
            written = sum(not receipt.duplicate for receipt in receipts)
            counts.update(appended=written, known=len(group) - written)
            counts.update(str(item.get("event", "signal")) for item in group)
            stop.sleep_until(started + counts["appended"] / rate if rate else 0.0)
        counts["days"] += 1
    return counts


def appended_before(log: EventLog, strategy: str) -> set[bytes]:
    """The items of earlier runs; the log itself recognises only its last 10,000 entries."""
    return {
        fingerprint({"event": entry.event, **entry.payload})
        for entry in log.read()
        if str(entry.payload.get("signal_id")).startswith(f"{strategy}:")
    }


def fingerprint(item: Mapping[str, object]) -> bytes:
    """Equal for equal content, whether it is yet to be appended or was read from the log."""
    content = {"event": "signal", **item}
    content.pop("sha256", None)  # the log adds it
    return sha256(json.dumps(content, sort_keys=True).encode()).digest()


def main() -> int:
    """Runs the generator; the exit codes are those of `eventlog`."""
    args = arguments()
    stop = Stop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    started = time.monotonic()
    days: Iterable[Day]
    try:
        if args.prices:
            source, book = f"the files in {args.prices}", Book()
            days = islice(prices.read_days(args.prices, args.symbols), args.days)
        else:
            source = f"a simulated market, seed {args.simulate}"
            book = Book(strategy=f"{STRATEGY}_sim{args.simulate}", data_source="simulated_market")
            days = prices.simulate(args.simulate, args.symbols, days=args.days)
        with EventLog(args.home) as log:
            counts = run(log, days, book, stop, by_day=args.batch == "day", rate=args.rate)
    except (EventLogError, prices.PriceFileError) as error:
        print(f"generator: {error}", file=sys.stderr)
        return 3
    open_count = counts["signal"] - counts["closed"]
    print(
        f"generator: {counts['signal']} signals ({counts['closed']} closed, {open_count} open), "
        f"{counts['appended']} entries appended, {counts['known']} already there, "
        f"{counts['days']} days of {source}, "
        f"{time.monotonic() - started:.1f} s{stop.name and f', stopped by {stop.name}'}"
    )
    return 0


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description="Append the signals of a simple rule to a log.")
    parser.add_argument("--home", type=Path, required=True, help="where the log is, or is made")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prices", type=Path, metavar="DIR", help="daily price files (*.csv)")
    source.add_argument("--simulate", type=int, default=1, metavar="SEED", help="default: seed 1")
    parser.add_argument("--symbols", nargs="+", type=str.upper, default=(), help="default: all")
    parser.add_argument("--days", type=int, help="only the first so many days")
    parser.add_argument("--rate", type=float, metavar="PER_SECOND", help="entries, at most")
    parser.add_argument(
        "--batch", choices=("entry", "day"), default="entry", help="a durable write"
    )
    args = parser.parse_args()
    if (args.days is not None and args.days < 1) or (args.rate is not None and not args.rate > 0):
        parser.error("--days and --rate must be above 0")
    return args


if __name__ == "__main__":
    sys.exit(main())
