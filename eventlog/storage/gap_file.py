"""The file of accepted gaps, `.accepted`: read, append, and check against the segments.

Invariant: a record is used only while the bytes it describes are those that were accepted.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import sha256

from eventlog.format.gap import AcceptedGap, decode_gaps, encode_gap
from eventlog.format.line import LINE_BYTES_MAX, BadLine, parse_header
from eventlog.format.segment import segment_seqs
from eventlog.storage.directory import read_small_file, too_large_error
from eventlog.storage.disk import Disk, closing_fd, open_or_create, opened, write_all
from eventlog.storage.home import Home

GAP_FILE_NAME = ".accepted"
GAP_FILE_BYTES_MAX = 16 << 20  # some 40,000 ranges, each of which a person has accepted
_CHUNK_BYTES = 1 << 20


class AcceptedGaps:
    """The accepted gaps of one log, for its reader. `given` replaces the content of the file."""

    def __init__(self, disk: Disk, home: Home, given: Sequence[AcceptedGap] | None = None) -> None:
        self._disk = disk
        self._home = home
        self._given = given

    def at(self, segment: int, byte_from: int, seq: int) -> AcceptedGap | None:
        """The gap that starts at that position, where a reader misses entry `seq`."""
        return self._first(gap for gap in self._all() if gap.starts_at(segment, byte_from, seq))

    def containing(self, seq: int) -> AcceptedGap | None:
        """The gap in which entry `seq` was lost."""
        return self._first(gap for gap in self._all() if gap.seq_from <= seq <= gap.seq_to)

    def first_lost(self, after: int) -> int | None:
        """The first entry after a seq that was lost; None where there is none."""
        lost = [gap for gap in self._all() if max(gap.seq_from, after + 1) <= gap.seq_to]
        found = self._first(sorted(lost, key=lambda gap: gap.seq_from))
        return None if found is None else max(found.seq_from, after + 1)

    def last_kept(self, until: int) -> int:
        """The last entry up to a seq that was not lost; 0 where there is none."""
        while until > 0 and (gap := self.containing(until)) is not None:
            until = gap.seq_from - 1
        return until

    def _first(self, gaps: Iterable[AcceptedGap]) -> AcceptedGap | None:
        for gap in gaps:
            segments = segment_seqs(self._disk.names(self._home.log_dir))
            if is_unchanged(self._disk, self._home, gap, segments):
                return gap
        return None

    def _all(self) -> Sequence[AcceptedGap]:
        # Read again each time: only damage needs it, and that may just have been accepted.
        return read_gaps(self._disk, self._home) if self._given is None else self._given


def read_gaps(disk: Disk, home: Home) -> list[AcceptedGap]:
    """All records, the newest first; none where nothing was ever accepted."""
    return decode_gaps(read_gap_file(disk, f"{home.log_dir}/{GAP_FILE_NAME}"))


def read_gap_file(disk: Disk, path: str, *, dir_fd: int | None = None) -> bytes:
    """The file's bytes; none where there is no file. Raises UnsafePath, OSError."""
    with suppress(FileNotFoundError):
        return read_small_file(disk, path, GAP_FILE_BYTES_MAX, dir_fd=dir_fd)
    return b""


def append_gaps(disk: Disk, home: Home, records: Iterable[AcceptedGap]) -> None:
    """Adds records, durably. Raises UnsafePath where there would be too many, OSError."""
    path = f"{home.log_dir}/{GAP_FILE_NAME}"
    with closing_fd(disk, open_or_create(disk, path)) as fd:
        size = disk.size(fd)
        data = b"".join(encode_gap(record) for record in records)
        if size + len(data) > GAP_FILE_BYTES_MAX:
            raise too_large_error(path, GAP_FILE_BYTES_MAX)
        if size and disk.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # half a record, left by a power loss, must not spoil ours
        write_all(disk, fd, data, size)
        disk.fdatasync(fd)
        disk.fsync_dir(home.log_dir)


def is_unchanged(disk: Disk, home: Home, gap: AcceptedGap, segments: Sequence[int]) -> bool:
    """Whether the bytes are still those that were accepted, so that no others are skipped."""
    if not gap.fits_between(segments):
        return False
    with (
        suppress(FileNotFoundError),
        opened(disk, home.segment_path(gap.segment)) as fd,
    ):
        if gap.byte_from == gap.byte_to:
            return not _starts_entry(disk, fd, gap.byte_from, gap.seq_from)
        return range_sha256(disk, fd, gap.byte_from, gap.byte_to) == gap.sha256
    return gap.byte_to == 0  # the segment itself was missing


def _starts_entry(disk: Disk, fd: int, byte_offset: int, seq: int) -> bool:
    """Whether a line with the header of entry `seq` starts there."""
    try:
        return parse_header(disk.pread(fd, LINE_BYTES_MAX, byte_offset)).seq == seq
    except BadLine:
        return False


def range_sha256(disk: Disk, fd: int, byte_from: int, byte_to: int) -> str:
    """SHA-256, in hex, of a range of a file, as far as the file goes."""
    digest = sha256()
    for at in range(byte_from, byte_to, _CHUNK_BYTES):
        data = disk.pread(fd, min(_CHUNK_BYTES, byte_to - at), at)
        if not data:
            break  # a record may name an end that no file has
        digest.update(data)
    return digest.hexdigest()
