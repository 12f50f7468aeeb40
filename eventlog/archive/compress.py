"""Closed segments, compressed: each is replaced by a file that was proven to hold the same bytes.

Steps for one segment, in an order that each crash must find safe:

    flock `.closed.lock`         one at a time: another compress, or a repair, waits
    sync the log directory       that the segment is closed must not be taken back
    write a hidden new file      frames, then length and SHA-256 of the raw bytes, then the table
    fdatasync; read it back      from the device: the same length, the same SHA-256
    rename; sync its directory   from here on two files hold the segment; the raw one counts
    unlink the raw file, sync    only now, and what else stands in its other places

The new file goes to `logs/closed` where the operator made that directory, else beside the raw one.
Writers touch only the last segment, so nobody waits for us but who works on closed ones.

Invariant: at each moment a file that holds all of the segment, durably, stands at its first place.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from eventlog.errors import EventLogError
from eventlog.format.compressed import FRAME_BYTES, FRAMES_MAX, Frame, ending, frame_of, pack
from eventlog.format.line import LOST_MARK
from eventlog.format.segment import CLOSED_NAME, COMPRESSED_SUFFIX, segment_name
from eventlog.storage.atomic import set_aside
from eventlog.storage.disk import Disk, RealDisk, write_all
from eventlog.storage.durable_state import read_watermark, read_word
from eventlog.storage.home import Home, home_at, list_segments, no_log
from eventlog.storage.locks import closed_segments_held
from eventlog.storage.segment_disk import (
    Shelf,
    packaging_problem,
    reading,
    refuse_unmounted,
    sizes_of,
    standing,
)

logger = logging.getLogger(__name__)

_NEW_SUFFIX = ".new"
_READ_BYTES = 1 << 20  # read back at a time


class _Content(NamedTuple):
    """What a segment holds."""

    raw_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """One segment that was compressed, or moved."""

    segment: str  # the name with which it was written
    raw_bytes: int
    disk_bytes: int
    sha256: str  # of the raw bytes
    kept_in: str  # the file that holds it now, from the log directory

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
class Left:
    """A segment that is left as it is, for nobody but a person may choose what stays of it."""

    segment: str
    problem: str

    def to_json(self) -> dict[str, object]:
        """As in the report of `eventlog compress --json`."""
        return {"segment": self.segment, "problem": self.problem}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did."""

    compressed: tuple[Compressed, ...]
    damaged: tuple[Left, ...]
    segments: int
    raw_bytes: int  # of all segments, as they were written
    disk_bytes: int  # of all segments, as they are kept now

    def to_text(self) -> list[str]:
        """Lines for a person."""
        lines = [
            f"compressed {one.segment}: {one.raw_bytes} bytes are now {one.disk_bytes}"
            f" in {one.kept_in}"
            for one in self.compressed
        ]
        lines += [f"DAMAGED: {left.segment} stays: {left.problem}" for left in self.damaged]
        lines.append(
            f"{self.segments} segments of {self.raw_bytes} bytes take {self.disk_bytes} on disk"
        )
        return lines

    def to_json(self) -> dict[str, object]:
        """The report of `eventlog compress --json`."""
        return {
            "compressed": [one.to_json() for one in self.compressed],
            "damaged": [left.to_json() for left in self.damaged],
            "segments": self.segments,
            "raw_bytes": self.raw_bytes,
            "disk_bytes": self.disk_bytes,
        }


class _Damaged(Exception):
    """The segment is left as it is, and the text says why."""


def compress_log(
    path: str | os.PathLike[str],
    *,
    keep: int = 0,
    disk: Disk | None = None,
    lock_timeout_s: float,
    progress: Callable[[int, int], object] | None = None,
) -> Report:
    """Compresses the closed segments of the log at `path`, but for the newest `keep`.

    `progress` is called with the raw bytes done and those in all. It may be run beside everything
    else, and again after a crash. Raises LogNotFound, LogLocked, LogCorrupt (a foreign file stands
    among the segments) and EventLogError where the disk refuses, or that of closed segments is not
    mounted: what was done until then stays.
    """
    disk = disk or RealDisk()
    home = home_at(path)
    done: list[Compressed] = []
    damaged: list[Left] = []
    try:
        segments = list_segments(Shelf(disk), home)
        if not segments:
            raise no_log(home)
        refuse_unmounted(disk, home.log_dir)  # else they would go beside the raw ones
        chosen = _closed(disk, home, segments)
        chosen = chosen[: max(0, len(chosen) - keep)]
        progressed = _Progressed(progress, sizes_of(disk, map(home.segment_path, chosen))[0])
        for segment in chosen:
            with closed_segments_held(disk, home, lock_timeout_s):
                try:
                    one = _Work(disk, home, segment, progressed).run()
                except _Damaged as why:
                    damaged.append(Left(segment=segment_name(segment), problem=str(why)))
                else:
                    done += [one] if one is not None else []
        raw_bytes, disk_bytes = sizes_of(disk, map(home.segment_path, segments))
    except OSError as error:
        raise EventLogError(
            f"a segment could not be compressed: {error.strerror or error}",
            where=error.filename or home.log_dir,
            do="nothing is lost, for it stays as it was: see to the disk, then run it again",
        ) from error
    return Report(
        compressed=tuple(done),
        damaged=tuple(damaged),
        segments=len(segments),
        raw_bytes=raw_bytes,
        disk_bytes=disk_bytes,
    )


