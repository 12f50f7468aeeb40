"""B1-B5: appends, with full validation, against other ways to make a signal durable.

Invariant: both sides take the same signals in the same order from factories of one seed.
"""

from __future__ import annotations

from contextlib import closing

from tools.benchmarks import jetstream
from tools.benchmarks.ours import CALL_ENTRIES, Appender
from tools.benchmarks.peers import BareFile, SqliteFull
from tools.benchmarks.runner import Bench, NotMeasured, Rounds


def one_thread_against_the_disk(bench: Bench) -> Rounds:
    """B1: single appends, against the rate that the disk allows."""
    where = bench.fresh_dir("b1")
    with closing(Appender(where / "home")) as ours, closing(BareFile(where / "bare")) as peer:
        return bench.alternate(bench.rate(ours.one_thread), bench.rate(peer.work))


def producers_against_sqlite(bench: Bench) -> Rounds:
    """B2: concurrent appends that share an fdatasync, against SQLite."""
    where = bench.fresh_dir("b2")
    with closing(Appender(where / "home")) as ours, closing(SqliteFull(where / "peer.db")) as peer:
        return bench.alternate(bench.rate(ours.producers), bench.rate(peer.work))


def producers_against_jetstream(bench: Bench) -> Rounds:
    """B3: concurrent appends, against a log server."""
    where = bench.fresh_dir("b3")
    with (
        jetstream.server(where) as url,
        closing(jetstream.JetStream(url)) as peer,
        closing(Appender(where / "home")) as ours,
    ):
        return bench.alternate(bench.rate(ours.producers), bench.rate(peer.work))


def one_thread_against_eventsourcing(bench: Bench) -> Rounds:
    """B4: single appends, against what a user of eventsourcing calls: `Application.save`."""
    try:
        from tools.benchmarks.aggregates import SavedAggregates
    except ImportError as error:
        raise NotMeasured("eventsourcing is not installed: pip install -e '.[bench]'") from error
    where = bench.fresh_dir("b4")
    with (
        closing(Appender(where / "home")) as ours,
        closing(SavedAggregates(where / "peer.db")) as peer,
    ):
        return bench.alternate(bench.rate(ours.one_thread), bench.rate(peer.work))


def many_against_sqlite(bench: Bench) -> Rounds:
    """B5: many signals a call, against SQLite."""
    where = bench.fresh_dir("b5")
    with closing(Appender(where / "home")) as ours, closing(SqliteFull(where / "peer.db")) as peer:
        return bench.alternate(
            bench.rate(ours.many, step=CALL_ENTRIES),
            bench.rate(peer.work),
        )
