"""The table of `--peers`: our append against what people would pick instead, at their own call.

Invariant: ours and a peer are measured in turn, in one process, on one file system; a peer that
cannot be measured is a row with the reason.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from tools.benchmarks import peer_libraries, peer_servers
from tools.benchmarks.ours import Appender
from tools.benchmarks.peer_libraries import Callers, Send
from tools.benchmarks.runner import Bench, NotMeasured, Rounds, Work
from tools.benchmarks.signals import Signals


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One row: what a caller of the peer writes, and how to open it in an empty directory."""

    id: str
    what: str
    opened: Callable[[Path], AbstractContextManager[Callers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerResult:
    """A peer and its measurement; both rounds are None if it failed, and `why` is the reason."""

    peer: Peer
    one: Rounds | None = None  # one thread on each side
    many: Rounds | None = None  # 64 producers on each side
    why: str = ""
    took_s: float = 0.0
    fdatasync_ms: float = 0.0  # of the bare machine: the lower of before and after


PEERS: tuple[Peer, ...] = (
    Peer(
        id="open",
        what="open('a'), json.dumps, write and fsync under one lock; threads",
        opened=peer_libraries.opened_file,
    ),
    Peer(
        id="open-shared",
        what="the same with fsync after the lock, which the kernel can share; threads",
        opened=peer_libraries.opened_file_shared_sync,
    ),
    Peer(
        id="logging",
        what="logging, FileHandler whose emit ends with fsync, json.dumps; threads",
        opened=peer_libraries.logging_file,
    ),
    Peer(
        id="structlog",
        what="structlog, JSONRenderer, WriteLogger, fsync after its lock; threads",
        opened=peer_libraries.structlog_file,
    ),
    Peer(
        id="sqlite",
        what="SQLite WAL FULL, an INSERT of JSON and sha256 a commit, one lock; threads",
        opened=peer_libraries.sqlite_full,
    ),
    Peer(
        id="eventsourcing",
        what="eventsourcing, Application.save of an aggregate, SQLite; threads",
        opened=peer_libraries.eventsourcing_sqlite,
    ),
    Peer(
        id="redis",
        what="Redis XADD, appendfsync always, Unix socket; threads",
        opened=peer_servers.redis_stream,
    ),
    Peer(
        id="postgresql",
        what="PostgreSQL, asyncpg, an INSERT of jsonb and sha256 a commit, Unix socket; tasks",
        opened=peer_servers.postgresql,
    ),
    Peer(
        id="jetstream",
        what="NATS JetStream, sync_interval always, loopback; tasks",
        opened=peer_servers.nats_jetstream,
    ),
)


def chosen_peers(only: str) -> tuple[Peer, ...]:
    """The peers that `--only open,redis` names. An empty text names all.

    Raises ValueError for an unknown name.
    """
    names = [name.strip().lower() for name in only.split(",") if name.strip()]
    known = [peer.id for peer in PEERS]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no peer {name}; there are {', '.join(known)}")
    return tuple(peer for peer in PEERS if not names or peer.id in names)


def measure_peer(peer: Peer, bench: Bench, probe: Callable[[], float]) -> PeerResult:
    """Measures `append` and `append_async` against one peer; `probe` is that of `measure`."""
    where = bench.fresh_dir(peer.id)
    before_ms = probe()
    started_s = time.perf_counter()
    signals = Signals()

    def work(send: Send) -> Work:
        return lambda count: send(signals.take(count))

    try:
        with closing(Appender(where / "home")) as ours, peer.opened(where) as callers:
            one = bench.alternate(bench.rate(ours.one_thread), bench.rate(work(callers.one)))
            many = bench.alternate(bench.rate(ours.producers), bench.rate(work(callers.many)))
    except NotMeasured as reason:
        return PeerResult(peer=peer, why=str(reason), fdatasync_ms=before_ms)
    finally:
        shutil.rmtree(where, ignore_errors=True)  # all peers together would fill gigabytes
    took_s = time.perf_counter() - started_s
    lower_ms = min(before_ms, probe())
    return PeerResult(peer=peer, one=one, many=many, took_s=took_s, fdatasync_ms=lower_ms)
