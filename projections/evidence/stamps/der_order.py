"""Sorts the certificates in a reply of a time stamp authority, as DER demands. Pure.

Authorities exist that send them unsorted, and `openssl ts` accepts that; the library that verifies
stamps does not. The set of certificates is in no signature, so its order says nothing.

Invariant: a reply comes back with the same bytes, those of its certificates in another order.
"""

from collections.abc import Iterator
from typing import NamedTuple

_SEQUENCE, _CERTIFICATES = 0x30, 0xA0  # the set is tagged [0], IMPLICIT; the token's content too
_LONG_LENGTH_BYTES_MAX = 4
# TimeStampResp: status, token; ContentInfo: type, [0] content;
# SignedData: version, digest algorithms, content, [0] certificates. RFC 3161, RFC 5652.
_TOKEN_AT, _CONTENT_AT, _CERTIFICATES_AT = 1, 1, 3


class _Element(NamedTuple):
    tag: int
    start: int  # of the header
    content: int
    end: int


def with_sorted_certificates(reply: bytes) -> bytes:
    """The reply with its certificates in ascending order. Raises ValueError if it has none."""
    response = _element(reply, 0, len(reply))
    token = _child(reply, response, _TOKEN_AT, _SEQUENCE)
    content = _child(reply, token, _CONTENT_AT, _CERTIFICATES)
    signed = _child(reply, content, 0, _SEQUENCE)
    certificates = _child(reply, signed, _CERTIFICATES_AT, _CERTIFICATES)
    found = [reply[each.start : each.end] for each in _children(reply, certificates)]
    return reply[: certificates.content] + b"".join(sorted(found)) + reply[certificates.end :]


def _child(data: bytes, parent: _Element, index: int, tag: int) -> _Element:
    for number, each in enumerate(_children(data, parent)):
        if number == index and each.tag == tag:
            return each
    raise ValueError("an element is missing")


def _children(data: bytes, parent: _Element) -> Iterator[_Element]:
    at = parent.content
    while at < parent.end:
        found = _element(data, at, parent.end)
        yield found
        at = found.end


def _element(data: bytes, at: int, end: int) -> _Element:
    if at + 2 > end:
        raise ValueError("an element is cut off")
    length, content = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= _LONG_LENGTH_BYTES_MAX:
            raise ValueError("a length is of no definite form")
        length = int.from_bytes(data[content : content + count])
        content += count
    if content + length > end:
        raise ValueError("an element is cut off")
    return _Element(tag=data[at], start=at, content=content, end=content + length)
