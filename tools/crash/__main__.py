"""`python -m tools.crash`: a long run of the crash explorer.

    --states N     check at least so many states, over all kinds of exploration
    --seed S       the seed of the random histories; it is printed, so a failure can be repeated
    --round R      run only this one of the random histories
    --mutant NAME  give the log this mistake first: the run must then fail

Exit code 1 means that the log did not survive a state.

Invariant: the seed and the round determine everything that happens.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import count
from secrets import randbelow

from tools.crash.check import Subject, simulation
from tools.crash.compressing import explore_compress
from tools.crash.copies import explore_copies, explore_killed_on_copies, explore_stale_records
from tools.crash.damages import sweep_damages
from tools.crash.exhaustive import explore, explore_takeovers
from tools.crash.explorer import Explorer, Failure
from tools.crash.flips import sweep
from tools.crash.inodes import File, Link
from tools.crash.mutants import MUTANTS
from tools.crash.random_histories import RandomHistory
from tools.crash.readers import explore_readers
from tools.crash.rejoins import explore_rejoin
from tools.crash.replicas import (
    explore_damaged_replica,
    explore_killed_replica,
    explore_replica,
)
from tools.crash.states import files_of

STATES_DEFAULT = 100_000
PROGRESS_S = 0.5  # between two updates of the progress line
BYTES_PRINTED_MAX = 200  # of one file of a state


class _Run:
    """One run and its progress."""

    def __init__(self, explorer: Explorer, seed: int) -> None:
        self._explorer = explorer
        self._seed = seed
        self._start_s = self._shown_s = time.monotonic()
        self.round: int | None = None  # the number of the random history that runs
        self.trace: deque[str] = deque()  # the last calls of that history

    def exhaust(self) -> None:
        """Runs the small histories, the flips and the other damages. Raises Failure."""
        explorer = self._explorer
        explore(explorer)
        explore_takeovers(explorer)
        explore_readers(explorer)
        print(f"{explorer.states} states of small histories: all recovered")
        counts = sweep(explorer.subject, all_bits=True)
        print(
            f"{counts.flips} flips: {counts.halted} stopped writer and reader, "
            f"{counts.only_reader} before the watermark stopped the reader alone, "
            f"{counts.harmless} hit one slot of the watermark, {counts.torn} hit the last batch "
            "without a watermark and were cut as torn, which is the accepted limit"
        )
        before = explorer.states
        explore_compress(explorer)
        print(f"{explorer.states - before} states of compressing: all read, all finished")
        before = explorer.states
        explore_copies(explorer)
        explore_killed_on_copies(explorer)
        explore_stale_records(explorer)
        print(f"{explorer.states - before} states of copied homes and of older lock records")
        before = explorer.states
        explore_replica(explorer)
        explore_killed_replica(explorer)
        explore_damaged_replica(explorer)
        print(f"{explorer.states - before} states of replicas: all became their primary's log")
        before = explorer.states
        explore_rejoin(explorer)
        print(f"{explorer.states - before} states of a rejoin: all were finished by the next one")
        print(f"{sweep_damages(explorer.subject).flips} other damages: none was cut or overlooked")

    def run_history(self, number: int) -> None:
        """Runs one random history. Raises Failure."""
        self.round = number
        history = RandomHistory(self._explorer, f"{self._seed}-{number}")
        self.trace = history.trace
        history.run()
        now_s = time.monotonic()
        if sys.stdout.isatty() and now_s - self._shown_s > PROGRESS_S:
            self._shown_s = now_s
            print(f"\rround {number}: {self.figures()} ", end="", flush=True)

    def figures(self) -> str:
        """The number of states so far, and the rate."""
        states = self._explorer.states
        elapsed_s = time.monotonic() - self._start_s
        return f"{states} states in {elapsed_s:.0f} s, {states / elapsed_s:.0f}/s"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.crash", description=__doc__)
    parser.add_argument("--states", type=int, default=STATES_DEFAULT)
    parser.add_argument("--seed", type=int, default=randbelow(1 << 32))
    parser.add_argument("--round", type=int)
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    args = parser.parse_args(arguments)
    print(f"seed {args.seed}", flush=True)
    subject = Subject()
    mutation = MUTANTS[args.mutant].applied(subject) if args.mutant else nullcontext(subject)
    with simulation(), mutation as changed:
        explorer = Explorer(changed, states_max=args.states)
        run = _Run(explorer, args.seed)
        try:
            if args.round is None:
                run.exhaust()
                for number in count():
                    if explorer.is_done:
                        break
                    run.run_history(number)
            else:
                run.run_history(args.round)
        except Failure as failure:
            print("\n".join(("", *run.trace)))
            _print_failure(failure)
            only = "" if run.round is None else f" --round {run.round}"
            mutant = f" --mutant {args.mutant}" if args.mutant else ""
            print(f"to repeat: python -m tools.crash --seed {args.seed}{only}{mutant}")
            return 1
        print(f"\n{run.figures()}, seed {args.seed}: no failure")
        return 0


def _print_failure(failure: Failure) -> None:
    print(f"\nFAILED at state {failure.states}: {failure}")
    for path, inode in files_of(failure.state) if failure.state else ():
        if isinstance(inode, File):
            print(
                f"{path}: {len(inode.device)} bytes, ending {inode.device[-BYTES_PRINTED_MAX:]!r}"
            )
        elif isinstance(inode, Link):
            print(f"{path} -> {inode.target}")
    if failure.__cause__ is not None and failure.__cause__.__cause__ is not None:
        print(f"caused by {failure.__cause__.__cause__!r}")


if __name__ == "__main__":
    sys.exit(main())
