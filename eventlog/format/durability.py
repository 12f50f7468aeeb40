"""How far the log is durable: the lock's word and the watermark, as bytes and back.

The *word* stands in `.lock`. It is overwritten in place, never synced, and so speaks for this boot
only: while a writer changes the log it says `writing`, and once all of it is durable `clean`,
with the durable end. A sync that returned 0 proves less than it seems after one that failed: the
kernel drops the error and keeps the pages. So whoever finds `writing` starts from the device.

The *watermark* stands in `.durable` and is synced. It has two slots, 4,096 bytes apart so that one
torn sector cannot take both; the higher generation wins. It says that the log reached at least
this far, which is the only thing that tells a lost last batch from one that was never durable.

Invariant: what either says was durable when it was written.
"""

from typing import NamedTuple
from zlib import crc32

from eventlog.format.line import CHAIN_START

WORD_BYTES = 256  # fixed, so that one pwrite replaces it whole
SLOT_BYTES = 256
SLOT_STRIDE_BYTES = 4096
CLEAN = "clean"
WRITING = "writing"
_VERSION = "1"


class End(NamedTuple):
    """The durable end: after the line of entry `seq`, which has `chain`."""

    segment: int  # first seq of the segment
    byte_offset: int
    seq: int
    chain: str


class Word(NamedTuple):
    """What the holder of the lock, or the last one who held it, said."""

    boot_id: str  # of the boot in which it was said
    pid: int
    state: str  # CLEAN or WRITING
    end: End


class Watermark(NamedTuple):
    """The log was durable up to `end`."""

    generation: int
    end: End


def _sealed(fields: str, size_bytes: int) -> bytes:
    text = fields.encode()
    return (b"%b %08x" % (text, crc32(text))).ljust(size_bytes - 1) + b"\n"


def _opened(data: bytes, fields_count: int) -> list[str] | None:
    """The fields under a valid checksum, or None."""
    text, _, checksum = data.rstrip(b" \n").rpartition(b" ")
    if checksum != b"%08x" % crc32(text):
        return None
    fields = text.decode("ascii", "replace").split(" ")
    return fields if len(fields) == fields_count and fields[0] == _VERSION else None


def encode_word(word: Word) -> bytes:
    """WORD_BYTES bytes of printable text."""
    end = word.end
    return _sealed(
        f"{_VERSION} {word.boot_id} {word.pid} {word.state} "
        f"{end.segment} {end.byte_offset} {end.seq} {end.chain}",
        WORD_BYTES,
    )


def decode_word(data: bytes) -> Word | None:
    """The word, or None when there is none or it was read while it was being written."""
    fields = _opened(data, 8)
    if fields is None:
        return None
    _, boot_id, pid, state, segment, byte_offset, seq, chain = fields
    return Word(boot_id, int(pid), state, End(int(segment), int(byte_offset), int(seq), chain))


def encode_slot(watermark: Watermark) -> bytes:
    """SLOT_BYTES bytes of printable text."""
    end = watermark.end
    return _sealed(
        f"{_VERSION} {watermark.generation} {end.segment} {end.byte_offset} {end.seq} {end.chain}",
        SLOT_BYTES,
    )


def slot_offset(generation: int) -> int:
    """Where the slot of `generation` stands: neighbours never share one."""
    return generation % 2 * SLOT_STRIDE_BYTES


def decode_watermark(data: bytes) -> Watermark | None:
    """The newest valid slot of a `.durable` file, or None."""
    found = None
    for offset in (0, SLOT_STRIDE_BYTES):
        fields = _opened(data[offset : offset + SLOT_BYTES], 6)
        if fields is None:
            continue
        _, generation, segment, byte_offset, seq, chain = fields
        slot = Watermark(int(generation), End(int(segment), int(byte_offset), int(seq), chain))
        if found is None or slot.generation > found.generation:
            found = slot
    return found


NOTHING_PROVEN = End(0, 0, 0, CHAIN_START)
