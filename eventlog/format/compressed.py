"""Compressed segments, `<segment>.zst`: encoding, layout and random access; see docs/format.md.

    file  := frame* proof table
    frame := a zstd frame of FRAME_BYTES_MIN to FRAME_BYTES raw bytes; the last may hold fewer
    proof := a skippable frame: length and SHA-256 of the raw bytes, CRC-32 of the table
    table := a skippable frame: the seek table of the zstd seekable format

So `zstd -dc` gives the raw bytes, and a reader starts at any raw byte with the frame that holds it.

The raw bytes of a damaged frame are replaced by as many bytes of LOST_PREFIX lines. All positions
stay, and a reader meets bytes that are no line and that no crash can leave. If the table or the
proof is damaged, its content is derived from the frames.

Invariant: the bytes read are those that were compressed, or are marked as lost.
"""

import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple
from zlib import crc32

from eventlog.format.line import LINE_BYTES_MAX, LOST_PREFIX

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


# Higher levels take several times as long and gain nothing: what remains of a line at this level is
# its hashes, which do not compress.
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.checksum_flag: 1,
    zstd.CompressionParameter.content_size_flag: 1,
}
# 8 MiB: our frames need no more, and a damaged header cannot request more.
_LIMITS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_CHECKSUM_FLAG = 0x04  # in byte 4 of a frame, RFC 8878 section 3.1.1.1.1
FRAME_OVERHEAD_BYTES_MAX = 1024  # what zstd may add at most to 128 KiB that do not compress


class BadFrame(Exception):
    """The bytes are not a frame of ours, or are damaged."""


def compress_frame(data: bytes) -> bytes:
    """One frame with its content size and a checksum of the content."""
    return zstd.compress(data, options=_OPTIONS)


def decompress_frame(frame: bytes, size: int) -> bytes:
    """The content of a frame, which must be `size` bytes. Raises BadFrame."""
    if len(frame) < 5 or not frame[4] & _CHECKSUM_FLAG:
        raise BadFrame
    try:
        decompressor = zstd.ZstdDecompressor(options=_LIMITS)
        data = decompressor.decompress(frame, max_length=size + 1)
    except (zstd.ZstdError, MemoryError):
        raise BadFrame from None
    if not decompressor.eof or decompressor.unused_data or len(data) != size:
        raise BadFrame
    return data


def frame_sizes(data: bytes | memoryview) -> tuple[int, int]:
    """The compressed and the raw size of the frame at the start of `data`, by its headers.

    Raises BadFrame where there is no whole frame that states them.
    """
    try:
        size = zstd.get_frame_info(data).decompressed_size
        if size is not None:
            return zstd.get_frame_size(data), size
    except zstd.ZstdError:
        pass
    raise BadFrame


# Small, because a reader decompresses a whole frame for one line; twice as much would save one
# percent of the space.
FRAME_BYTES = 128 * 1024
# A frame ends before the first line that does not fit. Frames are so few that a file of frames
# without content, which another program made, cannot keep a reader busy.
FRAME_BYTES_MIN = FRAME_BYTES - LINE_BYTES_MAX + 1
COMPRESSED_FRAME_BYTES_MAX = FRAME_BYTES + FRAME_OVERHEAD_BYTES_MAX
FRAMES_MAX = 1 << 20  # 128 GiB: a table that states more is damaged, and is not read into memory
SCAN_BYTES = 1 << 20  # read at a time, where the sizes are taken from the frames
FRAMES_CACHED_MAX = 4  # decompressed: the next read is near by, or at the other end of a range

_SKIPPABLE = struct.Struct("<II")  # magic, length of what follows
_CONTENT_MAGIC, _TABLE_MAGIC = 0x184D2A50, 0x184D2A5E
_ENTRY = struct.Struct("<III")  # bytes in the file, raw bytes, checksum of the raw bytes
_FOOTER = struct.Struct("<IBI")  # number of frames, descriptor, magic
_HAS_CHECKSUMS, _FOOTER_MAGIC = 0x80, 0x8F92EAB1
_CHECKSUM_BYTES = 4  # with which a frame ends
_CONTENT_TEXT = "1 {:020d} {} {:08x}"
_CONTENT_BYTES = _SKIPPABLE.size + len(_CONTENT_TEXT.format(0, "0" * 64, 0)) + len(" 00000000\n")
_LOST_LINE = LOST_PREFIX.ljust(63, b".") + b"\n"
_REPAIR_HINT = "though nothing of it is lost: `eventlog compress` repairs it"
_TABLE_PROBLEM = f"the seek table of the compressed segment is damaged, {_REPAIR_HINT}"
_CONTENT_PROBLEM = f"the length and hash in the compressed segment are damaged, {_REPAIR_HINT}"
_TRUNCATED_PROBLEM = (
    "the compressed segment is cut, damaged at its end, or was not made by `eventlog compress`"
)

