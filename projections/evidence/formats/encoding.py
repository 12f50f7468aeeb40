"""Strict base64 and decimal numbers of the text formats.

Invariant: a value has one spelling. Any other one is refused, so that a changed byte never passes.
"""

import binascii
import re
from datetime import UTC, datetime

from projections.errors import NotProved

HASH_BYTES = 32  # of SHA-256
ID_BYTES = 4  # of a key, before each of its signatures
TIME_BYTES = 8  # before the signature of a cosigner: seconds since 1970, big-endian
SIGNATURE_BYTES = 64  # of Ed25519
SIGNATURE_MARK = "\N{EM DASH} "  # begins the line of a signature
TIME_MAX_S = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second that can be printed
NUMBER_MAX = 2**63 - 1  # readers in Go hold tree sizes and indices in an int64

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return binascii.b2a_base64(data, newline=False).decode()


def decode_base64(text: str, *, what: str) -> bytes:
    """The bytes of a base64 text; `what` names it in the error.

    Raises NotProved for missing padding, other alphabets, and unused bits that are not zero.
    """
    try:
        found = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, and other characters than ASCII
        raise NotProved(f"{what} is not base64") from None
    if encode_base64(found) != text:
        raise NotProved(f"{what} is not written in the one form of base64 that is accepted")
    return found


def decode_hash(text: str, *, what: str) -> bytes:
    """A SHA-256 hash in base64. Raises NotProved."""
    found = decode_base64(text, what=what)
    if len(found) != HASH_BYTES:
        raise NotProved(f"{what} has {len(found)} bytes, a hash has {HASH_BYTES}")
    return found


def decode_number(text: str, *, what: str) -> int:
    """A decimal number without sign and leading zeros, up to NUMBER_MAX. Raises NotProved."""
    if _DECIMAL.fullmatch(text) is None or (found := int(text)) > NUMBER_MAX:
        raise NotProved(f"{what} is not a decimal number: {text[:40]!r}")
    return found


def require_no_carriage_returns(data: bytes) -> None:
    """Raises NotProved where line ends were changed, as mail programs and editors do."""
    if b"\r" in data:
        raise NotProved(
            "the file has carriage returns, which none of these files has: its line ends were"
            " changed on its way",
            do="ask for it again in an archive, such as a zip file",
        )


def time_text(time_s: int) -> str:
    """A time of a witness or an authority, in seconds since 1970, as UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
