"""The layout of a compressed segment, `<segment>.zst`: see docs/format.md.

    file  := frame* proof table
    frame := a zstd frame of at most FRAME_BYTES raw bytes, cut behind a newline
    proof := a skippable frame: length and SHA-256 of the raw bytes, CRC-32 of the table
    table := a skippable frame: the seek table of the zstd seekable format

So `zstd -dc` gives the raw bytes, and a reader starts at any raw byte with the frame that holds it.

Where a frame is damaged, its raw bytes are replaced by lines of LOST_MARK in the same number: all
positions stay, and whoever reads them meets bytes that are no line, and that no crash can leave.
Where the table or the proof is damaged, the frames themselves tell what it said.

Invariant: what is read is what was compressed, byte for byte, or is marked as lost.
"""

import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple
from zlib import crc32

from eventlog.format.line import LOST_MARK

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


# Higher levels take several times as long and gain nothing: what is left of a line at this one is
# its hashes, which nothing makes smaller.
_OPTIONS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.checksum_flag: 1,
    zstd.CompressionParameter.content_size_flag: 1,
}
# 8 MiB: no frame of ours needs more, and no damaged header can ask for more.
_LIMITS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
_CHECKSUM_FLAG = 0x04  # in byte 4 of a frame, RFC 8878 section 3.1.1.1.1
PACKED_EXTRA_BYTES = 1024  # what zstd may add at most to 128 KiB that do not compress


class BadFrame(Exception):
    """The bytes are no frame of ours, or are damaged."""


def pack(data: bytes) -> bytes:
    """One frame with its content size and a checksum of the content."""
    return zstd.compress(data, options=_OPTIONS)


def unpack(frame: bytes, size: int) -> bytes:
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


def frame_sizes(data: bytes) -> tuple[int, int]:
    """How many bytes the frame at the start of `data` takes, and how many it holds, by its headers.

    Raises BadFrame where no whole frame stands there that says so.
    """
    try:
        size = zstd.get_frame_info(data).decompressed_size
        if size is not None:
            return zstd.get_frame_size(data), size
    except zstd.ZstdError:
        pass
    raise BadFrame


# Small, for a reader unpacks a whole frame for the one line that it wants; twice as much would
# save a hundredth of the space.
FRAME_BYTES = 128 * 1024
PACKED_BYTES_MAX = FRAME_BYTES + PACKED_EXTRA_BYTES
FRAMES_MAX = 1 << 20  # 128 GiB: a table that says more is damaged, and is not read into memory
FRAMES_KEPT = 4  # unpacked: what is read next is near by, or at the other end of a piece

_SKIPPABLE = struct.Struct("<II")  # magic, length of what follows
_PROOF_MAGIC, _TABLE_MAGIC = 0x184D2A50, 0x184D2A5E
_ENTRY = struct.Struct("<III")  # bytes in the file, raw bytes, checksum of the raw bytes
_FOOTER = struct.Struct("<IBI")  # number of frames, descriptor, magic
_HAS_CHECKSUMS, _FOOTER_MAGIC = 0x80, 0x8F92EAB1
_CHECKSUM_BYTES = 4  # with which a frame ends
_PROOF_TEXT = "1 {:020d} {} {:08x}"
_PROOF_BYTES = _SKIPPABLE.size + len(_PROOF_TEXT.format(0, "0" * 64, 0)) + len(" 00000000\n")
_LOST_LINE = LOST_MARK.ljust(63, b".") + b"\n"
_MENDED = "though nothing of it is lost: `eventlog compress` mends it"
_TABLE_PROBLEM = f"the seek table of the compressed segment is damaged, {_MENDED}"
_PROOF_PROBLEM = f"the length and hash in the compressed segment are damaged, {_MENDED}"
_CUT_PROBLEM = (
    "the compressed segment is cut, damaged at its end, or was not made by `eventlog compress`"
)

Pread = Callable[[int, int], bytes]  # length, offset


class Frame(NamedTuple):
    """One frame, as the table has it."""

    packed_bytes: int  # in the file
    raw_bytes: int
    checksum: int  # with which it ends: of its raw bytes


def frame_of(packed: bytes, raw_bytes: int) -> Frame:
    """The table's entry for a frame that holds so many raw bytes."""
    return Frame(len(packed), raw_bytes, int.from_bytes(packed[-_CHECKSUM_BYTES:], "little"))


class Proof(NamedTuple):
    """What the raw bytes were when they were compressed."""

    raw_bytes: int
    sha256: str
    table_crc: int


class _Sizes(NamedTuple):
    """Of all frames, in columns: a table is read anew for each piece of a log that is verified."""

    packed: tuple[int, ...]
    raw: tuple[int, ...]

    @property
    def is_possible(self) -> bool:
        """Whether a writer of ours could have made such frames."""
        return not self.raw or (
            max(self.packed) <= PACKED_BYTES_MAX
            and min(self.raw) > 0
            and max(self.raw) <= FRAME_BYTES
        )


class Layout(NamedTuple):
    """What a compressed segment holds."""

    frames: _Sizes
    proof: Proof | None  # None where it is damaged
    problem: str | None  # with the proof or the table


def ending(frames: Sequence[Frame], raw_bytes: int, sha256: str) -> bytes:
    """Proof and table of the frames."""
    entries = b"".join(_ENTRY.pack(*frame) for frame in frames)
    table = entries + _FOOTER.pack(len(frames), _HAS_CHECKSUMS, _FOOTER_MAGIC)
    table = _SKIPPABLE.pack(_TABLE_MAGIC, len(table)) + table
    text = _PROOF_TEXT.format(raw_bytes, sha256, crc32(table)).encode()
    text += b" %08x\n" % crc32(text)
    return _SKIPPABLE.pack(_PROOF_MAGIC, len(text)) + text + table


