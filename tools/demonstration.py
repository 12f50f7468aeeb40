"""The demo: the main job on this machine, step by step, each with what it showed.

    tools/demo [--prices DIR | --simulate SEED] [--days N] [--home DIR]

A step is a function in STEPS: it says what it does, does it, and puts its figures into `Demo`.
Ctrl-C ends it at any moment, with all that it has started.

Invariant: what it says was read back from the log, the table and the backend; it leaves no process
behind, and of files only the home that it names.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

from eventlog import Entry, EventLog, EventLogError, SignalConflict
from projections.top.output import open_output
from projections.top.sampler import INTERVAL_S, Sampler
from projections.top.view import HomeSample, format_line
from tools import prices
from tools.processes import (
    CHECKOUT,
    Ended,
    ManagedProcess,
    ProcessFailed,
    ProcessGroup,
    Stopped,
    StopRequest,
)

COMMAND = Path(sys.executable).with_name("eventlog")
LOGS = "demo-logs"  # in the home: what each process said; it tells a home of the demo from others
SEED = 1  # of the simulated market, where nobody chose one
RATE = 250  # entries a second: twenty years pass in half a minute, and an eye can follow
LINE_S = 3.0  # between two lines of figures where there is no terminal
STUCK_S = 60.0  # without any progress
EXIT_FAILED, EXIT_COULD_NOT_RUN, EXIT_INTERRUPTED = 1, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where prices come from: in words, and as arguments of the generator."""

    words: str
    arguments: tuple[object, ...]


@dataclass(slots=True, kw_only=True)
class Demo:
    """What the steps share: where, on which prices, with whom, and the figures so far."""

    home: Path
    source: Source
    processes: ProcessGroup
    stop: StopRequest
    entries_before: int  # of a run before, in the same home
    alpine: ManagedProcess | None = None
    daemon: ManagedProcess | None = None
    env: dict[str, str] = field(default_factory=dict)  # what leads to the backend
    entries: int = 0
    signals: int = 0
    digest: str = ""


def start_alpine(demo: Demo) -> None:
    """The reference Alpine starts, on a PostgreSQL of its own"""
    key_file = demo.home / "demo-alpine.key"
    words = ("--development", "--key-file", key_file, "--port", 0, "--stop-at-eof")
    demo.alpine = demo.processes.start("alpine", sys.executable, "-m", "tools.alpine", *words)
    found = demo.processes.wait_for(demo.alpine, _url)
    demo.env = {"ALPINE_API_URL": found, "ALPINE_API_KEY_FILE": str(key_file)}
    print(f"  it listens on {found}")


def work(demo: Demo) -> None:
    """A generator decides day by day; `eventlog project all` fills the table and delivers"""
    script = CHECKOUT / "tools/generator.py"
    at = ("--home", demo.home, "--rate", RATE, "--batch", "day")
    print(f"  prices: {demo.source.words}")
    generator = demo.processes.start(
        "generator", sys.executable, script, *at, *demo.source.arguments
    )
    has_ended = False
    while not _last_seq(demo.home):
        if has_ended:  # before the look, which has seen all of it
            raise generator.failed("appended nothing: its rule needs a hundred days and more")
        has_ended = generator.process.poll() is not None
        demo.stop.sleep(INTERVAL_S)
    words = (COMMAND, "--home", demo.home, "project", "all")
    demo.daemon = demo.processes.start("projector", *words, env=demo.env)
    figures = _watch(demo, generator)
    print(f"  {generator.words.strip()}")
    print(f"  {format_line(figures)}")


def compare_all(demo: Demo) -> None:
    """Log, SQLite and Alpine hold the same signals"""
    if demo.entries_before:
        # The home is from a run before, and that run's Alpine is gone with what it had.
        _eventlog(demo, "reconcile", "--replay")
    in_log, demo.entries = _hashes_in_log(demo.home)
    demo.signals = len(in_log)
    with closing(sqlite3.connect(f"file:{demo.home}/data/signals.db?mode=ro", uri=True)) as table:
        rows = [row[0] for row in table.execute("SELECT sha256 FROM signals")]
    found = json.loads(_eventlog(demo, "reconcile", "--exclusive", "--json").output)
    wrong = {key: found[key] for key in ("missing", "different", "extra")}
    print(f"  log:    {demo.signals:,} signals in {demo.entries:,} entries")
    print(f"  SQLite: {len(rows):,} rows")
    print(f"  Alpine: {found['at_alpine']:,} signals; {wrong}")
    is_same = sorted(rows) == sorted(in_log) and found["at_alpine"] == len(in_log)
    if not is_same or any(wrong.values()):
        raise ProcessFailed("log, SQLite and Alpine do not agree", code=EXIT_FAILED)
    print("  three times the same set of hashes")
    _eventlog(demo, "stats")


