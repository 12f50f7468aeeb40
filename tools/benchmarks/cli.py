"""The command behind tools/bench: selects targets or peers, measures them, prints one table.

Invariant: its files are removed, however it ends; it exits 0 if every row was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from tools.benchmarks import machine, report
from tools.benchmarks.peer_table import PEERS, Peer, chosen_peers, measure_peer
from tools.benchmarks.runner import Bench, Target, measure
from tools.benchmarks.targets import TARGETS, chosen

CHECKOUT = Path(__file__).resolve().parents[2]

EXAMPLES = """
examples:
  tools/bench                       every target, some minutes
  tools/bench --only B1,B5 --quick  two targets, some seconds
  tools/bench --json bench.json     the same table as JSON
  tools/bench --peers               append against what people would pick instead, some minutes
  tools/bench --peers --only redis  one of these
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the targets that the arguments select; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(_listed(peers=options.peers)))
        return 0
    try:
        peers = chosen_peers(options.only) if options.peers else ()
        targets = () if options.peers else chosen(options.only)
    except ValueError as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 2
    if options.delay_us is not None:
        _run_delayed(options, options.delay_us)
    signal.signal(signal.SIGTERM, _end)
    where = machine.directory(options.dir, CHECKOUT)
    try:
        versions = _versions(where, options.delayed_us)
        bench = Bench(dir=where, quick=options.quick)
        measured = (
            _measure_peers(peers, bench, versions)
            if options.peers
            else _measure_targets(targets, bench, versions)
        )
    finally:
        shutil.rmtree(where, ignore_errors=True)
    print(measured.table)
    if options.json is not None:
        options.json.write_text(json.dumps(measured.as_json, indent=2) + "\n")
    return 0 if measured.is_complete else 1


def _versions(where: Path, delayed_us: int | None) -> dict[str, str]:
    versions = machine.versions(where)
    if delayed_us is not None:
        versions["delayed"] = f"each fdatasync and fsync by {delayed_us} us (strace)"
    if versions["file_system"] in machine.VOLATILE:
        _say(f"{where} is on {versions['file_system']}, where fdatasync does nothing: use --dir")
    return versions


def _listed(*, peers: bool) -> list[str]:
    if peers:
        return [f"{peer.id:<15}{peer.what}" for peer in PEERS]
    return [f"{target.id:<12}{target.what}, against {target.peer}" for target in TARGETS]


class Measured(NamedTuple):
    """The outcome of a run; `is_complete` if each row was measured."""

    table: str
    as_json: dict[str, object]
    is_complete: bool


def _measure_targets(targets: Sequence[Target], bench: Bench, versions: dict[str, str]) -> Measured:
    results = []
    for target in targets:
        bench.progress = _Progress(target.id)
        result = measure(target, bench, lambda: machine.fdatasync_ms(bench.dir))
        results.append(result)
        value = result.ratio if target.of == "ratio" else result.ours
        found = result.why if value is None else f"{value:.3g} ({result.verdict})"
        _say(f"{target.id}: {found}, {result.took_s:.0f} s")
    return Measured(
        report.table(results, versions),
        report.as_json(results, versions, quick=bench.quick),
        all(result.rounds for result in results),
    )


def _measure_peers(peers: Sequence[Peer], bench: Bench, versions: dict[str, str]) -> Measured:
    results = []
    for peer in peers:
        bench.progress = _Progress(peer.id)
        result = measure_peer(peer, bench, lambda: machine.fdatasync_ms(bench.dir))
        results.append(result)
        ratios = [f"{rounds.ratio:.3g}" for rounds in (result.one, result.many) if rounds]
        _say(f"{peer.id}: {result.why or ', '.join(ratios)}, {result.took_s:.0f} s")
    return Measured(
        report.peers_table(results, versions),
        report.peers_as_json(results, versions, quick=bench.quick),
        not any(result.why for result in results),
    )


class _Progress:
    """Prints the progress on one line that is overwritten; on a terminal only."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self._name}: {text}", end="", file=sys.stderr, flush=True)


def _run_delayed(options: argparse.Namespace, delay_us: int) -> NoReturn:
    """Replaces this process by the same run under strace, which delays each fdatasync and fsync.

    The thread waits in the call, as for a slow disk; no other call is delayed.
    """
    strace = shutil.which("strace")
    if strace is None:
        print("tools/bench: --delay-us needs strace: apt-get install strace", file=sys.stderr)
        raise SystemExit(2)
    tracing = [strace, "--follow-forks", "--seccomp-bpf", "--quiet=all", "--output=/dev/null"]
    tracing += ["--trace=fdatasync,fsync", f"--inject=fdatasync,fsync:delay_exit={delay_us}"]
    again = [sys.executable, "-m", "tools.benchmarks", f"--delayed-us={delay_us}"]
    again += [f"--only={options.only}"] if options.only else []
    again += ["--quick"] if options.quick else []
    again += ["--peers"] if options.peers else []
    again += [f"--json={options.json}"] if options.json else []
    again += [f"--dir={options.dir}"] if options.dir else []
    os.execv(strace, [*tracing, *again])


def _say(text: str) -> None:
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}{text}", file=sys.stderr, flush=True)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    # An exception leaves every `with`, so that servers end and files are removed.
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measure this log against its peers, in turn, on this machine. "
        "Ratios are comparable between machines; absolute figures are not.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="B1,B5", help="these rows; default: all")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="append against a file, loggers, databases and servers at their own call, with one "
        "thread and with 64 producers, as a table of its own",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="short slices, five rounds, small logs: a rough measurement",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON too")
    parser.add_argument(
        "--dir", type=Path, help="where the files go; default: the file system of the checkout"
    )
    parser.add_argument(
        "--delay-us",
        type=int,
        metavar="N",
        help="delay each fdatasync of both sides by N microseconds (strace adds some more); makes "
        "targets about appends valid on a fast disk",
    )
    parser.add_argument("--delayed-us", type=int, help=argparse.SUPPRESS)  # the run below strace
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    return parser
