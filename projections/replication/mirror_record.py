"""Writes `data/mirror.json`: the highest seq that the stream has acknowledged, and the state.

The checkpoint itself is the stream's last message. The record shows it where no server can be
reached, reveals a stream that ends below what it has acknowledged, and shows a waiter that an entry
is replicated.

Invariant: `acked` was acknowledged by the stream, and `lost_acked` never shrinks for one stream.
"""

import asyncio
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

from eventlog import EventLogError, UnsafePath
from eventlog.plumbing import (
    ACKED_NAME,
    RECORD_NAME,
    REPLICAS_MIN,
    MirrorRecord,
    StreamEnd,
    make_private_dir,
    read_mirror_record,
    run_in_thread,
    uncancelled,
    write_record,
)
from projections.errors import ProjectionError
from projections.run_directory import make_run_directory

logger = logging.getLogger(__name__)

# Between two writes: each one is a sync, and must not slow down the appends beside it. After a
# crash the record may be behind the stream by as much; the next start reads the stream.
WRITE_PAUSE_S = 0.5
ACKED_BYTES = 1024  # more than a record without error text: each write covers the one before it
_ACKED_FIELDS = tuple(each.name for each in fields(MirrorRecord) if each.name != "last_error")


class MirrorRecorder:
    """Holds the record in memory, and writes it soon after a change."""

    def __init__(self, home: Path, stream: str) -> None:
        self._home = home
        found = read_mirror_record(home)
        is_ours = found is not None and found.stream == stream
        self.record = found if found is not None and is_ours else MirrorRecord(stream=stream)
        self._written: MirrorRecord | None = self.record if is_ours else None
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()  # held by the one task that writes the file
        self._has_failed = False
        self._task: asyncio.Task[None] | None = None
        self._acked_fd = -1  # of the file that is written at each acknowledgement

    def start(self) -> None:
        """Starts writing. `close` ends it."""
        self._task = asyncio.create_task(self._write_changes(), name="mirror record")

    def set_acked(self, seq: int, chain: str) -> None:
        """Notes that the stream has acknowledged all lines up to `seq`, whose chain is `chain`."""
        if seq >= self.record.acked:
            self._set(replace(self.record, acked=seq, acked_chain=chain))
            self._write_acked()

    def set_state(self, state: str, error: str | None = None) -> None:
        """Notes the state, and why it is not MIRRORING."""
        self._set(replace(self.record, state=state, last_error=error))

    def set_looked(self, end: StreamEnd) -> None:
        """Notes which stream it is, how many servers are to hold it, and how many are up to date.

        Where they were too few once, they stay so until the stream is empty: a new server counts
        as up to date long before it has the older messages.
        """
        replicas, known = end.replicas, self.record.replicas
        if known is not None and known < REPLICAS_MIN and end.seq > 0:
            replicas = min(replicas, known)
        self._set(
            replace(
                self.record,
                replicas=replicas,
                replicas_current=end.replicas_current,
                created=end.created,
                looked=end.seq,
            )
        )

    def set_too_few_replicas(self, replicas: int) -> None:
        """Notes that the stream had too few servers, so that nothing counts as replicated."""
        self._set(replace(self.record, replicas=replicas))

    async def add_lost(self, end_seq: int, chain: str) -> None:
        """Notes that the stream holds nothing after `end_seq` of what it has acknowledged. Durable.

        Raises OSError and UnsafePath where that cannot be written; then nothing was noted.
        """
        lost = self.record.lost_acked + self.record.acked - end_seq
        async with self._writing:  # an older record must not be written after this one
            record = replace(self.record, acked=end_seq, acked_chain=chain, lost_acked=lost)
            await uncancelled(run_in_thread(lambda: self._store(record)))
            self._written = record
            self._set(replace(self.record, acked=end_seq, acked_chain=chain, lost_acked=lost))

    async def close(self) -> None:
        """Writes the last change."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._write()
        if self._acked_fd >= 0:
            os.close(self._acked_fd)
            self._acked_fd = -1

    def _write_acked(self) -> None:
        """Writes the record for waiters, in place and without a sync: it must cost next to nothing.

        Where it cannot be written, they see the record half a second later.
        """
        with suppress(OSError, UnsafePath, ProjectionError):
            if self._acked_fd < 0:
                path = make_run_directory(self._home) / ACKED_NAME
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                self._acked_fd = os.open(path, flags, 0o600)
            # Not by `asdict`, which copies each value: this is done some hundred times a second.
            shown = {name: getattr(self.record, name) for name in _ACKED_FIELDS}
            os.pwrite(self._acked_fd, json.dumps(shown).encode().ljust(ACKED_BYTES), 0)

    def _set(self, record: MirrorRecord) -> None:
        self.record = record
        if record != self._written:
            self._changed.set()

    async def _write_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._write()
            await asyncio.sleep(WRITE_PAUSE_S)

    async def _write(self) -> None:
        """Writes the record where it has changed. A full disk, for example, stops no mirror."""
        async with self._writing:
            record = self.record
            if record == self._written:
                return
            try:
                await uncancelled(run_in_thread(lambda: self._store(record)))
            except (OSError, UnsafePath) as error:
                if not self._has_failed:
                    path = self._home / "data" / RECORD_NAME
                    logger.warning("mirror_record_not_written path=%s error=%s", path, error)
                self._has_failed = True
            except EventLogError:
                pass  # no thread is left: written at the next change
            else:
                self._written, self._has_failed = record, False

    def _store(self, record: MirrorRecord) -> None:
        """Replaces the file, durably. Raises OSError, UnsafePath."""
        data_dir = self._home / "data"
        with suppress(FileExistsError):
            make_private_dir(data_dir)  # not the home, which may have been moved
        write_record(data_dir, RECORD_NAME, asdict(record))
