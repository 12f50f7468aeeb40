"""Lock records and watermarks: what a writer writes is read back, and nothing else is a record."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.format.durability import (
    CLEAN,
    SLOT_BYTES,
    SLOT_STRIDE_BYTES,
    WRITING,
    LockRecord,
    LogEnd,
    Watermark,
    decode_lock_record,
    decode_watermark,
    encode_lock_record,
    encode_slot,
)

CHAIN = "0123456789abcdef" * 4
NUMBERS = st.integers(0, 2**63 - 1)
CHAINS = st.just("") | st.text("0123456789abcdef", min_size=64, max_size=64)
ENDS = st.builds(LogEnd, NUMBERS, NUMBERS, NUMBERS, CHAINS)
INODES = st.integers(0, 2**64 - 1)
RECORDS = st.builds(
    LockRecord,
    st.uuids().map(str),
    st.integers(0, 2**31 - 1),
    st.sampled_from([CLEAN, WRITING]),
    ENDS,
    INODES,
    INODES,
    st.integers(0, 2**32 - 1),
)
# In place of a number: nothing that int() would take and no writer writes, and no huge number.
NO_NUMBERS = [*("", "-1", "+1", "0_3", "1.0", "1e3", "0x1", "one", "\u0663", "9" * 90)]


def checked(fields: str, size: int = SLOT_BYTES) -> bytes:
    """A record with a valid checksum, as docs/format.md describes it."""
    text = fields.encode()
    return (text + b" %08x" % crc32(text)).ljust(size - 1) + b"\n"


@given(RECORDS)
def test_a_lock_record_is_read_as_it_was_written(record: LockRecord) -> None:
    assert decode_lock_record(encode_lock_record(record)) == record


@given(st.builds(Watermark, NUMBERS, ENDS))
def test_a_watermark_is_read_as_it_was_written(watermark: Watermark) -> None:
    assert decode_watermark(encode_slot(watermark)) == watermark


@given(st.lists(st.text(max_size=70).filter(lambda text: " " not in text), max_size=12))
def test_no_fields_with_a_valid_checksum_raise(fields: list[str]) -> None:
    for version in ("1", "2"):
        data = checked(" ".join([version, *fields]).encode("ascii", "replace").decode())
        decode_lock_record(data)
        decode_watermark(data)


LOCK_FIELDS = ["2", "boot", "1", CLEAN, "1", "5", "6", "10", "3", CHAIN]
PLACES = {"pid": 2, "segment": 4, "device": 5, "inode": 6, "byte_offset": 7, "seq": 8}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("text", [*NO_NUMBERS, str(2**64), str(10**30)])
def test_a_lock_record_with_nonsense_in_place_of_a_number_is_none(place: int, text: str) -> None:
    assert decode_lock_record(checked(" ".join(LOCK_FIELDS))) is not None
    fields = [*LOCK_FIELDS[:place], text, *LOCK_FIELDS[place + 1 :]]
    assert decode_lock_record(checked(" ".join(fields))) is None


@pytest.mark.parametrize(
    ("place", "text"),
    [(2, str(2**31)), (4, str(2**63)), (3, "broken"), (9, "z"), (9, CHAIN.upper()), (9, "f" * 63)],
)
def test_a_lock_record_with_a_field_that_no_writer_writes_is_none(place: int, text: str) -> None:
    fields = [*LOCK_FIELDS[:place], text, *LOCK_FIELDS[place + 1 :]]
    assert decode_lock_record(checked(" ".join(fields))) is None


WATERMARK_FIELDS = ["1", "9", "1", "10", "3", CHAIN]


@pytest.mark.parametrize("place", range(1, 6))
@pytest.mark.parametrize("text", [*NO_NUMBERS[1:], str(2**63), str(10**30)])
def test_a_slot_with_nonsense_hides_no_good_slot(place: int, text: str) -> None:
    good = Watermark(1, LogEnd(1, 10, 3, CHAIN))
    bad = checked(" ".join([*WATERMARK_FIELDS[:place], text, *WATERMARK_FIELDS[place + 1 :]]))
    assert decode_watermark(bad) is None
    for slots in ((bad, encode_slot(good)), (encode_slot(good), bad)):
        data = slots[0].ljust(SLOT_STRIDE_BYTES, b"\0") + slots[1]
        assert decode_watermark(data) == good
