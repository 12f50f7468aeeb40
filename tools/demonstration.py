"""The demo: runs the whole system on this machine, step by step, and prints the results.

    tools/demo [--prices DIR | --simulate SEED] [--days N] [--home DIR] [--web]
    tools/demo --machines [--home DIR]      several machines: see tools/failover.py

A step is a function in STEPS. The first line of its docstring is its heading, and it stores its
figures in `Demo`. Ctrl-C ends the demo and all its processes at any time.

Invariant: the printed figures were read back from the log, the table and the backend; the demo
leaves no process, and no file outside the home that it names.
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
from typing import TypeVar

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

T = TypeVar("T")

COMMAND = Path(sys.executable).with_name("eventlog")
LOGS = "demo-logs"  # the output of each process; it also marks a home as one of the demo
SEED = 1  # of the simulated market, by default
RATE = 250  # entries a second: twenty years take half a minute, slow enough to watch
LINE_S = 3.0  # between two lines of figures if stdout is no terminal
STALLED_S = 60.0  # without progress, after which the demo fails
EXIT_FAILED, EXIT_COULD_NOT_RUN, EXIT_INTERRUPTED = 1, 3, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The source of prices: a description, and the arguments of the generator."""

    description: str
    arguments: tuple[object, ...]


@dataclass(slots=True, kw_only=True)
class Demo:
    """The state that the steps share: home, prices, processes, and the figures so far."""

    home: Path
    source: Source
    processes: ProcessGroup
    stop: StopRequest
    entries_before: int  # of an earlier run in the same home
    has_console: bool = False  # and the demo waits at its end
    alpine: ManagedProcess | None = None
    daemon: ManagedProcess | None = None
    env: dict[str, str] = field(default_factory=dict)  # the address and the key file of the backend
    entries: int = 0
    signals: int = 0
    digest: str = ""


def start_alpine(demo: Demo) -> None:
    """Start the reference Alpine on its own PostgreSQL"""
    key_file = demo.home / "demo-alpine.key"
    words = ("--development", "--key-file", key_file, "--port", 0, "--stop-at-eof")
    demo.alpine = demo.processes.start("alpine", sys.executable, "-m", "tools.alpine", *words)
    found = demo.processes.wait_for(demo.alpine, _url)
    demo.env = {"ALPINE_API_URL": found, "ALPINE_API_KEY_FILE": str(key_file)}
    print(f"  it listens on {found}")


def work(demo: Demo) -> None:
    """Run a generator; `eventlog project all` fills the table and delivers to Alpine"""
    script = CHECKOUT / "tools/generator.py"
    at = ("--home", demo.home, "--rate", RATE, "--batch", "day")
    print(f"  prices: {demo.source.description}")
    generator = demo.processes.start(
        "generator", sys.executable, script, *at, *demo.source.arguments
    )
    has_ended = False
    while not _last_seq(demo.home):
        if has_ended:  # known before the log was read to its end
            raise generator.failed("appended nothing: its rule needs more than a hundred days")
        has_ended = generator.process.poll() is not None
        demo.stop.sleep(INTERVAL_S)
    if demo.has_console:
        start_console(demo)
    words = (COMMAND, "--home", demo.home, "project", "all")
    demo.daemon = demo.processes.start("projector", *words, env=demo.env)
    figures = _watch(demo, generator)
    print(f"  {generator.output.strip()}")
    print(f"  {format_line(figures)}")


def start_console(demo: Demo) -> None:
    """Starts the console of the demo's home, and prints the URL that opens it once."""
    words = (COMMAND, "--home", demo.home, "web", "--listen", "127.0.0.1:0")
    console = demo.processes.start("web", *words)
    print(f"  open {demo.processes.wait_for(console, _console_url)}")


def compare_all(demo: Demo) -> None:
    """Compare the signals in the log, in SQLite and at Alpine"""
    if demo.entries_before:
        # The home is from an earlier run, whose Alpine is gone with its signals.
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
    print("  all three hold the same set of hashes")
    _eventlog(demo, "stats")


