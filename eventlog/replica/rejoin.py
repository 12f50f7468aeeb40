"""Cuts a log where a stream left it, so that the home can follow that stream.

    flock .closed.lock, .lock     no other process compresses or appends meanwhile
    sync and read the log         from the device
    write forked-<seq>.aside      all lines after the fork, durable before anything is cut
    lock record := writing        with the fork as durable end
    rewrite both watermarks       to the fork: from here on a shorter log is no damage
    remove later segments         the last one first, each durably, so that no gap can remain
    truncate the fork's segment
    lock record := clean
    write .replica                .fenced stays until the replica has caught up

A crash at any step leaves a log that ends between the fork and its old end, with a file that holds
what was cut. The next run finds the same fork and completes it.

Invariant: no line is removed before a file with it is durable, and no such file is ever replaced.
"""

import os
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from eventlog.append.recovery import cut_torn_tail, find_end, sync_to_device
from eventlog.errors import EventLogError, LogDiverged
from eventlog.format.durability import CLEAN, WRITING, LogEnd
from eventlog.read.reader import LogReader
from eventlog.replica.fork import LOCK_TIMEOUT_S
from eventlog.storage.atomic import (
    CHUNK_BYTES,
    create_replacing,
    free_name,
    replacing,
    temporary_name,
    write_range,
)
from eventlog.storage.disk import Disk, RealDisk, closing_fd, opened, size_of, write_all
from eventlog.storage.durable_state import rewrite_watermarks
from eventlog.storage.fence_file import has_fence
from eventlog.storage.gap_file import read_gaps
from eventlog.storage.home import Home, home_at, list_segments
from eventlog.storage.locks import WriterLock, closed_segments_lock
from eventlog.storage.replica_file import ReplicaState, write_replica_state
from eventlog.storage.segment_disk import SegmentDisk, existing_paths


class SetAside(NamedTuple):
    """The lines after the fork."""

    entries: int  # that this run has cut
    paths: tuple[str, ...]  # files with lines after the fork, of this run and of earlier ones


def cut_log(
    path: str | os.PathLike[str],
    fork_seq: int,
    chain: str,
    state: ReplicaState,
    *,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    disk: Disk | None = None,
    pid: int | None = None,
) -> SetAside:
    """Makes the fenced home at `path` a replica whose log ends with this entry.

    The fence stays: see `fork.end_fence`.

    Raises LogDiverged where the log does not hold that entry, LogCorrupt, LogLocked, and
    EventLogError where the home is not fenced, has accepted damage after the fork, or the disk
    fails. After an error it can be run again.
    """
    disk = SegmentDisk(disk or RealDisk())
    home = home_at(path)
    pid = os.getpid() if pid is None else pid
    lock = WriterLock(disk, home, pid=pid, timeout_s=lock_timeout_s, creates_home=False)
    try:
        with closed_segments_lock(disk, home, lock_timeout_s):
            try:
                lock.take()
                return _Cut(disk, home, lock).run(fork_seq, chain, state)
            finally:
                lock.drop()
    except OSError as error:
        raise EventLogError(
            f"the log could not be cut: {error.strerror or error}",
            where=error.filename or home.log_dir,
            do="nothing is lost: check the disk, then run `eventlog rejoin` again",
        ) from error


def aside_paths(
    path: str | os.PathLike[str], seq: int | None = None, *, disk: Disk | None = None
) -> list[str]:
    """The files with lines that were cut after entry `seq`, or after any entry; by name."""
    home = home_at(path)
    first = r"forked-[0-9]+\.aside" if seq is None else re.escape(_aside_name(seq))
    form = re.compile(rf"{first}(\..*)?")
    names = (disk or RealDisk()).names(home.log_dir)
    return [f"{home.log_dir}/{name}" for name in sorted(names) if form.fullmatch(name)]