ReadAt = Callable[[int, int], bytes]  # length, offset


class Frame(NamedTuple):
    """One frame, as the table lists it."""

    compressed_bytes: int  # in the file
    raw_bytes: int
    checksum: int  # with which it ends: of its raw bytes


def first_frame(data: bytes, *, is_rest: bool) -> bytes:
    """The part of `data`, FRAME_BYTES of a segment or its rest, that the next frame holds.

    It ends after the last newline. The rest is one frame, and so is damage without a newline.
    """
    end = data.rfind(b"\n") + 1
    return data if is_rest or end < FRAME_BYTES_MIN else data[:end]


def table_entry(compressed: bytes, raw_bytes: int) -> Frame:
    """The table entry for a frame that holds `raw_bytes` raw bytes."""
    return Frame(
        len(compressed), raw_bytes, int.from_bytes(compressed[-_CHECKSUM_BYTES:], "little")
    )


class ContentChecksum(NamedTuple):
    """Length and hash of the raw bytes at the time of compression."""

    raw_bytes: int
    sha256: str
    table_crc: int


class _FrameSizes(NamedTuple):
    """Sizes of all frames, in columns: the table is read again for each range that is verified."""

    compressed: tuple[int, ...]
    raw: tuple[int, ...]

    @property
    def is_possible(self) -> bool:
        """Whether our writer could have made frames of these sizes."""
        return not self.raw or (
            max(self.compressed) <= COMPRESSED_FRAME_BYTES_MAX
            and min(self.raw) > 0
            and max(self.raw) <= FRAME_BYTES
            and min(self.raw[:-1], default=FRAME_BYTES_MIN) >= FRAME_BYTES_MIN
        )


class CompressedLayout(NamedTuple):
    """The frames of a compressed segment, and its content checksum."""

    frames: _FrameSizes
    content_checksum: ContentChecksum | None  # None where it is damaged
    problem: str | None  # with the proof or the table


def encode_trailer(frames: Sequence[Frame], raw_bytes: int, sha256: str) -> bytes:
    """Proof and table of the frames."""
    entries = b"".join(_ENTRY.pack(*frame) for frame in frames)
    table = entries + _FOOTER.pack(len(frames), _HAS_CHECKSUMS, _FOOTER_MAGIC)
    table = _SKIPPABLE.pack(_TABLE_MAGIC, len(table)) + table
    text = _CONTENT_TEXT.format(raw_bytes, sha256, crc32(table)).encode()
    text += b" %08x\n" % crc32(text)
    return _SKIPPABLE.pack(_CONTENT_MAGIC, len(text)) + text + table


def read_layout(pread: ReadAt, size: int) -> CompressedLayout:
    """The layout of a file of `size` bytes, however damaged it is. Raises OSError."""
    table = _read_seek_table(pread, size)
    if table is not None:
        table_bytes = _SKIPPABLE.size + _ENTRY.size * len(table.raw) + _FOOTER.size
        compressed_bytes = size - _CONTENT_BYTES - table_bytes
        if sum(table.compressed) == compressed_bytes:
            end = pread(_CONTENT_BYTES + table_bytes, compressed_bytes)
            content_checksum = _parse_content_checksum(end[:_CONTENT_BYTES])
            is_consistent = content_checksum is not None and content_checksum.table_crc == crc32(
                end[_CONTENT_BYTES:]
            )
            if (
                content_checksum is not None
                and is_consistent
                and content_checksum.raw_bytes == sum(table.raw)
            ):
                return CompressedLayout(table, content_checksum, None)
    return _layout_by_frames(pread, size, table)


def _read_seek_table(pread: ReadAt, size: int) -> _FrameSizes | None:
    """The seek table, if there is a plausible one."""
    bytes_min = _SKIPPABLE.size + _FOOTER.size
    if size < bytes_min:
        return None
    count, descriptor, magic = _FOOTER.unpack(pread(_FOOTER.size, size - _FOOTER.size))
    if (descriptor, magic) != (_HAS_CHECKSUMS, _FOOTER_MAGIC) or not count <= FRAMES_MAX:
        return None
    length = count * _ENTRY.size
    if size < bytes_min + length:
        return None
    data = pread(length, size - _FOOTER.size - length)
    numbers = struct.unpack(f"<{3 * count}I", data)
    found = _FrameSizes(numbers[0::3], numbers[1::3])
    return found if found.is_possible else None


