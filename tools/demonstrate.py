"""The demo: the main job on this machine, step by step, each with what it showed.

    tools/demo [--prices DIR | --simulate SEED] [--days N] [--home DIR]

A step is a function in STEPS: it says what it does, does it, and puts its figures into `Demo`.
Ctrl-C ends the step under way as soon as what it appends is durable; the next one is not begun.

Invariant: what it says of the log was read back from the log; it leaves no process behind, and of
files only the home that it names.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from eventlog import Entry, EventLog, EventLogError, SignalConflict
from eventlog.errors import shown
from tools import prices
from tools.generator import STRATEGY, Book, Stop, run
from tools.prices import Day

CHECKOUT = Path(__file__).resolve().parents[1]
PRICES = CHECKOUT.parent / "shared/data/prices"
COMMAND = Path(sys.executable).with_name("eventlog")
SEED = 1  # of the simulated market, where nobody chose one
OUTCOMES = ("win", "loss", "expired")
EXIT_FAILED, EXIT_COULD_NOT_RUN, EXIT_INTERRUPTED = 1, 3, 130


class DemoFailed(Exception):
    """The system did not do what the demo is there to show."""


@dataclass(slots=True, kw_only=True)
class Demo:
    """What the steps share: where, on which prices, and the figures so far."""

    home: Path
    days: Iterable[Day]
    source: str  # of the prices, in words
    book: Book
    stop: Stop
    entries: int = 0
    signals: int = 0
    appended: int = 0
    took_s: float = 0.0
    chain: str = ""


def append_signals(demo: Demo) -> None:
    """A generator reads prices day by day, and appends what it decides"""
    print(f"  prices: {demo.source}")
    started_s = time.monotonic()
    with EventLog(demo.home) as log:
        counts = run(log, _told(demo.days, log), demo.book, demo.stop, by_day=True, rate=None)
        demo.entries = log.last_seq
    demo.took_s = time.monotonic() - started_s
    demo.appended = counts["appended"]
    print(f"  {demo.appended:,} entries appended, {counts['known']:,} were there already")


def read_them(demo: Demo) -> None:
    """Anybody reads the log: here, what became of the signals of each symbol"""
    symbols: dict[object, str] = {}  # by signal_id
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in EventLog(demo.home).read():
        signal_id = entry.payload.get("signal_id")
        if entry.event == "signal":
            symbols[signal_id] = shown(entry.payload["symbol"])
        kind = str(entry.payload.get("outcome", entry.event))
        found[symbols.get(signal_id, "?")][kind] += 1
        demo.chain = entry.chain
    demo.signals = len(symbols)
    print("  " + "".join(f"{name:>10}" for name in ("symbol", "signals", *OUTCOMES)))
    for symbol, counts in sorted(found.items()):
        row = (counts[name] for name in ("signal", *OUTCOMES))
        print(f"  {symbol:>10}" + "".join(f"{count:>10,}" for count in row))
    _eventlog(demo, demo.home, "tail", "-n", "3")


def say_one_again(demo: Demo) -> None:
    """A generator that was cut off says its last signal again: nothing is written twice"""
    with EventLog(demo.home) as log:
        last = _last_signal(log)
        if last is None:
            print("  there is no signal yet: these were too few days")
            return
        receipt = log.append(last.payload)
        print(f"  the same again: seq {receipt.seq}, duplicate={receipt.duplicate}")
        changed = {**last.payload, "confidence": 99.0}
        del changed["sha256"]
        try:
            log.append(changed)
        except SignalConflict as error:
            print(f"  with another confidence: {error}")
        else:
            raise DemoFailed("a signal_id was taken twice")
        if not receipt.duplicate or log.last_seq != demo.entries:
            raise DemoFailed("a repeated signal was written again")


def verify_all(demo: Demo) -> None:
    """Every line and every signal is hashed again"""
    _eventlog(demo, demo.home, "verify")


def damage_a_copy(demo: Demo) -> None:
    """One bit is turned in a copy of the log: verify says where"""
    with tempfile.TemporaryDirectory(prefix="eventlog-demo-copy-") as copy:
        shutil.copytree(demo.home / "logs", Path(copy) / "logs", symlinks=True)
        segment = min((Path(copy) / "logs").glob("*.jsonl"))
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
        print(f"  bit 0 of byte {len(data) // 2} of {segment.name}")
        said = _eventlog(demo, Path(copy), "verify", code=EXIT_FAILED)
        if not demo.stop.name and segment.name not in said:
            raise DemoFailed("verify did not name the damaged segment")


STEPS: tuple[Callable[[Demo], None], ...] = (
    append_signals,
    read_them,
    say_one_again,
    verify_all,
    damage_a_copy,
)


def _told(days: Iterable[Day], log: EventLog) -> Iterator[Day]:
    """The same days; at the end of each year it says how far the log is."""
    year = None
    for day, bars in days:
        if year not in (None, day.year):
            print(f"  {year}: the log is durable up to entry {log.last_seq:,}", flush=True)
        year = day.year
        yield day, bars


def _last_signal(log: EventLog) -> Entry | None:
    last = None
    for entry in log.read():
        last = entry if entry.event == "signal" else last
    return last


def _eventlog(demo: Demo, home: Path, *words: str, code: int = 0) -> str:
    """Runs the command as a person would, shows it, and gives what it printed.

    Raises DemoFailed for another exit code.
    """
    line = ["--home", str(home), *words]
    print(f"  $ eventlog {shlex.join(line)}", flush=True)
    done = subprocess.run([COMMAND, *line], capture_output=True, text=True, check=False)
    if demo.stop.name:
        return ""  # Ctrl-C in a terminal ended the command too, wherever it was
    for text in (done.stdout + done.stderr).splitlines():
        print(f"    {text}")
    if done.returncode != code:
        raise DemoFailed(f"eventlog {words[0]} ended with {done.returncode}, not {code}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    options = _parser().parse_args(arguments)
    stop = Stop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        demo = _demo(options, stop)
    except prices.PriceFileError as error:
        print(f"tools/demo: {error}", file=sys.stderr)
        return EXIT_COULD_NOT_RUN
    try:
        for number, step in enumerate(STEPS, 1):
            if stop.name:
                break
            print(f"\n{number}. {step.__doc__}.")
            step(demo)
    except EventLogError as error:
        print(f"tools/demo: {error}", file=sys.stderr)
        return EXIT_COULD_NOT_RUN
    except DemoFailed as error:
        print(f"tools/demo: {error}. This is a fault: the log is in {demo.home}", file=sys.stderr)
        return EXIT_FAILED
    return _close(demo)


def _demo(options: argparse.Namespace, stop: Stop) -> Demo:
    """Real prices where they were named or stand beside the checkout, else simulated ones.

    The home is made last: where the prices cannot be read, nothing is left behind.
    """
    directory: Path | None = options.prices
    if directory is None and options.simulate is None and any(PRICES.glob("*.csv")):
        directory = PRICES
    days: Iterable[Day]
    if directory is not None:
        days = list(islice(prices.read_days(directory), options.days))
        count = len(list(directory.glob("*.csv")))
        source, book = f"real daily prices of {count} symbols, from {directory}", Book()
    else:
        seed = options.simulate if options.simulate is not None else SEED
        days = prices.simulate(seed, days=options.days)
        source = f"a simulated market, seed {seed}"
        if options.simulate is None:
            source += ", since no price files are named and ../shared/data/prices is absent"
        book = Book(strategy=f"{STRATEGY}_sim{seed}", data_source="simulated_market")
    home = options.home or Path(tempfile.mkdtemp(prefix="eventlog-demo-"))
    return Demo(home=home.absolute(), days=days, source=source, book=book, stop=stop)


def _close(demo: Demo) -> int:
    home = shlex.quote(str(demo.home))
    if demo.stop.name:
        print(
            f"\nStopped by {demo.stop.name}. What was appended is durable; nothing runs any more."
        )
        print(f"demo: stopped with {demo.entries:,} entries in {home}")
        return EXIT_INTERRUPTED
    print(
        f"\nLook around:  export EVENTLOG_HOME={home} PATH={shlex.quote(str(COMMAND.parent))}:$PATH"
    )
    print("              eventlog tail -n 20; eventlog status; eventlog --help")
    print("When done:    rm -r $EVENTLOG_HOME")
    rate = demo.appended / demo.took_s if demo.took_s else 0.0
    print(
        f"\ndemo: {demo.appended:,} entries appended in {demo.took_s:.1f} s ({rate:,.0f} a second, "
        f"durable day by day), {demo.entries:,} entries of {demo.signals:,} signals read back and "
        f"verified, on {demo.source.split(',')[0]}; head chain {demo.chain[:16]}..."
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/demo", description="Run the main job on this machine and show what it does."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--prices",
        type=Path,
        metavar="DIR",
        help="daily price files (*.csv); default: those in ../shared/data/prices, if it is there",
    )
    source.add_argument(
        "--simulate", type=int, metavar="SEED", help="a simulated market; default: seed 1"
    )
    parser.add_argument("--days", type=_positive, help="only the first so many days")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="where the log goes; default: a new directory"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