class _Cut:
    """One run, under the lock."""

    def __init__(self, disk: Disk, home: Home, lock: WriterLock) -> None:
        self._disk = disk
        self._home = home
        self._lock = lock

    def run(self, fork_seq: int, chain: str, state: ReplicaState) -> SetAside:
        self._require_fenced()
        sync_to_device(self._disk, self._home)
        self._cut_torn()
        end = self._end_at(fork_seq, chain)
        entries = self._set_aside(end)
        self._cut(end)
        write_replica_state(self._disk, self._home, state)
        return SetAside(entries, tuple(aside_paths(self._home.root, fork_seq, disk=self._disk)))

    def _require_fenced(self) -> None:
        if not has_fence(self._disk, self._home):
            raise EventLogError(
                "this home is not fenced, and may be the primary",
                where=self._home.root,
                do="nothing was changed",
            )

    def _cut_torn(self) -> None:
        """Saves and cuts a write that was never acknowledged, as any writer does."""
        found = find_end(self._disk, self._home, None)
        if found.torn_bytes:
            end = LogEnd(*found.position, found.tip.seq, found.tip.chain)
            self._lock.write_state(WRITING, end)
            cut_torn_tail(self._disk, self._home, end, found.torn_bytes)

    def _end_at(self, fork_seq: int, chain: str) -> LogEnd:
        """The end of the log after the cut."""
        if any(gap.seq_to > fork_seq for gap in read_gaps(self._disk, self._home)):
            raise EventLogError(
                "the log has accepted damage after the fork, and cannot be cut there",
                where=self._home.log_dir,
                do="nothing was changed: follow the stream with a new home, and keep this one",
            )
        with closing(self._reader(fork_seq)) as reader:
            if (reader.tip.seq, reader.tip.chain) != (fork_seq, chain):
                raise LogDiverged(
                    f"the log does not hold entry {fork_seq} of the stream",
                    where=self._home.log_dir,
                    do="nothing was changed: run `eventlog rejoin` again",
                )
            return LogEnd(*reader.position, fork_seq, chain)

    def _reader(self, after: int) -> LogReader:
        return LogReader(self._disk, self._home, after=after, holds_lock=True)

    # -- setting aside

    def _set_aside(self, end: LogEnd) -> int:
        """Writes the lines after `end` to a file of their own; returns how many there are.

        A file of an interrupted run that begins with them is kept, and no other one is made.
        """
        log_dir, name = self._home.log_dir, _aside_name(end.seq)
        new = f"{log_dir}/{temporary_name(name)}"
        try:
            entries, size = self._write_lines_after(end.seq, new)
        except BaseException:
            with suppress(OSError):
                self._disk.unlink(new)  # it would keep a full disk full for the next run
            raise
        paths = aside_paths(self._home.root, end.seq, disk=self._disk)
        if not entries or any(self._begins_with(path, new, size) for path in paths):
            self._disk.unlink(new)
        else:
            self._disk.rename(new, f"{log_dir}/{free_name(name, self._disk.names(log_dir))}")
        self._disk.fsync_dir(log_dir)
        return entries

    def _write_lines_after(self, seq: int, path: str) -> tuple[int, int]:
        """Writes these lines to a new file, durably; returns how many, and how many bytes."""
        entries, size = 0, 0
        with closing_fd(self._disk, create_replacing(self._disk, path)) as fd:
            for lines in self._lines_after(seq):
                data = b"".join(lines)
                write_all(self._disk, fd, data, size)
                entries, size = entries + len(lines), size + len(data)
            self._disk.fdatasync(fd)
        return entries, size

    def _lines_after(self, seq: int) -> Iterator[list[bytes]]:
        with closing(self._reader(seq)) as reader:
            while lines := reader.read():
                yield lines

    def _begins_with(self, path: str, other: str, size: int) -> bool:
        """Whether a file begins with the `size` bytes of another one."""
        with opened(self._disk, path) as fd, opened(self._disk, other) as other_fd:
            return all(
                self._disk.pread(fd, min(CHUNK_BYTES, size - at), at)
                == self._disk.pread(other_fd, min(CHUNK_BYTES, size - at), at)
                for at in range(0, size, CHUNK_BYTES)
            )

    # -- cutting

    def _cut(self, end: LogEnd) -> None:
        self._lock.forget_segment()
        self._lock.write_state(WRITING, end)
        rewrite_watermarks(self._disk, self._home, end)
        for segment in reversed(list_segments(self._disk, self._home)):
            if segment > end.segment:
                self._remove(existing_paths(self._disk, self._home.segment_path(segment)))
        self._shorten(self._home.segment_path(end.segment), end.byte_offset)
        self._lock.forget_segment()
        self._lock.write_state(CLEAN, end)

    def _remove(self, paths: list[str]) -> None:
        for path in paths:
            self._disk.unlink(path)
            self._disk.fsync_dir(os.path.dirname(path))

    def _shorten(self, path: str, size: int) -> None:
        """Cuts the segment at `path` to `size`; a stored one becomes raw again for that."""
        if size_of(self._disk, path) > size:
            if self._disk.identity_at(path) is None:
                directory, name = os.path.split(path)
                with (
                    opened(self._disk, path) as source,
                    replacing(self._disk, directory, name) as out,
                ):
                    write_range(self._disk, source, out, 0, size, lambda _: None)
                    self._disk.fdatasync(out)
            else:
                with opened(self._disk, path, writable=True) as fd:
                    self._disk.truncate(fd, size)
                    self._disk.fdatasync(fd)
        if self._disk.identity_at(path) is not None:
            # A stored copy holds the same lines, and those that were cut.
            self._remove([other for other in existing_paths(self._disk, path) if other != path])


def _aside_name(seq: int) -> str:
    """The name of the file with the lines after entry `seq`."""
    return f"forked-{seq + 1}.aside"