def _parse_content_checksum(data: bytes) -> ContentChecksum | None:
    """The content checksum in `data`, if it is undamaged."""
    head, text = data[: _SKIPPABLE.size], data[_SKIPPABLE.size :]
    if len(data) != _CONTENT_BYTES or head != _SKIPPABLE.pack(_CONTENT_MAGIC, len(text)):
        return None
    if text[-10:] != b" %08x\n" % crc32(text[:-10]):
        return None
    _, raw_bytes, sha256, table_crc, _ = text.decode("ascii").split(" ")
    return ContentChecksum(int(raw_bytes), sha256, int(table_crc, 16))


def _layout_by_frames(pread: ReadAt, size: int, table: _FrameSizes | None) -> CompressedLayout:
    """The layout derived from the frames, where proof and table do not agree."""
    frames = _scan_frames(pread, size)
    content_checksum = _parse_content_checksum(pread(_CONTENT_BYTES, sum(frames.compressed)))
    if content_checksum is not None and content_checksum.raw_bytes == sum(frames.raw):
        return CompressedLayout(frames, content_checksum, _TABLE_PROBLEM)
    if content_checksum is None and table == frames:
        return CompressedLayout(frames, None, _CONTENT_PROBLEM)
    # How much is missing is unknown: it is marked, and the next segment's name gives the next seq.
    return CompressedLayout(
        _FrameSizes((*frames.compressed, 0), (*frames.raw, len(_LOST_LINE))),
        None,
        _TRUNCATED_PROBLEM,
    )


def _scan_frames(pread: ReadAt, size: int) -> _FrameSizes:
    """The frames from the first byte on, up to the first that our writer could not have made."""
    compressed: list[int] = []
    raw: list[int] = []
    for compressed_bytes, raw_bytes in _iter_frame_sizes(pread, size):
        follows_small_frame = bool(raw) and raw[-1] < FRAME_BYTES_MIN
        if follows_small_frame or not _FrameSizes((compressed_bytes,), (raw_bytes,)).is_possible:
            break
        compressed.append(compressed_bytes)
        raw.append(raw_bytes)
        if len(raw) == FRAMES_MAX:
            break
    return _FrameSizes(tuple(compressed), tuple(raw))


def _iter_frame_sizes(pread: ReadAt, size: int) -> Iterator[tuple[int, int]]:
    """Yields the sizes of each frame, up to the first bad header."""
    start = 0
    while start < size:
        data = memoryview(pread(SCAN_BYTES, start))
        if not data:
            return
        is_rest = start + len(data) >= size
        stop = len(data) if is_rest else max(1, len(data) - COMPRESSED_FRAME_BYTES_MAX)
        at = 0
        while at < stop:
            try:
                sizes = frame_sizes(data[at : at + COMPRESSED_FRAME_BYTES_MAX])
            except BadFrame:
                return
            yield sizes
            at += sizes[0]
        start += at


class CompressedReader:
    """Reads the raw bytes of a compressed segment. Caches a few frames; thread-safe."""

    def __init__(self, pread: ReadAt, size: int) -> None:
        frames, content_checksum, self.problem = read_layout(
            pread, size
        )  # all raw bytes can be read
        self.content_checksum = (
            (content_checksum.raw_bytes, content_checksum.sha256)
            if content_checksum is not None
            else None
        )
        self._pread = pread
        self._starts = list(accumulate(frames.raw, initial=0))
        self._compressed_starts = list(accumulate(frames.compressed, initial=0))
        self._cached: tuple[tuple[int, bytes], ...] = ()  # the frames that were read last

    @property
    def size(self) -> int:
        """The number of raw bytes."""
        return self._starts[-1]

    def read(self, length: int, offset: int) -> bytes:
        """`length` raw bytes at `offset`; fewer only where they end. Raises OSError."""
        end = min(offset + length, self.size)
        parts = []
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            start = self._starts[number]
            part = self._frame_content(number)[offset - start : end - start]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _frame_content(self, number: int) -> bytes:
        for cached_number, data in self._cached:
            if cached_number == number:
                return data
        start, stop = self._compressed_starts[number : number + 2]
        size = self._starts[number + 1] - self._starts[number]
        try:
            data = decompress_frame(self._pread(stop - start, start), size)
        except BadFrame:
            data = _lost_lines(size)
        self._cached = ((number, data), *self._cached[: FRAMES_CACHED_MAX - 1])
        return data


def _lost_lines(size: int) -> bytes:
    """The `size` bytes that stand for lost ones: lines that no writer makes."""
    lines = max(0, size // len(_LOST_LINE) - 1)
    first = size - lines * len(_LOST_LINE)
    return LOST_PREFIX[: first - 1].ljust(first - 1, b".") + b"\n" + _LOST_LINE * lines
