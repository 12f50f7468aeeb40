"""Compresses closed segments: each is replaced by a file that was checked to hold the same bytes.

Steps for one segment, in an order in which a crash after each is safe:

    flock `.closed.lock`         another compress, or a repair, waits
    sync the log directory       so that the next segment, which closes this one, stays
    write a hidden new file      frames, then length and SHA-256 of the raw bytes, then the table
    fdatasync; read it back      from the device: the same length, the same SHA-256
    rename; sync its directory   now two files hold the segment; the raw one counts
    unlink the raw file, sync    and other files of the segment

The new file goes to `logs/closed` where the operator made that directory, else beside the raw one.
Writers change only the last segment, so they never wait for this lock.

Invariant: at any moment the first path of a segment that exists is a durable file with all of it.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from eventlog.errors import EventLogError
from eventlog.figures import bytes_text, count_text
from eventlog.format.compressed import (
    FRAME_BYTES,
    FRAMES_MAX,
    Frame,
    compress_frame,
    encode_trailer,
    first_frame,
    table_entry,
)
from eventlog.format.line import LOST_PREFIX
from eventlog.format.segment import CLOSED_NAME, COMPRESSED_SUFFIX, segment_name
from eventlog.storage.atomic import set_aside, temporary_name
from eventlog.storage.disk import Disk, RealDisk, closing_fd, write_all
from eventlog.storage.durable_state import read_durable_state
from eventlog.storage.home import Home, home_at, list_segments, log_not_found
from eventlog.storage.locks import closed_segments_lock
from eventlog.storage.segment_disk import (
    SegmentDisk,
    compression_problem,
    existing_paths,
    opened_segment,
    refuse_unmounted,
    segment_sizes,
)

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 5.0  # a lock held for longer means a repair, or a long compress
_READ_BYTES = 1 << 20  # read back at a time


class _Content(NamedTuple):
    """The size and hash of a segment's raw bytes."""

    raw_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedSegment:
    """One segment that was compressed, or moved."""

    segment: str  # its name as a raw file
    raw_bytes: int
    disk_bytes: int
    sha256: str  # of the raw bytes
    kept_in: str  # the file that holds it now, relative to the log directory

    def to_json(self) -> dict[str, object]:
        """As in the report of `eventlog compress --json`."""
        return {
            "segment": self.segment,
            "raw_bytes": self.raw_bytes,
            "disk_bytes": self.disk_bytes,
            "sha256": self.sha256,
            "kept_in": self.kept_in,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSegment:
    """A segment that is left as it is, because an operator must decide about its damage."""

    segment: str
    problem: str

    def to_json(self) -> dict[str, object]:
        """As in the report of `eventlog compress --json`."""
        return {"segment": self.segment, "problem": self.problem}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressReport:
    """The result of a run."""

    compressed: tuple[CompressedSegment, ...]
    damaged: tuple[SkippedSegment, ...]
    segments: int
    raw_bytes: int  # of all segments, uncompressed
    disk_bytes: int  # of all segments, on disk now

    def to_text(self) -> list[str]:
        """The report as lines of text."""
        lines = [
            f"compressed {each.segment}: {bytes_text(each.raw_bytes)} take"
            f" {bytes_text(each.disk_bytes)} in {each.kept_in}"
            for each in self.compressed
        ]
        lines += [
            f"DAMAGED: {skipped.segment} stays: {skipped.problem}" for skipped in self.damaged
        ]
        lines.append(
            f"total: {count_text(self.segments, 'segment')}, {bytes_text(self.raw_bytes)} take"
            f" {bytes_text(self.disk_bytes)} on disk"
        )
        return lines

    def to_json(self) -> dict[str, object]:
        """The report of `eventlog compress --json`."""
        return {
            "compressed": [each.to_json() for each in self.compressed],
            "damaged": [skipped.to_json() for skipped in self.damaged],
            "segments": self.segments,
            "raw_bytes": self.raw_bytes,
            "disk_bytes": self.disk_bytes,
        }


class _Damaged(Exception):
    """The segment is left as it is. The text says why."""


def compress_log(
    home: str | os.PathLike[str],
    *,
    keep: int = 0,
    disk: Disk | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    progress: Callable[[int, int], object] | None = None,
) -> CompressReport:
    """Compresses the closed segments of the log at `home`, except the newest `keep`.

    `lock_timeout_s` is the wait for another compress or a repair. `progress` is called with the raw
    bytes done and the raw bytes in total. Other processes may use the log meanwhile; after a crash,
    run it again. Raises LogNotFound, LogLocked, LogCorrupt (a foreign file is among the segments),
    and EventLogError where the disk fails or the disk of closed segments is not mounted. After an
    error, segments that were compressed stay so.
    """
    disk = disk or RealDisk()
    log_home = home_at(home)
    done: list[CompressedSegment] = []
    damaged: list[SkippedSegment] = []
    try:
        segments = list_segments(SegmentDisk(disk), log_home)
        if not segments:
            raise log_not_found(log_home)
        refuse_unmounted(disk, log_home.log_dir)  # else the new files would go beside the raw ones
        chosen = _closed_segments(disk, log_home, segments)
        chosen = chosen[: max(0, len(chosen) - keep)]
        progress_sum = _ProgressSum(
            progress, segment_sizes(disk, map(log_home.segment_path, chosen))[0]
        )
        for segment in chosen:
            with closed_segments_lock(disk, log_home, lock_timeout_s):
                try:
                    compressed_segment = _SegmentCompression(
                        disk, log_home, segment, progress_sum
                    ).run()
                except _Damaged as why:
                    damaged.append(SkippedSegment(segment=segment_name(segment), problem=str(why)))
                else:
                    done += [compressed_segment] if compressed_segment is not None else []
        raw_bytes, disk_bytes = segment_sizes(disk, map(log_home.segment_path, segments))
    except OSError as error:
        raise EventLogError(
            f"a segment could not be compressed: {error.strerror or error}",
            where=error.filename or log_home.log_dir,
            do="nothing is lost, and the segment is unchanged: check the disk, then run it again",
        ) from error
    return CompressReport(
        compressed=tuple(done),
        damaged=tuple(damaged),
        segments=len(segments),
        raw_bytes=raw_bytes,
        disk_bytes=disk_bytes,
    )


def _closed_segments(disk: Disk, home: Home, segments: list[int]) -> list[int]:
    """The segments that are closed and durable: a later one has a durable end."""
    ends = [end.segment for end in read_durable_state(disk, home).ends]
    last = min(segments[-1], max(ends, default=segments[-1]))
    return [segment for segment in segments if segment < last]


class _ProgressSum:
    """Reports the progress over all segments."""

    def __init__(self, on_progress: Callable[[int, int], object] | None, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0

    def add(self, raw_bytes: int) -> None:
        self._done += raw_bytes
        if self._on_progress is not None:
            self._on_progress(min(self._done, self._total), self._total)


class _SegmentCompression:
    """Compresses one segment. The caller holds the lock."""

    def __init__(self, disk: Disk, home: Home, segment: int, progress_sum: _ProgressSum) -> None:
        self._disk = disk
        self._home = home
        self._path = home.segment_path(segment)
        self._name = segment_name(segment)
        self._progress_sum = progress_sum
        closed = f"{home.log_dir}/{CLOSED_NAME}"
        self._directory = closed if disk.is_dir(closed) else home.log_dir
        self._target_path = f"{self._directory}/{self._name}{COMPRESSED_SUFFIX}"
        new_name = temporary_name(f"{self._name}{COMPRESSED_SUFFIX}")
        self._new_path = f"{self._directory}/{new_name}"

    def run(self) -> CompressedSegment | None:
        """Returns None where the segment is compressed already. Raises _Damaged and OSError."""
        with suppress(FileNotFoundError):
            self._disk.unlink(self._new_path)  # of an interrupted run
        found_paths = existing_paths(self._disk, self._path)
        if (
            found_paths == [self._target_path]
            and compression_problem(self._disk, self._path) is None
        ):
            return None
        self._disk.fsync_dir(self._home.log_dir)
        if self._disk.link_target(self._directory) is not None:
            with suppress(PermissionError):  # it belongs to another account
                self._disk.fsync_dir(f"{self._directory}/..")
        source = found_paths[0]
        content = (
            self._verify_existing(source) if self._target_path in found_paths[1:] else None
        ) or self._write_verified(source)
        self._disk.fsync_dir(self._directory)
        for file_path in reversed(found_paths):  # the one that counts is removed last
            if file_path != self._target_path:
                self._remove(file_path, content, is_source=file_path == source)
        self._disk.fsync_dir(self._directory)
        self._disk.fsync_dir(self._home.log_dir)
        logger.info("segment_compressed segment=%s kept_in=%s", self._name, self._target_path)
        return CompressedSegment(
            segment=self._name,
            raw_bytes=content.raw_bytes,
            disk_bytes=segment_sizes(self._disk, [self._path])[1],
            sha256=content.sha256,
            kept_in=os.path.relpath(self._target_path, self._home.log_dir),
        )

    def _verify_existing(self, source: str) -> _Content | None:
        """The content of both files, where an interrupted run had renamed the new one already."""
        content = self._content(source)
        found = self._content(self._target_path)
        if content is not None and found == content:
            return content
        if found is not None:
            # Either may be an incomplete copy that was made by hand.
            names = f"{os.path.basename(source)} and {os.path.basename(self._target_path)}"
            raise _Damaged(f"{names} hold different bytes: move the wrong one away")
        set_aside(self._disk, self._target_path)
        return None

    def _write_verified(self, source: str) -> _Content:
        """Writes the new file, reads it back, and renames it."""
        try:
            content = self._write(source)
            if self._content(self._new_path) != content:
                raise OSError("what was written does not read back the same")
            self._disk.rename(self._new_path, self._target_path)
        except BaseException as error:
            with suppress(OSError):
                self._disk.unlink(self._new_path)
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = (
                    self._directory
                )  # a write error has none, and the disk may be another
            raise
        return content

    def _write(self, source: str) -> _Content:
        digest = sha256()
        frames: list[Frame] = []
        at = size = 0
        with closing_fd(self._disk, self._disk.create(self._new_path)) as out:
            for raw in self._read(source):
                packed = compress_frame(raw)
                write_all(self._disk, out, packed, at)
                at += len(packed)
                size += len(raw)
                digest.update(raw)
                frames.append(table_entry(packed, len(raw)))
                self._progress_sum.add(len(raw))
                if len(frames) > FRAMES_MAX:
                    raise OSError("the segment is too large to be compressed")
            content = _Content(size, digest.hexdigest())
            write_all(self._disk, out, encode_trailer(frames, *content), at)
            self._disk.fdatasync(out)
        return content

    def _read(self, source: str) -> Iterator[bytes]:
        """Yields the raw bytes of each frame."""
        with opened_segment(self._disk, source) as stored:
            at = 0
            while at < stored.size:
                data = stored.read(min(FRAME_BYTES, stored.size - at), at)
                if LOST_PREFIX in data:
                    # The rest of the segment must not replace the whole.
                    raise _Damaged("parts of it are lost: `eventlog repair --from BACKUP`")
                data = first_frame(data, is_rest=at + len(data) == stored.size)
                yield data
                at += len(data)

    def _content(self, file_path: str) -> _Content | None:
        """The content of a file, read from the device; None where its checksum is wrong."""
        digest = sha256()
        with opened_segment(self._disk, file_path, from_device=True) as stored:
            for at in range(0, stored.size, _READ_BYTES):
                digest.update(stored.read(_READ_BYTES, at))
            content = _Content(stored.size, digest.hexdigest())
            content_checksum = stored.content_checksum
        return content if content_checksum is None or content_checksum == content else None

    def _remove(self, file_path: str, content: _Content, *, is_source: bool) -> None:
        """Removes a file with the same content; any other is renamed and kept."""
        if is_source or self._content(file_path) == content:
            self._disk.unlink(file_path)
        else:
            set_aside(self._disk, file_path)