def append_duplicate(demo: Demo) -> None:
    """Append the last signal again, as a generator does after a crash: nothing is written"""
    with EventLog(demo.home) as log:
        last = _last_signal(log)
        if last is None:
            print("  there is no signal yet: these are too few days")
            return
        receipt = log.append(last.payload)
        print(f"  the same signal again: seq {receipt.seq}, duplicate={receipt.duplicate}")
        changed = {**last.payload, "confidence": 99.0}
        del changed["sha256"]
        try:
            log.append(changed)
        except SignalConflict as error:
            print(f"  the same id with another confidence: {error}")
        else:
            raise ProcessFailed("a signal_id was accepted twice", code=EXIT_FAILED)
        if not receipt.duplicate or log.last_seq != demo.entries:
            raise ProcessFailed("a repeated signal was written again", code=EXIT_FAILED)


def rebuild(demo: Demo) -> None:
    """Delete the table and rebuild it from the log"""
    assert demo.daemon is not None
    demo.processes.end(demo.daemon)  # the daemon would rebuild the table first
    before = _eventlog(demo, "digest").output
    table = demo.home / "data/signals.db"  # there is no -wal file: the daemon has closed it
    print(f"  $ rm {table}")
    table.unlink()
    _eventlog(demo, "rebuild-database")
    demo.digest = _eventlog(demo, "digest").output.strip()
    if demo.digest != before.strip():
        raise ProcessFailed("the rebuilt table has another digest", code=EXIT_FAILED)
    print("  the same digest as before")


def verify(demo: Demo) -> None:
    """Verify the log: hash every line and every signal again"""
    _eventlog(demo, "verify")


def damage_a_copy(demo: Demo) -> None:
    """Flip one bit in a copy of the log: verify reports the place"""
    with tempfile.TemporaryDirectory(prefix="eventlog-demo-copy-") as copy:
        shutil.copytree(demo.home / "logs", Path(copy) / "logs", symlinks=True)
        segment = min((Path(copy) / "logs").glob("*.jsonl"))
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
        print(f"  bit 0 of byte {len(data) // 2} of {segment.name}")
        output = _eventlog(demo, "verify", home=Path(copy), code=EXIT_FAILED).output
        if segment.name not in output:
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


def _console_url(words: str) -> str | None:
    found = re.search(r"^http://\S+$", words, re.MULTILINE)
    return found[0] if found else None


def _watch(demo: Demo, generator: ManagedProcess) -> HomeSample:
    """Shows the figures until the generator has ended and nothing lags; returns the last ones."""
    assert demo.alpine is not None
    assert demo.daemon is not None
    sampler = Sampler(demo.home)
    progress_s, last_seen = time.monotonic(), None
    with open_output(full_screen=False, line_interval_s=LINE_S, write_line=_print_line) as shown:
        while True:
            has_ended = generator.process.poll() is not None  # known before the sample is taken
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
            if now != last_seen:
                progress_s, last_seen = time.monotonic(), now
            elif time.monotonic() - progress_s > STALLED_S:
                raise demo.daemon.failed(f"makes no progress: {format_line(figures)}")
            demo.stop.sleep(INTERVAL_S)


def _print_line(text: str) -> None:
    print(f"  {text}")


def _last_seq(home: Path) -> int:
    with EventLog(home) as log:
        return log.last_seq


def _hashes_in_log(home: Path) -> tuple[list[str], int]:
    """The sha256 of each signal in the log, and the number of entries."""
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
    """Runs the command, prints the command line and its output, and returns its result.

    Raises ProcessFailed for another exit code than `code`; Stopped.
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
    """Runs the demo; returns the exit code."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a reader of a pipe gets each line at once
    stop = StopRequest()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    home: Path | None = None
    try:
        if options.machines:
            home, _ = _home(options.home)
            _run_machines(home, stop)
            return 0
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
                has_console=options.web,
            )
            _run_steps(STEPS, demo, stop)
            if demo.has_console:
                print("\nThe console is still open. Ctrl-C ends the demo.")
                while True:
                    demo.stop.sleep(INTERVAL_S)
        _close(demo, time.monotonic() - started_s)
        return 0
    except (Stopped, ProcessFailed, EventLogError, prices.PriceFileError, OSError) as error:
        if stop.name:  # any other error is a consequence of the signal
            with suppress(OSError):  # the terminal may be gone
                _print_stopped(stop, home)
            return EXIT_INTERRUPTED
        if not isinstance(error, BrokenPipeError):  # otherwise no reader is left
            where = f"; the home is {home}" if home else ""
            print(f"tools/demo: {_one_sentence(error)}{where}", file=sys.stderr)
        return error.code if isinstance(error, ProcessFailed) else EXIT_COULD_NOT_RUN