def append_duplicate(demo: Demo) -> None:
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
            raise ProcessFailed("a signal_id was taken twice", code=EXIT_FAILED)
        if not receipt.duplicate or log.last_seq != demo.entries:
            raise ProcessFailed("a repeated signal was written again", code=EXIT_FAILED)


def rebuild(demo: Demo) -> None:
    """The table is deleted, and built again from the log"""
    assert demo.daemon is not None
    demo.processes.end(demo.daemon)  # it would build it anew before we could
    before = _eventlog(demo, "digest").output
    table = demo.home / "data/signals.db"  # and nothing beside it: the daemon closed it cleanly
    print(f"  $ rm {table}")
    table.unlink()
    _eventlog(demo, "rebuild-database")
    demo.digest = _eventlog(demo, "digest").output.strip()
    if demo.digest != before.strip():
        raise ProcessFailed("the table that was built again is another one", code=EXIT_FAILED)
    print("  the same digest as before")


def verify(demo: Demo) -> None:
    """Every line and every signal is hashed again"""
    _eventlog(demo, "verify")


def damage_a_copy(demo: Demo) -> None:
    """One bit is turned in a copy of the log: verify says where"""
    with tempfile.TemporaryDirectory(prefix="eventlog-demo-copy-") as copy:
        shutil.copytree(demo.home / "logs", Path(copy) / "logs", symlinks=True)
        segment = min((Path(copy) / "logs").glob("*.jsonl"))
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
        print(f"  bit 0 of byte {len(data) // 2} of {segment.name}")
        said = _eventlog(demo, "verify", home=Path(copy), code=EXIT_FAILED).output
        if segment.name not in said:
            raise ProcessFailed("verify did not name the damaged segment", code=EXIT_FAILED)


STEPS: tuple[Callable[[Demo], None], ...] = (
    start_alpine,
    work,
    compare_all,
    append_duplicate,
    rebuild,
    verify,
    damage_a_copy,
)


def _url(words: str) -> str | None:
    found = re.search(r"^listening on (http://\S+)$", words, re.MULTILINE)
    return found[1] if found else None


def _watch(demo: Demo, generator: ManagedProcess) -> HomeSample:
    """Shows what happens until the generator has ended and nothing is behind; the last figures."""
    assert demo.alpine is not None
    assert demo.daemon is not None
    sampler = Sampler(demo.home)
    moved_s, seen = time.monotonic(), None
    with open_output(full_screen=False, line_interval_s=LINE_S, write_line=_print_line) as shown:
        while True:
            has_ended = generator.process.poll() is not None  # before the look, which sees it all
            figures = sampler.sample()
            shown.show(figures)
            lags = [found.get("lag_entries") for found in figures.projections.values()]
            if has_ended and generator.process.returncode != 0:
                raise generator.failed("stopped")
            if has_ended and not any(lag is None or lag for lag in lags):
                return figures
            demo.processes.check(demo.alpine)
            demo.processes.check(demo.daemon)
            now = (figures.log["last_seq"], *lags)
            if now != seen:
                moved_s, seen = time.monotonic(), now
            elif time.monotonic() - moved_s > STUCK_S:
                raise demo.daemon.failed(f"makes no progress: {format_line(figures)}")
            demo.stop.sleep(INTERVAL_S)


def _print_line(text: str) -> None:
    print(f"  {text}")


def _last_seq(home: Path) -> int:
    with EventLog(home) as log:
        return log.last_seq


def _hashes_in_log(home: Path) -> tuple[list[str], int]:
    """The sha256 of each signal, and how many entries there are."""
    hashes: list[str] = []
    seq = 0
    for entry in EventLog(home).read():
        seq = entry.seq
        if entry.event == "signal":
            hashes.append(str(entry.payload["sha256"]))
    return hashes, seq


def _last_signal(log: EventLog) -> Entry | None:
    last = None
    for entry in log.read():
        last = entry if entry.event == "signal" else last
    return last


