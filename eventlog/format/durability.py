"""The lock record and the durable watermark, which say how far the log is durable: the codec.

The *lock record* is in `.lock`. It is overwritten in place and never synced, so it is valid for
this boot only, and for the file whose device and inode it names: a snapshot or a copy of the log
may hold one that is older. Its state is `writing` while a writer changes the log, and `clean`, with
the durable end, once all of it is durable. A sync that returns 0 after one that failed proves
little: the kernel drops the error and keeps the pages. So a writer that finds `writing` starts from
the device.

The *watermark* is in `.durable` and is synced. It has two slots, 4,096 bytes apart so that one
torn sector cannot destroy both; the higher generation wins. It states that the log reached at least
this far. Only this distinguishes a lost last batch from one that was never durable.

A record counts only if each field is what a writer writes there: a checksum proves that the bytes
are those that were written, not that a writer of ours wrote them.

Invariant: an end in either was durable when it was written.
"""

import re
from typing import NamedTuple
from zlib import crc32

from eventlog.format.line import CHAIN_START, HASH_PATTERN

LOCK_RECORD_BYTES = 256  # fixed, so that one pwrite replaces it whole
SLOT_BYTES = 256
SLOT_STRIDE_BYTES = 4096
CLEAN = "clean"
WRITING = "writing"
LOCK_RECORD_VERSION = "2"  # version 1 had no device and inode: it is no record
WATERMARK_VERSION = "1"
_NUMBER_MAX = 2**63 - 1  # of the offsets and seqs that a file system and SQLite can hold
_INODE_MAX = 2**64 - 1
_PID_MAX = 2**31 - 1
_NUMBER_PATTERN = re.compile(r"[0-9]{1,20}")  # int() also takes signs, spaces and underscores
_NO_BOOT_ID = "-"  # written where no boot id can be read; such a record is never valid


class LogEnd(NamedTuple):
    """The durable end: after the line of entry `seq`, which has `chain`."""

    segment: int  # first seq of the segment
    byte_offset: int
    seq: int
    chain: str


class LockRecord(NamedTuple):
    """The record of the current or the last holder of the lock."""

    boot_id: str  # of the boot in which it was written
    pid: int
    state: str  # CLEAN or WRITING
    end: LogEnd
    device: int  # of the raw segment file of `end`; 0 where there is none
    inode: int
    generation: int  # of that inode, which file systems reuse; 0 where the file system has none


class Watermark(NamedTuple):
    """The log was durable up to `end`."""

    generation: int
    end: LogEnd


def _with_checksum(fields: str, size_bytes: int) -> bytes:
    text = fields.encode()
    return (b"%b %08x" % (text, crc32(text))).ljust(size_bytes - 1) + b"\n"


def _checked_fields(data: bytes, version: str, fields_count: int) -> list[str] | None:
    """The fields of that version under a valid checksum, or None."""
    text, _, checksum = data.rstrip(b" \n").rpartition(b" ")
    if checksum != b"%08x" % crc32(text):
        return None
    fields = text.decode("ascii", "replace").split(" ")
    return fields if len(fields) == fields_count and fields[0] == version else None


def encode_lock_record(lock_record: LockRecord) -> bytes:
    """LOCK_RECORD_BYTES bytes of printable text."""
    end = lock_record.end
    generation = f".{lock_record.generation}" if lock_record.generation else ""
    inode = f"{lock_record.inode}{generation}"
    return _with_checksum(
        f"{LOCK_RECORD_VERSION} {lock_record.boot_id or _NO_BOOT_ID} {lock_record.pid} "
        f"{lock_record.state} {end.segment} {lock_record.device} {inode} "
        f"{end.byte_offset} {end.seq} {end.chain}",
        LOCK_RECORD_BYTES,
    )


def decode_lock_record(data: bytes) -> LockRecord | None:
    """The lock record; None where there is none, or where it was read while being overwritten."""
    fields = _checked_fields(data, LOCK_RECORD_VERSION, 10)
    if fields is None:
        return None
    _, boot_id, pid, state, segment, device, inode, byte_offset, seq, chain = fields
    try:
        if state not in (CLEAN, WRITING):
            raise ValueError(state)
        end = _parse_end(segment, byte_offset, seq, chain)
        inode, point, generation = inode.partition(".")
        if point and not generation.strip("0"):
            raise ValueError(generation)  # none is written without its point
        numbers = (_parse_number(field, _INODE_MAX) for field in (device, inode, generation or "0"))
        return LockRecord(boot_id, _parse_number(pid, _PID_MAX), state, end, *numbers)
    except ValueError:
        return None


def _parse_end(segment: str, byte_offset: str, seq: str, chain: str) -> LogEnd:
    """The end that these fields name. Raises ValueError."""
    if chain and HASH_PATTERN.fullmatch(chain) is None:  # empty: unknown, after an accepted gap
        raise ValueError(chain)
    return LogEnd(_parse_number(segment), _parse_number(byte_offset), _parse_number(seq), chain)


def _parse_number(field: str, number_max: int = _NUMBER_MAX) -> int:
    if _NUMBER_PATTERN.fullmatch(field) is None or int(field) > number_max:
        raise ValueError(field)
    return int(field)


def encode_slot(watermark: Watermark) -> bytes:
    """SLOT_BYTES bytes of printable text."""
    end = watermark.end
    return _with_checksum(
        f"{WATERMARK_VERSION} {watermark.generation} "
        f"{end.segment} {end.byte_offset} {end.seq} {end.chain}",
        SLOT_BYTES,
    )


def slot_offset(generation: int) -> int:
    """Byte offset of the slot of `generation`: consecutive generations use different slots."""
    return generation % 2 * SLOT_STRIDE_BYTES


def decode_watermark(data: bytes) -> Watermark | None:
    """The newest valid slot of a `.durable` file, or None."""
    found = None
    for offset in (0, SLOT_STRIDE_BYTES):
        fields = _checked_fields(data[offset : offset + SLOT_BYTES], WATERMARK_VERSION, 6)
        if fields is None:
            continue
        _, generation, *end = fields
        try:
            slot = Watermark(_parse_number(generation), _parse_end(*end))
        except ValueError:
            continue
        if found is None or slot.generation > found.generation:
            found = slot
    return found


NOTHING_DURABLE = LogEnd(0, 0, 0, CHAIN_START)
