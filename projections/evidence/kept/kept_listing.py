"""What is kept in `evidence/`, for status, doctor and console: sizes, times and names of witnesses.

Signatures and time stamps were verified when they were stored, and are not verified here. So this
needs no package of the extra `evidence`, and reads neither the log nor the tree.

Invariant: nothing is created or changed.
"""

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from eventlog.plumbing import Directory
from projections.errors import NotProved
from projections.evidence.formats.encoding import (
    ID_BYTES,
    SIGNATURE_BYTES,
    SIGNATURE_MARK,
    TIME_BYTES,
    TIME_MAX_S,
    decode_base64,
)

DIRECTORY_NAME = "evidence"
KEY_NAME, VKEY_NAME, RESTORED_NAME = "key", "vkey", "restored"
CHECKPOINT = re.compile(r"([0-9]{20})\.checkpoint", re.ASCII)
STAMP = re.compile(r"([0-9]{20})(?:\.([0-9]{1,6}))?\.tsr", re.ASCII)  # size, number

FILE_BYTES_MAX = 1 << 17  # three lines with a hundred signatures, or the chain of an authority
SEARCH_MAX = 256  # checkpoints that are read to find the last cosignature

_COSIGNATURE_BYTES = ID_BYTES + TIME_BYTES + SIGNATURE_BYTES  # a log's own has no time
_TIME_AT = slice(ID_BYTES, ID_BYTES + TIME_BYTES)
# DER: the first GeneralizedTime of a reply is that of its time stamp.
_GENERALIZED_TIME = re.compile(rb"\x18[\x0f-\x1a]([0-9]{14})(?:\.[0-9]{1,9})?Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBy:
    """A witness that has cosigned a checkpoint."""

    name: str
    time_s: int  # since 1970, as the witness signed it


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCheckpoint:
    """A checkpoint with what was added to it later."""

    size: int
    text: str  # the whole note
    written_s: float  # not later than this it was signed, by the clock of the operator
    cosignatures: tuple[SeenBy, ...]
    stamps_s: tuple[float, ...]  # the times of its stamps, ascending


class KeptListing:
    """The names in an open `evidence/`, as they were when it was opened."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        names = directory.names()
        kept = (name for name in names if name.endswith(".checkpoint"))
        self._checkpoints = sorted(name for name in kept if CHECKPOINT.fullmatch(name))
        self._stamps: dict[int, list[str]] = {}
        for found in (STAMP.fullmatch(name) for name in names if name.endswith(".tsr")):
            if found:
                self._stamps.setdefault(int(found[1]), []).append(found[0])
        self.has_vkey = VKEY_NAME in names
        self.is_restored = RESTORED_NAME in names

    @property
    def count(self) -> int:
        """How many checkpoints there are."""
        return len(self._checkpoints)

    @property
    def size(self) -> int:
        """The newest signed size; 0 where nothing was signed."""
        return _size_of(self._checkpoints[-1]) if self._checkpoints else 0

    @property
    def path(self) -> str:
        """For messages."""
        return self._directory.path

    def key_mode(self) -> int | None:
        """The permissions of the key; None where there is none."""
        try:
            return stat.S_IMODE(self._directory.stat(KEY_NAME).st_mode)
        except FileNotFoundError:
            return None

    def vkey(self) -> str | None:
        """The public key, as it is stored."""
        if not self.has_vkey:
            return None
        return self._directory.read(VKEY_NAME, FILE_BYTES_MAX).decode(errors="replace").strip()

    def _checkpoint(self, name: str) -> KeptCheckpoint:
        size = _size_of(name)
        text = self._directory.read(name, FILE_BYTES_MAX).decode(errors="replace")
        seen, stamps_s = cosignatures_in(text), self._stamps_of(size)
        # A cosignature is added by writing the file again, and a copy may have the time of copying.
        times_s = (self._directory.stat(name).st_mtime, *(one.time_s for one in seen), *stamps_s)
        return KeptCheckpoint(
            size=size, text=text, written_s=min(times_s), cosignatures=seen, stamps_s=stamps_s
        )

    def newest(self, size_max: int | None = None) -> Iterator[KeptCheckpoint]:
        """The checkpoints of up to `size_max` entries, newest first. Raises OSError, UnsafePath."""
        names = reversed(self._checkpoints)
        wanted = (name for name in names if size_max is None or _size_of(name) <= size_max)
        return map(self._checkpoint, wanted)

    def last_cosigned_s(self) -> int | None:
        """The latest time that a witness signed, among the newest SEARCH_MAX checkpoints."""
        for _, kept in zip(range(SEARCH_MAX), self.newest(), strict=False):
            if kept.cosignatures:
                return max(seen.time_s for seen in kept.cosignatures)
        return None

    def last_stamp_s(self) -> float | None:
        """The latest time of the stamps of the newest checkpoint that has one."""
        times_s = self._stamps_of(max(self._stamps, default=0))
        return times_s[-1] if times_s else None

    def _stamps_of(self, size: int) -> tuple[float, ...]:
        found = (self._directory.read(name, FILE_BYTES_MAX) for name in self._stamps.get(size, ()))
        times_s = (stamp_time(data) for data in found)
        return tuple(sorted(time_s for time_s in times_s if time_s is not None))


@contextmanager
def kept_listing(home: Path) -> Iterator[KeptListing | None]:
    """What a home keeps; None where it has no `evidence/`. Raises OSError, UnsafePath."""
    try:
        directory = Directory.open(home / DIRECTORY_NAME)
    except FileNotFoundError:
        yield None
        return
    with directory:
        yield KeptListing(directory)


def _size_of(name: str) -> int:
    return int(name[:20])


def cosignatures_in(note: str) -> tuple[SeenBy, ...]:
    """The cosignatures of a checkpoint, in their order."""
    lines = note.rpartition("\n\n")[2].split("\n")
    found = (
        _seen_by(line.removeprefix(SIGNATURE_MARK))
        for line in lines
        if line.startswith(SIGNATURE_MARK)
    )
    return tuple(seen for seen in found if seen is not None)


def _seen_by(signature: str) -> SeenBy | None:
    name, _, encoded = signature.partition(" ")
    try:
        raw = decode_base64(encoded, what="a signature")
    except NotProved:
        return None
    time_s = int.from_bytes(raw[_TIME_AT])
    if len(raw) != _COSIGNATURE_BYTES or not 0 < time_s <= TIME_MAX_S:
        return None
    return SeenBy(name=name, time_s=time_s)


def stamp_time(reply: bytes) -> float | None:
    """The time of an RFC 3161 time stamp, to the second; None where it has none."""
    found = _GENERALIZED_TIME.search(reply)
    if found is None:
        return None
    try:
        return datetime.strptime(f"{found[1].decode()}Z", "%Y%m%d%H%M%S%z").timestamp()
    except ValueError:
        return None
