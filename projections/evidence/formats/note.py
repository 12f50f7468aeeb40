"""Signed notes: a text, an empty line, and signature lines. https://c2sp.org/signed-note

Invariant: a note that parses is rebuilt from its parts to the byte.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from projections.errors import NotProved
from projections.evidence.formats.encoding import (
    ID_BYTES,
    SIGNATURE_MARK,
    decode_base64,
    encode_base64,
    require_no_carriage_returns,
)
from projections.evidence.formats.keys import SigningKey, VerifierKey, is_name

NOTE_BYTES_MAX = 1_000_000  # as golang.org/x/mod/sumdb/note has it
SIGNATURES_MAX = 100  # the same

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")  # a newline is none here


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature line, not verified."""

    name: str
    id: bytes
    value: bytes  # behind the key id

    def to_text(self) -> str:
        """The line, newline included."""
        return f"{SIGNATURE_MARK}{self.name} {encode_base64(self.id + self.value)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text that ends with a newline, and its signatures."""

    text: bytes
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """The note as it is stored."""
        lines = "".join(signature.to_text() for signature in self.signatures)
        return self.text + b"\n" + lines.encode()

    def verified_by(self, key: VerifierKey) -> tuple[int | None, ...]:
        """What `key.verify` returns for each signature of that key; empty where it has none.

        Raises NotProved if one of them is wrong.
        """
        return tuple(
            key.verify(self.text, signature.value)
            for signature in self.signatures
            if (signature.name, signature.id) == (key.name, key.id)
        )


def sign_note(text: bytes, key: SigningKey) -> Note:
    """A note with the one signature of a log's key."""
    return Note(text=text, signatures=(_signature(key.name, key.sign(text)),))


def cosign(text: bytes, key: SigningKey, time_s: int) -> Signature:
    """A cosigner's signature of a checkpoint's text."""
    return _signature(key.name, key.sign(text, time_s=time_s))


def _signature(name: str, signed: bytes) -> Signature:
    return Signature(name=name, id=signed[:ID_BYTES], value=signed[ID_BYTES:])


def parse_note(data: bytes) -> Note:
    """Splits a note; verifies no signature. Raises NotProved."""
    text = _decode(data)
    body, separator, tail = text.rpartition("\n\n")
    if not separator or not body or not tail:
        raise NotProved("the note has no signature lines behind an empty line")
    return Note(text=f"{body}\n".encode(), signatures=parse_signatures(tail))


def parse_signatures(text: str) -> tuple[Signature, ...]:
    """Signature lines, each with its newline. Raises NotProved."""
    *lines, rest = text.split("\n")
    if rest or not lines:
        raise NotProved("the last signature line does not end with a newline")
    if len(lines) > SIGNATURES_MAX:
        raise NotProved(f"the note has more than {SIGNATURES_MAX} signatures")
    return tuple(_parse_signature(line) for line in lines)


def _parse_signature(line: str) -> Signature:
    name, separator, encoded = line.removeprefix(SIGNATURE_MARK).partition(" ")
    if not line.startswith(SIGNATURE_MARK) or not separator or not is_name(name):
        raise NotProved("a signature line does not have the form `\N{EM DASH} NAME SIGNATURE`")
    raw = decode_base64(encoded, what="a signature")
    if len(raw) <= ID_BYTES:
        raise NotProved("a signature is shorter than its key id")
    return _signature(name, raw)


def split_file(data: bytes, *, what: str) -> tuple[list[str], bytes]:
    """The lines before the checkpoint of a file, and the checkpoint; `what` names the file.

    No lines are returned where no empty line follows them. Raises NotProved.
    """
    if len(data) > NOTE_BYTES_MAX:
        raise NotProved(f"{what} has more than {NOTE_BYTES_MAX} bytes")
    require_no_carriage_returns(data)
    head, separator, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NotProved(f"{what} has other characters than ASCII before its checkpoint") from None
    return (lines if separator else []), checkpoint


def _decode(data: bytes) -> str:
    require_no_carriage_returns(data)
    if len(data) > NOTE_BYTES_MAX:
        raise NotProved(f"the note has more than {NOTE_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise NotProved("the note is not UTF-8") from None
    if _CONTROL.search(text):
        raise NotProved("the note has control characters")
    return text


def with_signatures(note: Note, added: Sequence[Signature]) -> Note:
    """The note with further signatures behind its own."""
    return Note(text=note.text, signatures=(*note.signatures, *added))
