"""The table of targets: each with its peer, the mark that must be reached, and the goal.

Invariant: ids are unique; a target is added by one row here and one function that measures it.
"""

from __future__ import annotations

from tools.benchmarks import (
    appending,
    commands,
    daemon_cost,
    delivering,
    long_log,
    processes,
    rebuilding,
    visibility,
)
from tools.benchmarks.runner import Target

TARGETS: tuple[Target, ...] = (
    Target(
        id="B1",
        what="append, one thread",
        peer="bare write + fdatasync of the same bytes",
        unit="/s",
        mark=0.7,
        goal=0.85,
        about_appends=True,
        run=appending.one_thread_against_the_disk,
    ),
    Target(
        id="B2",
        what="append_async, 64 producers",
        peer="SQLite WAL FULL, one INSERT a commit",
        unit="/s",
        mark=6,
        goal=10,
        about_appends=True,
        run=appending.producers_against_sqlite,
    ),
    Target(
        id="B3",
        what="append_async, 64 producers",
        peer="JetStream sync always, 64 publishers",
        unit="/s",
        mark=6,
        goal=10,
        about_appends=True,
        run=appending.producers_against_jetstream,
    ),
    Target(
        id="B4",
        what="append, one thread",
        peer="eventsourcing's Application.save of an aggregate with one event, SQLite",
        unit="/s",
        mark=1.1,
        goal=1.4,
        about_appends=True,
        run=appending.one_thread_against_eventsourcing,
    ),
    Target(
        id="B5",
        what="append_many, 1,000 a call",
        peer="SQLite WAL FULL, one INSERT a commit",
        unit="/s",
        mark=10,
        goal=18,
        about_appends=True,
        run=appending.many_against_sqlite,
    ),
    Target(
        id="B6",
        what="four processes of 16 threads on one log",
        peer="one process of 64 threads",
        unit="/s",
        mark=0.6,
        goal=1,
        about_appends=True,
        run=processes.processes_against_threads,
    ),
    Target(
        id="B7",
        what="rebuild-database, the whole command",
        peer="sqlite3 shell: .import, INSERT ... SELECT by JSON operators",
        unit="/s",
        mark=1,
        goal=2.5,
        run=rebuilding.against_the_shell,
    ),
    Target(
        id="B8",
        what="rebuild-database, the whole command",
        peer="sqlite-utils insert --nl",
        unit="/s",
        mark=3,
        goal=8,
        run=rebuilding.against_sqlite_utils,
    ),
    Target(
        id="B9",
        what="rebuild-database, the whole command",
        peer="INSERT ... SELECT from typed tables",
        unit="/s",
        mark=0.25,
        goal=0.7,
        run=rebuilding.against_a_typed_copy,
    ),
    Target(
        id="B10",
        what="verify, the whole command",
        peer="one process, orjson.loads and sha256 of each line",
        unit="/s",
        mark=1,
        goal=2.5,
        run=commands.verify_against_parse_and_hash,
    ),
    Target(
        id="B11-p50",
        what="append returned -> row visible to another connection, median",
        peer="the clock",
        unit="ms",
        mark=10,
        goal=3,
        better="lower",
        of="ours",
        run=visibility.median_ms,
    ),
    Target(
        id="B11-p99",
        what="append returned -> row visible to another connection, p99",
        peer="the clock",
        unit="ms",
        mark=50,
        goal=15,
        better="lower",
        of="ours",
        run=visibility.p99_ms,
    ),
    Target(
        id="B12",
        what="delivery to the reference Alpine by the daemon",
        peer="a bare httpx loop, ten in flight",
        unit="/s",
        mark=0.8,
        goal=0.95,
        run=delivering.daemon_against_bare_loop,
    ),
    Target(
        id="B13",
        what="one durable append, log of 2,000,000 entries",
        peer="log of 2,000 entries",
        unit="ms",
        mark=1.1,
        goal=1.02,
        better="lower",
        about_appends=True,
        run=long_log.append_against_a_short_log,
    ),
    Target(
        id="B13-open",
        what="opening a log of 2,000,000 entries",
        peer="the clock",
        unit="ms",
        mark=100,
        goal=30,
        better="lower",
        of="ours",
        run=long_log.opening,
    ),
    Target(
        id="B14",
        what="rebuild of 2,000,000 entries",
        peer="rebuild of 200,000",
        unit="s",
        mark=12,
        goal=10.5,
        better="lower",
        run=rebuilding.of_a_long_log,
    ),
    Target(
        id="B14-memory",
        what="memory of a rebuild of 2,000,000 entries, all processes",
        peer="the limit",
        unit="MB",
        mark=300,
        goal=200,
        better="lower",
        of="ours",
        run=rebuilding.memory_of_a_long_log,
    ),
    Target(
        id="B15-help",
        what="eventlog --help",
        peer="python -c 'import click'",
        unit="ms",
        mark=3,
        goal=2,
        better="lower",
        run=commands.help_against_import_click,
    ),
    Target(
        id="B15-status",
        what="eventlog status, 2,000,000 entries",
        peer="python -c 'import click'",
        unit="ms",
        mark=3,
        goal=2,
        better="lower",
        run=commands.status_against_import_click,
    ),
    Target(
        id="B15-wakeups",
        what="wakeups of an idle daemon",
        peer="the limit",
        unit="/s",
        mark=60,
        goal=55,
        better="lower",
        of="ours",
        run=daemon_cost.idle_wakeups,
    ),
    Target(
        id="B15-idle",
        what="processor time of an idle daemon",
        peer="the limit",
        unit="% of a core",
        mark=0.3,
        goal=0.2,
        better="lower",
        of="ours",
        run=daemon_cost.idle_percent,
    ),
    Target(
        id="B15-homes",
        what="the same for each home, 20 homes at one time",
        peer="the limit",
        unit="% of a core",
        mark=0.3,
        goal=0.2,
        better="lower",
        of="ours",
        run=daemon_cost.idle_percent_of_many,
    ),
    Target(
        id="B15-load",
        what="processor time of a daemon a signal, 1,000 signals a second",
        peer="the limit",
        unit="us",
        mark=300,
        goal=271,
        better="lower",
        of="ours",
        run=daemon_cost.load_us,
    ),
)


def chosen(only: str) -> tuple[Target, ...]:
    """The targets that `--only B1,B13` names; B13 includes B13-open. An empty text names all.

    Raises ValueError for an unknown name.
    """
    names = [name.strip().upper() for name in only.split(",") if name.strip()]
    for name in names:
        if not any(_named(target, name) for target in TARGETS):
            known = ", ".join(target.id for target in TARGETS)
            raise ValueError(f"there is no target {name}; there are {known}")
    return tuple(target for target in TARGETS if not names or any(_named(target, n) for n in names))


def _named(target: Target, name: str) -> bool:
    whole = target.id.upper()
    return name in (whole, whole.partition("-")[0])