def _one_sentence(error: Exception) -> str:
    return f"the system refused: {error}" if isinstance(error, OSError) else str(error)


def _run_machines(home: Path, stop: StopRequest) -> None:
    from tools import failover  # it needs the client of NATS, which the other demo does not

    if (home / "a").exists():
        what = f"{home} is from an earlier run: name another --home, or none"
        raise ProcessFailed(what, code=EXIT_COULD_NOT_RUN)
    started_s = time.monotonic()
    with ProcessGroup(home / LOGS, stop) as processes:
        demo = failover.prepare(home, processes, stop)
        _run_steps(failover.STEPS, demo, stop)
    print("\nEvery process is stopped; the homes are kept.")
    print("Read on:      docs/machines.md; tools/cluster, to kill what you like")
    print(f"When done:    rm -r {shlex.quote(str(home))}")
    print(f"\ndemo: {failover.summary(demo)}, in {time.monotonic() - started_s:.1f} s.")


def _run_steps(steps: Sequence[Callable[[T], None]], demo: T, stop: StopRequest) -> None:
    for number, step in enumerate(steps, 1):
        stop.check()
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
        return Source(description=words, arguments=("--prices", directory, *limit))
    seed = options.simulate if options.simulate is not None else SEED
    words = f"a simulated market, seed {seed}"
    if options.simulate is None:
        words += "; --prices DIR uses real daily prices"
    return Source(description=words, arguments=("--simulate", seed, *limit))


def _home(named: Path | None) -> tuple[Path, int]:
    """Returns the home, and the number of entries of earlier runs in it."""
    home = (named or Path(tempfile.mkdtemp(prefix="eventlog-demo-"))).absolute()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(home.iterdir()) and not (home / LOGS).is_dir():
        # Its signals would count as delivered, to an Alpine that is gone in a minute; and the demo
        # ends with the advice to remove the home.
        what = f"{home} has files that are not from the demo: name another --home, or none"
        raise ProcessFailed(what, code=EXIT_COULD_NOT_RUN)
    return home, _last_seq(home)


def _print_stopped(stop: StopRequest, home: Path | None) -> None:
    entries = _last_seq(home) if home is not None else 0
    print(f"\nStopped by {stop.name}. What was appended is durable; no process is left.")
    print(f"demo: stopped with {entries:,} entries" + (f" in {home}" if home else ""))


def _close(demo: Demo, took_s: float) -> None:
    source = re.split("[,;]", demo.source.description)[0]
    home = shlex.quote(str(demo.home))
    path = shlex.quote(str(COMMAND.parent))
    print("\nEvery process is stopped; the home is kept.")
    print(f"Explore:      export EVENTLOG_HOME={home} PATH={path}:$PATH")
    print(
        "              eventlog top --once; eventlog tail -n 20; eventlog signals; eventlog stats"
    )
    print(f"              sqlite3 {home}/data/signals.db .schema; ls {home}/{LOGS}")
    print("Read on:      docs/tutorial.md; tools/generator.py, a generator to copy")
    print("When done:    rm -r $EVENTLOG_HOME")
    print(
        f"\ndemo: {demo.entries:,} entries of {demo.signals:,} signals are the same in the log, in "
        f"SQLite and at Alpine, the table was rebuilt to the same digest {demo.digest[:16]}..., "
        f"and the log is verified, on {source}, in {took_s:.1f} s."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Run the whole system on this machine and check that its parts agree.",
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
    parser.add_argument("--days", type=_positive, help="only the first DAYS days")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="where the log goes; default: a new directory"
    )
    parser.add_argument(
        "--machines",
        action="store_true",
        help="a failover between two homes over three NATS servers, instead of the whole system",
    )
    parser.add_argument(
        "--web", action="store_true", help="open the console on the home, until Ctrl-C"
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
    except OSError:  # the reader is gone: no message at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)
