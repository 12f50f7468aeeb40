"""The segment builder: rebuilds segments from good lines of the log and of a backup.

A new segment is written beside the old one under a hidden name. It replaces the old one only when
every line of it continues the chain, from the line before it to the line after it, or to the end
that is known to be durable. The old file is kept as `<segment>.damaged`.

Invariant: a crash at any step leaves each segment as it was or whole.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import pairwise

from eventlog.errors import EventLogError
from eventlog.format.durability import LogEnd
from eventlog.format.line import LINE_BYTES_MAX, BadLine, stored_chain
from eventlog.format.scan import TIP_START, Tip, problem_of, scan, tip_of
from eventlog.format.segment import segment_index, segment_name, segment_seqs
from eventlog.read.lines import CHUNK_BYTES
from eventlog.read.seek import FoundLine, find_line, last_line
from eventlog.repair.rebuild_plan import BackupLines, OwnBytes, SegmentParts
from eventlog.storage.atomic import copy, create_replacing, free_name, set_aside, temporary_name
from eventlog.storage.disk import Disk, closing_fd, opened, read_file, write_all
from eventlog.storage.home import Home, list_segments
from eventlog.storage.segment_disk import existing_paths


class BackupInsufficient(Exception):
    """The backup lacks what a repair needs. The text says what."""


class BackupSegments:
    """Segments in another directory: a home, its logs/, or a copy of it. Raises EventLogError."""

    def __init__(self, disk: Disk, path: str) -> None:
        logs = f"{path.rstrip('/')}/logs"
        self._disk = disk
        self._path = logs if disk.is_dir(logs) else path
        try:
            self.segments = segment_seqs(disk.names(self._path))
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}") from None
        if not self.segments:
            raise self._unusable("holds no segment")

    def _unusable(self, why: str) -> EventLogError:
        return EventLogError(
            f"the backup {why}",
            where=self._path,
            do="nothing was changed: name a home, its logs directory, or a copy of it",
        )

    @contextmanager
    def opened_at(self, seq: int) -> Iterator[tuple[int, FoundLine]]:
        """Opens the segment with entry `seq` for a block; gives its descriptor and the line."""
        segment = self.segments[segment_index(self.segments, seq)]
        with opened(self._disk, f"{self._path}/{segment_name(segment)}") as fd:
            found = find_line(self._disk, fd, seq)
            if found is None:
                why = f"entry {seq} is not in the backup, or is damaged there too"
                raise BackupInsufficient(why)
            yield fd, found

    def line(self, tip: Tip) -> bytes:
        """The line that follows `tip`."""
        with self.opened_at(tip.seq + 1) as (fd, found):
            line = self._disk.pread(fd, found.byte_to - found.byte_from, found.byte_from)
        problem = problem_of(line, tip)
        if problem is not None:
            raise BackupInsufficient(f"the backup's entry {tip.seq + 1} {problem}")
        return line

    def chain_of(self, seq: int) -> str:
        """The chain of an entry, by its line."""
        with self.opened_at(seq) as (_, found):
            return found.tip.chain


class SegmentBuilder:
    """Builds consecutive segments beside the old ones, then replaces those."""

    def __init__(self, disk: Disk, home: Home, backup: BackupSegments, durable_end: LogEnd) -> None:
        self._disk = disk
        self._home = home
        self._backup = backup
        self._durable_end = durable_end
        self._tip = TIP_START
        self._ends_with_own_line = False  # the log's own last line proves all before it
        self._built: list[int] = []

    def build(self, segments: Mapping[int, SegmentParts]) -> None:
        """Writes and syncs the new files. Raises BackupInsufficient where the chain breaks."""
        own_segments = list_segments(self._disk, self._home)
        first, last = min(segments), max(segments)
        self._tip = self._tip_before(max((s for s in own_segments if s < first), default=0))
        self._ends_with_own_line = False
        for segment, parts in segments.items():
            self._built.append(segment)
            new_fd = create_replacing(self._disk, self._new_path(segment))
            with closing_fd(self._disk, new_fd) as out_fd:
                self._check_name(segment)
                for part in parts:
                    self._add_part(segment, part, out_fd)
                self._disk.fdatasync(out_fd)
        if not self._ends_with_own_line:
            self._check_following(min((s for s in own_segments if s > last), default=0))

    def common_start(self, segment: int) -> int:
        """The last segment, up to `segment`, before which the log and the backup agree."""
        own_segments = [s for s in list_segments(self._disk, self._home) if s <= segment]
        for before, start in reversed(list(pairwise([0, *own_segments]))):
            if not before or self._backup.chain_of(start - 1) == self._tip_before(before).chain:
                return start
        return segment

    def install(self) -> dict[int, str | None]:
        """Replaces the segments with those built. Returns the new name of each old file."""
        own_segments = list_segments(self._disk, self._home)
        kept_in = {s: self._keep_damaged(s) if s in own_segments else None for s in self._built}
        self._disk.fsync_dir(self._home.log_dir)
        for segment in self._built:
            self._disk.rename(self._new_path(segment), self._home.segment_path(segment))
        self._disk.fsync_dir(self._home.log_dir)
        for segment in self._built:  # other files of the segment are unused, perhaps damaged
            for unused in existing_paths(self._disk, self._home.segment_path(segment))[1:]:
                set_aside(self._disk, unused)
        return kept_in

    def clean_up(self) -> None:
        """Removes segments that were built and not installed."""
        for segment in self._built:
            with suppress(FileNotFoundError):
                self._disk.unlink(self._new_path(segment))
        self._built.clear()

    def _new_path(self, segment: int) -> str:
        return f"{self._home.log_dir}/{temporary_name(segment_name(segment))}"

    def _keep_damaged(self, segment: int) -> str:
        """Copies the damaged file: a crash between two renames would leave no segment at all."""
        name = segment_name(segment)
        new = f"{self._home.log_dir}/.{name}.kept"
        with (
            opened(self._disk, self._home.segment_path(segment)) as old,
            closing_fd(self._disk, create_replacing(self._disk, new)) as out_fd,
        ):
            copy(self._disk, old, out_fd, 0, self._disk.size(old), sha256(), lambda _: None)
        kept = free_name(f"{name}.damaged", self._disk.names(self._home.log_dir))
        self._disk.rename(new, f"{self._home.log_dir}/{kept}")
        return kept

    def _tip_before(self, segment: int) -> Tip:
        if not segment:
            return TIP_START
        with opened(self._disk, self._home.segment_path(segment)) as fd:
            line = last_line(self._disk, fd, self._disk.size(fd))
        try:
            return tip_of(line)
        except BadLine as error:
            raise BackupInsufficient(f"the last line of {segment_name(segment)} {error}") from None

    def _check_name(self, segment: int) -> None:
        if segment != self._tip.seq + 1:
            raise BackupInsufficient(
                f"{segment_name(segment)} would have to start with another entry"
            )

    def _check_following(self, following: int) -> None:
        """Checks that the segment after the new ones continues them."""
        if following:
            self._check_name(following)
            data = read_file(self._disk, self._home.segment_path(following), LINE_BYTES_MAX)
            line = data[: data.find(b"\n") + 1]
            problem = problem_of(line, self._tip) if line else None
            if problem is not None:
                why = f"entry {self._tip.seq + 1} of the log, which follows, {problem}"
                raise BackupInsufficient(why)
        elif self._tip.seq < self._durable_end.seq:
            raise BackupInsufficient(f"the log was durable up to entry {self._durable_end.seq}")

    def _add_part(self, segment: int, part: OwnBytes | BackupLines, out_fd: int) -> None:
        match part:
            case OwnBytes(byte_from, byte_to) if byte_from < byte_to:
                with opened(self._disk, self._home.segment_path(segment)) as fd:
                    self._copy_lines(fd, OwnBytes(byte_from, byte_to), None, out_fd)
            case BackupLines(_, seq_to):
                while self._tip.seq < seq_to:
                    with self._backup.opened_at(self._tip.seq + 1) as (fd, found):
                        span = OwnBytes(found.byte_from, self._disk.size(fd))
                        self._copy_lines(fd, span, seq_to, out_fd)

    def _copy_lines(self, fd: int, span: OwnBytes, seq_to: int | None, out_fd: int) -> None:
        """Copies lines up to a byte, or to an entry if that comes first."""
        at, byte_to = span
        source = "the log's" if seq_to is None else "the backup's"
        while at < byte_to and (seq_to is None or self._tip.seq < seq_to):
            data = self._disk.pread(fd, min(CHUNK_BYTES, byte_to - at), at)
            scanned = scan(data, self._tip)
            left = len(scanned.lines) if seq_to is None else seq_to - self._tip.seq
            lines = scanned.lines[:left]
            if lines:
                at += sum(map(len, lines))
                self._ends_with_own_line = seq_to is None
            elif seq_to is None and self._is_next(line := data[: data.find(b"\n") + 1]):
                # The chain before this line was unknown, so it was not checked. Now it is known.
                lines = [self._backup.line(self._tip)]
                at += len(line)
                self._ends_with_own_line = False
            else:
                problem = scanned.problem or "is cut off"
                raise BackupInsufficient(f"{source} entry {self._tip.seq + 1} {problem}")
            self._check_durable_entry(lines)
            write_all(self._disk, out_fd, b"".join(lines), self._disk.size(out_fd))
            self._tip = tip_of(lines[-1])

    def _is_next(self, line: bytes) -> bool:
        try:
            return tip_of(line).seq == self._tip.seq + 1
        except BadLine:
            return False

    def _check_durable_entry(self, lines: list[bytes]) -> None:
        index = self._durable_end.seq - self._tip.seq - 1
        if 0 <= index < len(lines) and stored_chain(lines[index]) != self._durable_end.chain:
            raise BackupInsufficient(
                f"entry {self._durable_end.seq} is not the one that was durable"
            )
