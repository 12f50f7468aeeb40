"""The door to zstd: one frame packed, one frame unpacked, and nothing believed of its header.

Python has zstd from 3.14 on; below it stands a backport with the same interface.

Invariant: `unpack` gives exactly the bytes that were packed, or raises BadFrame; it never holds
more than it was told to expect.
"""

import sys

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
