"""B19 to B21: the mirror of a log, and a replica of it, beside NATS servers on the same machine.

The servers sync each message, on the disk on which the log is. So what they cost is in each figure,
where they would run on machines of their own.

Invariant: servers, daemons and loops end with their measurement.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

from eventlog import EventLog, EventLogError
from tools.benchmarks.jetstream import cluster, server
from tools.benchmarks.ours import Appender, build_log, command
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds
from tools.benchmarks.signals import Signals
from tools.benchmarks.visibility import WARM_SIGNALS, Poller, paced
from tools.nats_nodes import client_env

if TYPE_CHECKING:
    from eventlog.plumbing import StreamLine, StreamSettings

START_TIMEOUT_S = 30.0
CATCH_UP_TIMEOUT_S = 600.0
ROUND_LINES, ROUND_QUICK_LINES = 5_000, 1_000  # B19
PACED_S, PACED_QUICK_S = 4.0, 2.0  # of one round of B20
POLL_S = 0.001  # between two looks at the replica: more of them take its processor time away
BESIDE_APPENDS, BESIDE_QUICK_APPENDS = 200, 100  # of one slice of B21
BESIDE_PAUSE_S = 0.01  # between two of them: the mirror publishes meanwhile
CATCH_UP_LINES, CATCH_UP_QUICK_LINES = 200_000, 20_000
FILL_LINES = 5_000
SEGMENT_BYTES = 64 * 1024 * 1024


# -- B19


def mirror_against_publish_async(bench: Bench) -> Rounds:
    """B19: lines a second of the mirror, and of a loop that only publishes them."""
    _require_client()
    where = bench.fresh_dir("b19")
    count = ROUND_QUICK_LINES if bench.quick else ROUND_LINES
    with cluster(where) as urls:
        ours, peer = _settings("ours", urls), _settings("peer", urls)
        for settings in (ours, peer):
            _create(settings, replicas=3)
        home, signals = where / "home", Signals(seed=41)
        with EventLog(home, segment_bytes=SEGMENT_BYTES) as log:

            def mirror() -> float:
                log.append_many(signals.take(count))
                started_s = time.perf_counter()
                asyncio.run(_mirror_once(home, ours))
                return count / (time.perf_counter() - started_s)

            def publish() -> float:
                lines = _lines(home, log.last_seq - count)
                return count / asyncio.run(_publish_all(peer, lines))

            mirror(), publish()
            return bench.alternate(mirror, publish, rounds=bench.rounds_of_commands)


async def _mirror_once(home: Path, settings: StreamSettings) -> None:
    from projections.replication.mirror import MirrorProjection
    from projections.runtime.projector import Projector

    await Projector(home, MirrorProjection(settings)).run(once=True)


async def _publish_all(settings: StreamSettings, lines: list[StreamLine]) -> float:
    """Publishes lines with nats-py alone; returns the seconds until the last acknowledgement."""
    import nats

    client = await nats.connect(list(settings.urls))
    stream = client.jetstream()
    started_s = time.perf_counter()
    acks = [await stream.publish_async(settings.subject, line.line) for line in lines]
    await asyncio.gather(*acks)
    took_s = time.perf_counter() - started_s
    await client.close()
    return took_s


# -- B20


def visible_50_ms(bench: Bench) -> Rounds:
    """B20-50: p99 of each round, at 50 appends a second."""
    return _visible(bench, 50)


def visible_500_ms(bench: Bench) -> Rounds:
    """B20-500: the same at 500 a second."""
    return _visible(bench, 500)


def _visible(bench: Bench, rate: int) -> Rounds:
    where = bench.fresh_dir("b20")
    count = int(rate * (PACED_QUICK_S if bench.quick else PACED_S))
    found, medians, signals = [], [], Signals(seed=42)
    with _replicated(where) as (log, replica), closing(ReplicaPoller(replica)) as poller:
        paced(log, poller, signals, WARM_SIGNALS, 1 / rate)
        for number in range(ROUNDS_MIN):
            bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
            taken_s = paced(log, poller, signals, count, 1 / rate)
            found.append(1_000 * quantiles(taken_s, n=100)[98])
            medians.append(1_000 * median(taken_s))
    note = f"{ROUNDS_MIN} rounds of {count} appends, p50 {median(medians):.1f} ms"
    return Rounds(ours=tuple(found), note=note)


class ReplicaPoller(Poller):
    """Polls the durable end of a replica, and notes the time of each change."""

    def _poll(self) -> None:
        with EventLog(self._path) as log:
            last = 0
            while not self._is_closed:
                with suppress(EventLogError):  # there is no log yet
                    now = log.last_seq
                    if now > last:
                        last = now
                        self._seen.append((now, time.perf_counter()))
                time.sleep(POLL_S)


@contextmanager
def _replicated(where: Path) -> Iterator[tuple[EventLog, Path]]:
    """A log with its mirror, three servers, and a replica that follows."""
    _require_client()
    home, replica = where / "home", where / "replica"
    with ExitStack() as stack:
        urls = stack.enter_context(cluster(where))
        settings = _settings("main", urls)
        _create(settings, replicas=3)
        log = stack.enter_context(EventLog(home))
        log.append_many(Signals(seed=43).take(1))
        stack.enter_context(_daemon(settings, "--home", home, "project", "mirror"))
        stack.enter_context(_daemon(settings, "--home", replica, "follow"))
        yield log, replica


@contextmanager
def _daemon(settings: StreamSettings, *arguments: str | Path) -> Iterator[None]:
    process = subprocess.Popen(
        command(*arguments),
        env={**os.environ, **client_env(settings)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- B21


def append_beside_a_mirror(bench: Bench) -> Rounds:
    """B21-append: the median time of an append beside a mirror, and alone."""
    where = bench.fresh_dir("b21")
    count = BESIDE_QUICK_APPENDS if bench.quick else BESIDE_APPENDS
    (where / "ours").mkdir()
    with (
        _replicated(where / "ours") as (log, replica),
        closing(Appender(where / "alone", seed=44)) as alone,
        closing(ReplicaPoller(replica)) as poller,
    ):
        signals = Signals(seed=45)
        poller.wait_for(log.last_seq)

        def beside() -> float:
            taken_us = _paused_us(log, signals, count)
            poller.wait_for(log.last_seq)
            return taken_us

        def by_itself() -> float:
            return _paused_us(alone.log, signals, count)

        beside(), by_itself()
        return bench.alternate(beside, by_itself, rounds=bench.rounds_of_commands)


def _paused_us(log: EventLog, signals: Signals, count: int) -> float:
    """The median microseconds of an append, a pause after each."""
    took_s = []
    for signal in signals.take(count):
        started_s = time.perf_counter()
        log.append(signal)
        took_s.append(time.perf_counter() - started_s)
        time.sleep(BESIDE_PAUSE_S)
    return 1e6 * median(took_s)


def catch_up_against_consume(bench: Bench) -> Rounds:
    """B21-catch-up: lines a second into a new replica, and through a consumer that drops them.

    One server, which syncs nothing: reading is measured, and the stream is filled sooner.
    """
    _require_client()
    where = bench.fresh_dir("b21")
    count = CATCH_UP_QUICK_LINES if bench.quick else CATCH_UP_LINES
    bench.progress(f"making a stream of {count:,} lines")
    home = build_log(where / "home", count, segment_bytes=SEGMENT_BYTES)
    with server(where, sync_interval='"2m"') as url:
        settings = _settings("main", (url,))
        _create(settings, replicas=1)
        for after in range(0, count, FILL_LINES):
            asyncio.run(_append(settings, _lines(home, after, FILL_LINES)))

        def catch_up() -> float:
            replica = bench.fresh_dir("b21-replica") / "home"
            return count / asyncio.run(_follow_once(settings, replica))

        def consume() -> float:
            return count / asyncio.run(_consume(settings, count))

        return bench.alternate(catch_up, consume, rounds=ROUNDS_MIN)


async def _append(settings: StreamSettings, lines: list[StreamLine]) -> None:
    from eventlog.plumbing import open_stream

    engine = await open_stream(settings)
    await engine.append(lines, lambda _: None)
    await engine.close()


async def _follow_once(settings: StreamSettings, replica: Path) -> float:
    from eventlog.plumbing import Follower, ReplicaLog, open_stream

    started_s = time.perf_counter()
    follower = Follower(
        lambda: open_stream(settings), ReplicaLog.open(replica), stream=settings.name
    )
    await follower.run(asyncio.Event(), once=True)
    return time.perf_counter() - started_s


async def _consume(settings: StreamSettings, count: int) -> float:
    """The seconds in which an ordered consumer of nats-py receives all messages."""
    import nats
    from nats.aio.msg import Msg

    done, received = asyncio.Event(), 0

    async def take(_: Msg) -> None:
        nonlocal received
        received += 1
        if received >= count:
            done.set()

    started_s = time.perf_counter()
    client = await nats.connect(list(settings.urls))
    await client.jetstream().subscribe(
        settings.subject,
        stream=settings.stream,
        ordered_consumer=True,
        cb=take,
        pending_msgs_limit=-1,
        pending_bytes_limit=-1,
    )
    try:
        await asyncio.wait_for(done.wait(), CATCH_UP_TIMEOUT_S)
    except TimeoutError:
        raise NotMeasured(f"a bare consumer received {received:,} of {count:,}") from None
    took_s = time.perf_counter() - started_s
    await client.close()
    return took_s


# -- streams


def _require_client() -> None:
    for package in ("nats", "nkeys"):
        if find_spec(package) is None:
            raise NotMeasured(f"{package} is not installed: pip install -e '.[bench,nats]'")


def _settings(name: str, urls: tuple[str, ...]) -> StreamSettings:
    from eventlog.plumbing import StreamSettings

    return StreamSettings(name=name, urls=urls)


def _create(settings: StreamSettings, *, replicas: int) -> None:
    """Creates the stream, once the servers have elected a leader. Raises NotMeasured."""
    from eventlog.plumbing import create_stream

    stop_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            asyncio.run(create_stream(settings, replicas=replicas))
            return
        except EventLogError as error:
            if time.monotonic() > stop_s:
                raise NotMeasured(f"the stream cannot be created: {error}") from None
            time.sleep(0.2)


def _lines(home: Path, after: int, count: int | None = None) -> list[StreamLine]:
    """The lines of a log after a seq, as the mirror publishes them."""
    from eventlog.plumbing import StreamLine, segment_starts

    starts = segment_starts(home)
    with EventLog(home) as log:
        return [
            StreamLine(entry.seq, starts[bisect_right(starts, entry.seq) - 1], entry.line)
            for entry in islice(log.read(after=after), count)
        ]