def _closed(disk: Disk, home: Home, segments: list[int]) -> list[int]:
    """Those that are closed and durable: behind them stands something that is durable."""
    said = (read_word(disk, home), read_watermark(disk, home))
    ends = [source.end.segment for source in said if source is not None]
    last = min(segments[-1], max(ends, default=segments[-1]))
    return [segment for segment in segments if segment < last]


class _Progressed:
    """Adds up what was done of all segments."""

    def __init__(self, tell: Callable[[int, int], object] | None, total: int) -> None:
        self._tell = tell
        self._total = total
        self._done = 0

    def add(self, raw_bytes: int) -> None:
        self._done += raw_bytes
        if self._tell is not None:
            self._tell(min(self._done, self._total), self._total)


class _Work:
    """The work on one segment, under the lock."""

    def __init__(self, disk: Disk, home: Home, segment: int, progressed: _Progressed) -> None:
        self._disk = disk
        self._home = home
        self._path = home.segment_path(segment)
        self._name = segment_name(segment)
        self._progressed = progressed
        closed = f"{home.log_dir}/{CLOSED_NAME}"
        self._directory = closed if disk.is_dir(closed) else home.log_dir
        self._goal = f"{self._directory}/{self._name}{COMPRESSED_SUFFIX}"
        self._new = f"{self._directory}/.{self._name}{COMPRESSED_SUFFIX}{_NEW_SUFFIX}"

    def run(self) -> Compressed | None:
        """Returns None where nothing was to do. Raises _Damaged and OSError."""
        with suppress(FileNotFoundError):
            self._disk.unlink(self._new)  # of a run that died
        stand = standing(self._disk, self._path)
        if stand == [self._goal] and packaging_problem(self._disk, self._path) is None:
            return None
        self._disk.fsync_dir(self._home.log_dir)
        if self._disk.link_target(self._directory) is not None:
            with suppress(PermissionError):  # not ours to sync
                self._disk.fsync_dir(f"{self._directory}/..")
        source = stand[0]
        content = (self._proven(source) if self._goal in stand[1:] else None) or self._make(source)
        self._disk.fsync_dir(self._directory)
        for place in reversed(stand):  # the one that counts goes last
            if place != self._goal:
                self._remove(place, content, is_source=place == source)
        self._disk.fsync_dir(self._directory)
        self._disk.fsync_dir(self._home.log_dir)
        logger.info("segment_compressed segment=%s kept_in=%s", self._name, self._goal)
        return Compressed(
            segment=self._name,
            raw_bytes=content.raw_bytes,
            disk_bytes=sizes_of(self._disk, [self._path])[1],
            sha256=content.sha256,
            kept_in=os.path.relpath(self._goal, self._home.log_dir),
        )

    def _proven(self, source: str) -> _Content | None:
        """What both hold, where a run that died had already put the new file in its place."""
        content = self._content(source)
        found = self._content(self._goal)
        if content is not None and found == content:
            return content
        if found is not None:
            # Either may be half a copy that somebody made by hand.
            names = f"{os.path.basename(source)} and {os.path.basename(self._goal)}"
            raise _Damaged(f"{names} hold different bytes: move the wrong one away")
        set_aside(self._disk, self._goal)
        return None

    def _make(self, source: str) -> _Content:
        """Writes the new file, reads it back, and puts it in its place."""
        try:
            content = self._write(source)
            if self._content(self._new) != content:
                raise OSError("what was written does not read back the same")
            self._disk.rename(self._new, self._goal)
        except BaseException as error:
            with suppress(OSError):
                self._disk.unlink(self._new)
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = self._directory  # a write has no name, and it may be another disk
            raise
        return content

    def _write(self, source: str) -> _Content:
        digest = sha256()
        frames: list[Frame] = []
        at = size = 0
        out = self._disk.create(self._new)
        try:
            for raw in self._read(source):
                packed = pack(raw)
                write_all(self._disk, out, packed, at)
                at += len(packed)
                size += len(raw)
                digest.update(raw)
                frames.append(frame_of(packed, len(raw)))
                self._progressed.add(len(raw))
                if len(frames) > FRAMES_MAX:
                    raise OSError("the segment is too large to be compressed")
            content = _Content(size, digest.hexdigest())
            write_all(self._disk, out, ending(frames, *content), at)
            self._disk.fdatasync(out)
        finally:
            self._disk.close(out)
        return content

    def _read(self, source: str) -> Iterator[bytes]:
        """The raw bytes in pieces that become frames, cut behind the last newline in each."""
        with reading(self._disk, source) as stored:
            at = 0
            while at < stored.size:
                data = stored.read(min(FRAME_BYTES, stored.size - at), at)
                if LOST_MARK in data:
                    # What is left of it must not become all that there is.
                    raise _Damaged("parts of it are lost: `eventlog repair --from BACKUP`")
                data = data[: data.rfind(b"\n") + 1] or data
                yield data
                at += len(data)

    def _content(self, place: str) -> _Content | None:
        """What a file holds, from the device; None where it is not wholly as it was made."""
        digest = sha256()
        with reading(self._disk, place, from_device=True) as stored:
            for at in range(0, stored.size, _READ_BYTES):
                digest.update(stored.read(_READ_BYTES, at))
            content = _Content(stored.size, digest.hexdigest())
            proof = stored.proof
        return content if proof is None or proof == content else None

    def _remove(self, place: str, content: _Content, *, is_source: bool) -> None:
        """Takes a file away that holds the same; one that does not is kept under another name."""
        if is_source or self._content(place) == content:
            self._disk.unlink(place)
        else:
            set_aside(self._disk, place)