def _eventlog(demo: Demo, *words: str, home: Path | None = None, code: int = 0) -> Ended:
    """Runs the command as a person would, shows it, and gives what it printed.

    Raises PartFailed for another exit code, Stopped.
    """
    line = ("--home", str(home or demo.home), *words)
    print(f"  $ eventlog {shlex.join(line)}")
    ended = demo.processes.run(words[0], COMMAND, *line, env=demo.env)
    for text in ended.output.splitlines():
        print(f"    {text}")
    if ended.code != code:
        what = f"eventlog {words[0]} ended with exit code {ended.code}, not {code}"
        raise ProcessFailed(what, code=EXIT_FAILED, log=demo.home / LOGS / f"{words[0]}.log")
    return ended


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # whoever reads a pipe sees it live, too
    stop = StopRequest()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    home: Path | None = None
    try:
        source = _source(options)
        home, entries_before = _home(options.home)
        started_s = time.monotonic()
        with ProcessGroup(home / LOGS, stop) as processes:
            demo = Demo(
                home=home,
                source=source,
                processes=processes,
                stop=stop,
                entries_before=entries_before,
            )
            _run_steps(demo)
        _close(demo, time.monotonic() - started_s)
        return 0
    except (Stopped, ProcessFailed, EventLogError, prices.PriceFileError, OSError) as error:
        if stop.name:  # whatever else it was, it came of that
            with suppress(OSError):  # the terminal may be what has ended
                _print_stopped(stop, home)
            return EXIT_INTERRUPTED
        if not isinstance(error, BrokenPipeError):  # then nobody reads any more
            where = f"; the home is {home}" if home else ""
            print(f"tools/demo: {_one_sentence(error)}{where}", file=sys.stderr)
        return error.code if isinstance(error, ProcessFailed) else EXIT_COULD_NOT_RUN


def _one_sentence(error: Exception) -> str:
    return f"the system refused: {error}" if isinstance(error, OSError) else str(error)


def _run_steps(demo: Demo) -> None:
    for number, step in enumerate(STEPS, 1):
        demo.stop.check()
        print(f"\n{number}. {step.__doc__}.")
        started_s = time.monotonic()
        step(demo)
        print(f"  ({time.monotonic() - started_s:.1f} s)")


def _source(options: argparse.Namespace) -> Source:
    """Return the prices of the directory that `--prices` names, or else a simulated market.

    The price files are read here once, before the demo creates anything: a bad one leaves no file.
    """
    directory: Path | None = options.prices
    limit: tuple[object, ...] = ("--days", options.days) if options.days else ()
    if directory is not None:
        directory = directory.absolute()
        days = [day for day, _ in islice(prices.read_days(directory), options.days)]
        count = len(list(directory.glob("*.csv")))
        words = f"real daily prices of {count} symbols, {days[0]} to {days[-1]}, from {directory}"
        return Source(words=words, arguments=("--prices", directory, *limit))
    seed = options.simulate if options.simulate is not None else SEED
    words = f"a simulated market, seed {seed}"
    if options.simulate is None:
        words += "; --prices DIR uses real daily prices"
    return Source(words=words, arguments=("--simulate", seed, *limit))


def _home(named: Path | None) -> tuple[Path, int]:
    """The home, and how many entries a run before has left there."""
    home = (named or Path(tempfile.mkdtemp(prefix="eventlog-demo-"))).absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(home.iterdir()) and not (home / LOGS).is_dir():
        # Its signals would count as delivered, to an Alpine that is gone in a minute; and what is
        # told at the end is to remove all of it.
        what = f"{home} holds something that is not the demo's: name another --home, or none"
        raise ProcessFailed(what, code=EXIT_COULD_NOT_RUN)
    return home, _last_seq(home)


def _print_stopped(stop: StopRequest, home: Path | None) -> None:
    entries = _last_seq(home) if home is not None else 0
    print(f"\nStopped by {stop.name}. What was appended is durable; nothing runs any more.")
    print(f"demo: stopped with {entries:,} entries" + (f" in {home}" if home else ""))


def _close(demo: Demo, took_s: float) -> None:
    home = shlex.quote(str(demo.home))
    path = shlex.quote(str(COMMAND.parent))
    print("\nEverything that it started is stopped; the home is kept.")
    print(f"Look around:  export EVENTLOG_HOME={home} PATH={path}:$PATH")
    print(
        "              eventlog top --once; eventlog tail -n 20; eventlog signals; eventlog stats"
    )
    print(f"              sqlite3 {home}/data/signals.db .schema; ls {home}/{LOGS}")
    print("Read on:      docs/tutorial.md; tools/generator.py, to copy and change")
    print("When done:    rm -r $EVENTLOG_HOME")
    print(
        f"\ndemo: {demo.entries:,} entries of {demo.signals:,} signals are the same in the log, in "
        f"SQLite and at Alpine, the table was rebuilt to the same digest {demo.digest[:16]}..., "
        f"and the log is verified, on {re.split('[,;]', demo.source.words)[0]}, in {took_s:.1f} s."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/demo", description="Run the main job on this machine and show what it does."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--prices",
        type=Path,
        metavar="DIR",
        help="directory of daily price files (*.csv); default: a simulated market",
    )
    source.add_argument(
        "--simulate", type=int, metavar="SEED", help="seed of the simulated market; default: 1"
    )
    parser.add_argument("--days", type=_positive, help="only the first so many days")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="where the log goes; default: a new directory"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


if __name__ == "__main__":
    code = main()
    try:
        sys.stdout.flush()
    except OSError:  # whoever read it has gone, and needs no words at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
