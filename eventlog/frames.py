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
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple
from zlib import crc32

from eventlog.codec import PACKED_EXTRA_BYTES, BadFrame, frame_sizes, unpack
from eventlog.line import LOST_MARK

# Small, for a reader unpacks a whole frame for the one line that it wants; twice as much would
# save a hundredth of the space.
FRAME_BYTES = 128 * 1024
PACKED_BYTES_MAX = FRAME_BYTES + PACKED_EXTRA_BYTES
FRAMES_MAX = 1 << 20  # 128 GiB: a table that says more is damaged, and is not read into memory

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
_SEEK_PROBLEM = f"the seek table of the compressed segment is damaged, {_MENDED}"
_PROOF_PROBLEM = f"the length and hash in the compressed segment are damaged, {_MENDED}"
_CUT_PROBLEM = "the compressed segment is cut, or damaged at its end"

Pread = Callable[[int, int], bytes]  # length, offset


class Frame(NamedTuple):
    """One frame: how many bytes it takes in the file, and how many it holds."""

    packed: int
    raw: int  # negative: so many raw bytes are lost, with no frame that could hold them


class Proof(NamedTuple):
    """What the raw bytes were when they were compressed."""

    raw_bytes: int
    sha256: str
    table_crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a compressed segment holds."""

    frames: tuple[Frame, ...]
    proof: Proof | None  # None where it is damaged
    problem: str | None  # with the proof or the table


def ending(
    frames: Sequence[Frame], checksums: Sequence[bytes], raw_bytes: int, sha256: str
) -> bytes:
    """Proof and table of the frames."""
    entries = b"".join(
        _ENTRY.pack(*frame, int.from_bytes(checksum, "little"))
        for frame, checksum in zip(frames, checksums, strict=True)
    )
    table = entries + _FOOTER.pack(len(frames), _HAS_CHECKSUMS, _FOOTER_MAGIC)
    table = _SKIPPABLE.pack(_TABLE_MAGIC, len(table)) + table
    text = _PROOF_TEXT.format(raw_bytes, sha256, crc32(table)).encode()
    text += b" %08x\n" % crc32(text)
    return _SKIPPABLE.pack(_PROOF_MAGIC, len(text)) + text + table


def checksum_of(frame: bytes) -> bytes:
    """The checksum with which a frame ends: of its raw bytes, as the seek table wants it."""
    return frame[-_CHECKSUM_BYTES:]


def read_layout(pread: Pread, size: int) -> Layout:
    """The layout of a file of `size` bytes, however damaged it is. Raises OSError."""
    table = _table_at_end(pread, size)
    table_bytes = _SKIPPABLE.size + _ENTRY.size * len(table or ()) + _FOOTER.size
    packed_bytes = size - _PROOF_BYTES - table_bytes
    if table is not None and sum(frame.packed for frame in table) == packed_bytes:
        proof = _proof_in(pread(_PROOF_BYTES, packed_bytes))
        data = pread(table_bytes, size - table_bytes)
        raw_bytes = sum(frame.raw for frame in table)
        if proof is not None and (proof.table_crc, proof.raw_bytes) == (crc32(data), raw_bytes):
            return Layout(frames=table, proof=proof, problem=None)
    return _layout_by_frames(pread, size, table)


def _table_at_end(pread: Pread, size: int) -> tuple[Frame, ...] | None:
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
    found = tuple(Frame(packed, raw) for packed, raw, _ in _ENTRY.iter_unpack(data))
    is_possible = all(f.packed <= PACKED_BYTES_MAX and 0 < f.raw <= FRAME_BYTES for f in found)
    return found if is_possible else None


def _proof_in(data: bytes) -> Proof | None:
    """The proof that these bytes hold, if they are one and undamaged."""
    head, text = data[: _SKIPPABLE.size], data[_SKIPPABLE.size :]
    if len(data) != _PROOF_BYTES or head != _SKIPPABLE.pack(_PROOF_MAGIC, len(text)):
        return None
    if text[-10:] != b" %08x\n" % crc32(text[:-10]):
        return None
    _, raw_bytes, sha256, table_crc, _ = text.decode("ascii").split(" ")
    return Proof(int(raw_bytes), sha256, int(table_crc, 16))


def _layout_by_frames(pread: Pread, size: int, table: tuple[Frame, ...] | None) -> Layout:
    """The layout as the frames themselves tell it, where proof and table do not agree."""
    frames = list(_walk(pread, size))
    end = sum(frame.packed for frame in frames)
    raw_bytes = sum(frame.raw for frame in frames)
    proof = _proof_in(pread(_PROOF_BYTES, end))
    if proof is not None and proof.raw_bytes == raw_bytes:
        return Layout(frames=tuple(frames), proof=proof, problem=_SEEK_PROBLEM)
    if proof is None and table is not None and table == tuple(frames):
        return Layout(frames=table, proof=None, problem=_PROOF_PROBLEM)
    # Nothing tells how much is missing: it is marked, and the next segment says where it goes on.
    frames.append(Frame(0, -len(_LOST_LINE)))
    return Layout(frames=tuple(frames), proof=None, problem=_CUT_PROBLEM)


def _walk(pread: Pread, size: int) -> list[Frame]:
    """The frames from the first byte on, as far as their headers are good."""
    found: list[Frame] = []
    at = 0
    while at < size and len(found) < FRAMES_MAX:
        try:
            packed, raw = frame_sizes(pread(PACKED_BYTES_MAX, at))
        except BadFrame:
            break
        if not (packed <= PACKED_BYTES_MAX and 0 < raw <= FRAME_BYTES):
            break
        found.append(Frame(packed, raw))
        at += packed
    return found


class Raw:
    """The raw bytes of a compressed segment. Holds one unpacked frame; may be used by threads."""

    def __init__(self, pread: Pread, size: int) -> None:
        layout = read_layout(pread, size)
        self.problem = layout.problem  # with what is not frames; all raw bytes can be read
        self.proof = layout.proof and (layout.proof.raw_bytes, layout.proof.sha256)
        self._pread = pread
        self._frames = layout.frames
        self._starts = [0, *accumulate(abs(frame.raw) for frame in layout.frames)]
        self._packed_starts = [0, *accumulate(frame.packed for frame in layout.frames)]
        self._last: tuple[int, bytes] = (-1, b"")

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
        last, data = self._last  # in one step, for another thread may put its own there
        if last == number:
            return data
        packed, raw = self._frames[number]
        try:
            if raw < 0:
                raise BadFrame
            data = unpack(self._pread(packed, self._packed_starts[number]), raw)
        except BadFrame:
            data = _lost(abs(raw))
        self._last = (number, data)
        return data


def _lost(size: int) -> bytes:
    """What is read in place of `size` lost bytes: no writer makes such lines."""
    lines = max(0, size // len(_LOST_LINE) - 1)
    first = size - lines * len(_LOST_LINE)
    return LOST_MARK[: first - 1].ljust(first - 1, b".") + b"\n" + _LOST_LINE * lines