def read_layout(pread: Pread, size: int) -> Layout:
    """The layout of a file of `size` bytes, however damaged it is. Raises OSError."""
    table = _table_at_end(pread, size)
    if table is not None:
        table_bytes = _SKIPPABLE.size + _ENTRY.size * len(table.raw) + _FOOTER.size
        packed_bytes = size - _PROOF_BYTES - table_bytes
        if sum(table.packed) == packed_bytes:
            end = pread(_PROOF_BYTES + table_bytes, packed_bytes)
            proof = _proof_in(end[:_PROOF_BYTES])
            is_proven = proof is not None and proof.table_crc == crc32(end[_PROOF_BYTES:])
            if proof is not None and is_proven and proof.raw_bytes == sum(table.raw):
                return Layout(table, proof, None)
    return _layout_by_frames(pread, size, table)


def _table_at_end(pread: Pread, size: int) -> _Sizes | None:
    """What the seek table says, if one stands there that could be right."""
    least = _SKIPPABLE.size + _FOOTER.size
    if size < least:
        return None
    count, descriptor, magic = _FOOTER.unpack(pread(_FOOTER.size, size - _FOOTER.size))
    if (descriptor, magic) != (_HAS_CHECKSUMS, _FOOTER_MAGIC) or not count <= FRAMES_MAX:
        return None
    length = count * _ENTRY.size
    if size < least + length:
        return None
    data = pread(length, size - _FOOTER.size - length)
    numbers = struct.unpack(f"<{3 * count}I", data)
    found = _Sizes(numbers[0::3], numbers[1::3])
    return found if found.is_possible else None


def _proof_in(data: bytes) -> Proof | None:
    """The proof that these bytes hold, if they are one and undamaged."""
    head, text = data[: _SKIPPABLE.size], data[_SKIPPABLE.size :]
    if len(data) != _PROOF_BYTES or head != _SKIPPABLE.pack(_PROOF_MAGIC, len(text)):
        return None
    if text[-10:] != b" %08x\n" % crc32(text[:-10]):
        return None
    _, raw_bytes, sha256, table_crc, _ = text.decode("ascii").split(" ")
    return Proof(int(raw_bytes), sha256, int(table_crc, 16))


def _layout_by_frames(pread: Pread, size: int, table: _Sizes | None) -> Layout:
    """The layout as the frames themselves tell it, where proof and table do not agree."""
    frames = _walk(pread, size)
    proof = _proof_in(pread(_PROOF_BYTES, sum(frames.packed)))
    if proof is not None and proof.raw_bytes == sum(frames.raw):
        return Layout(frames, proof, _TABLE_PROBLEM)
    if proof is None and table == frames:
        return Layout(frames, None, _PROOF_PROBLEM)
    # Nothing tells how much is missing: it is marked, and the next segment says where it goes on.
    return Layout(_Sizes((*frames.packed, 0), (*frames.raw, len(_LOST_LINE))), None, _CUT_PROBLEM)


def _walk(pread: Pread, size: int) -> _Sizes:
    """The frames from the first byte on, as far as their headers are good."""
    found = _Sizes((), ())
    at = 0
    while at < size and len(found.raw) < FRAMES_MAX:
        try:
            packed, raw = frame_sizes(pread(PACKED_BYTES_MAX, at))
        except BadFrame:
            break
        if not _Sizes((packed,), (raw,)).is_possible:
            break
        found = _Sizes((*found.packed, packed), (*found.raw, raw))
        at += packed
    return found


class Raw:
    """The raw bytes of a compressed segment. Holds a few frames; may be used by threads."""

    def __init__(self, pread: Pread, size: int) -> None:
        frames, proof, self.problem = read_layout(pread, size)  # all raw bytes can be read
        self.proof = (proof.raw_bytes, proof.sha256) if proof is not None else None
        self._pread = pread
        self._starts = list(accumulate(frames.raw, initial=0))
        self._packed_starts = list(accumulate(frames.packed, initial=0))
        self._kept: tuple[tuple[int, bytes], ...] = ()  # the frames that were read last

    @property
    def size(self) -> int:
        """How many raw bytes there are."""
        return self._starts[-1]

    def read(self, length: int, offset: int) -> bytes:
        """`length` raw bytes at `offset`; fewer only where they end. Raises OSError."""
        end = min(offset + length, self.size)
        parts = []
        while offset < end:
            number = bisect_right(self._starts, offset) - 1
            start = self._starts[number]
            part = self._unpacked(number)[offset - start : end - start]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _unpacked(self, number: int) -> bytes:
        for kept, data in self._kept:
            if kept == number:
                return data
        start, stop = self._packed_starts[number : number + 2]
        size = self._starts[number + 1] - self._starts[number]
        try:
            data = unpack(self._pread(stop - start, start), size)
        except BadFrame:
            data = _lost(size)
        self._kept = ((number, data), *self._kept[: FRAMES_KEPT - 1])
        return data


def _lost(size: int) -> bytes:
    """What is read in place of `size` lost bytes: no writer makes such lines."""
    lines = max(0, size // len(_LOST_LINE) - 1)
    first = size - lines * len(_LOST_LINE)
    return LOST_MARK[: first - 1].ljust(first - 1, b".") + b"\n" + _LOST_LINE * lines
