"""The manifest of a backup, `backup.json`: one line of JSON with its own hash.

    {"v":1,"last_seq":45,"chain":"...","backed_up_at":"...",
     "segments":[{"name":"00000000000000000001.jsonl","bytes":5070,"sha256":"..."}],"sha256":"..."}

A backup is laid out as a home, with its segments in `logs/`. A segment counts up to the length
that the manifest lists; segments that it does not list do not count. The same holds for the files
of other directories, which `kept` lists where there are any:

    "kept":[{"directory":"evidence","name":"vkey","bytes":76,"sha256":"..."}]

Invariant: a copy is synced and read back before it is listed.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from hashlib import sha256

import orjson

from eventlog.archive.kept_dirs import KEPT_DIRS
from eventlog.errors import BackupUnusable, LogCorrupt, Unsupported
from eventlog.figures import count_text
from eventlog.format.line import CHAIN_START, HASH_PATTERN, BadLine
from eventlog.format.scan import CHAIN_UNKNOWN, tip_of
from eventlog.format.segment import segment_seqs
from eventlog.read.seek import last_line
from eventlog.storage.directory import Directory
from eventlog.storage.disk import Disk

MANIFEST_NAME = "backup.json"
MANIFEST_BYTES_MAX = 64 << 20  # some 500,000 segments, which hold 30 TB at their default size
_VERSION = 1
_HASH_FIELD = b',"sha256":"'
_HASH_FIELD_BYTES = len(_HASH_FIELD) + 64 + len(b'"}\n')


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCopy:
    """A copy of a segment in a backup."""

    name: str
    bytes: int
    sha256: str  # of these bytes

    @property
    def segment(self) -> int:
        """The first seq, by the name."""
        (segment,) = segment_seqs([self.name])
        return segment


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCopy:
    """A copy of a file of another directory than `logs/`."""

    directory: str
    name: str
    bytes: int
    sha256: str  # of these bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of a backup: the log up to entry `last_seq`, which has `chain`."""

    segments: tuple[SegmentCopy, ...] = ()  # in order
    last_seq: int = 0
    chain: str = CHAIN_START
    backed_up_at: str = ""
    kept: tuple[KeptCopy, ...] = ()  # in order

    @property
    def bytes(self) -> int:
        """The size of all segments."""
        return sum(segment_copy.bytes for segment_copy in self.segments)


def kept_text(manifest: Manifest) -> list[str]:
    """How many files of other directories there are, as lines of a report; none without any."""
    counts = Counter(kept_copy.directory for kept_copy in manifest.kept)
    return [f"kept      {count_text(count, 'file')} of {name}/" for name, count in counts.items()]


def read_manifest(directory: Directory) -> Manifest | None:
    """The manifest of the backup in `directory`; None where there is none.

    Raises BackupUnusable where it is damaged, Unsupported where it is of a newer version, OSError,
    UnsafePath where it is no regular file, or larger than MANIFEST_BYTES_MAX.
    """
    try:
        data = directory.read(MANIFEST_NAME, MANIFEST_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        return decode_manifest(data)
    except (ValueError, KeyError, TypeError, LogCorrupt):  # orjson's error is a ValueError
        raise BackupUnusable(
            "the manifest of the backup is damaged",
            where=f"{directory.path}/{MANIFEST_NAME}",
            do="make a new backup in an empty directory; where the log is lost, copy the segments "
            "from logs/ into logs/ of a new home and run `eventlog verify`",
        ) from None


def require_last_entry(disk: Disk, fd: int, manifest: Manifest, where: str) -> None:
    """Raises BackupUnusable unless the last copy, open as `fd`, ends with the listed last entry."""
    if manifest.chain == CHAIN_UNKNOWN:  # it ends with accepted damage
        return
    size = manifest.segments[-1].bytes
    try:
        line = last_line(disk, fd, size) if disk.pread(fd, 1, size - 1) == b"\n" else b""
        tip = tip_of(line)
    except (BadLine, ValueError):
        tip = None
    if tip is None or (tip.seq, tip.chain) != (manifest.last_seq, manifest.chain):
        raise BackupUnusable(
            f"the last copy does not end with entry {manifest.last_seq}, as the manifest says",
            where=where,
            do="nothing was changed: make a new backup in an empty directory",
        )


def write_manifest(directory: Directory, manifest: Manifest) -> None:
    """Replaces the manifest, durably, in one step. Raises OSError."""
    directory.replace(MANIFEST_NAME, encode_manifest(manifest))


def encode_manifest(manifest: Manifest) -> bytes:
    """The file's bytes."""
    fields: dict[str, object] = {
        "v": _VERSION,
        "last_seq": manifest.last_seq,
        "chain": manifest.chain,
        "backed_up_at": manifest.backed_up_at,
        "segments": [
            {"name": segment_copy.name, "bytes": segment_copy.bytes, "sha256": segment_copy.sha256}
            for segment_copy in manifest.segments
        ],
    }
    if manifest.kept:
        fields["kept"] = [asdict(kept_copy) for kept_copy in manifest.kept]
    body = orjson.dumps(fields)[:-1]
    return body + _HASH_FIELD + sha256(body).hexdigest().encode() + b'"}\n'


def decode_manifest(data: bytes) -> Manifest:
    """The manifest. Raises ValueError, KeyError, TypeError or LogCorrupt where it is damaged."""
    body = data[:-_HASH_FIELD_BYTES]
    if data[len(body) :] != _HASH_FIELD + sha256(body).hexdigest().encode() + b'"}\n':
        raise ValueError("the hash does not match")
    fields = orjson.loads(data)
    if fields["v"] != _VERSION or type(fields["v"]) is not int:
        raise Unsupported(
            f"the backup has format version {fields['v']}, which this program does not support",
            do="use the version of this program that made it, or a newer one",
        )
    manifest = Manifest(
        segments=tuple(
            SegmentCopy(name=row["name"], bytes=row["bytes"], sha256=row["sha256"])
            for row in fields["segments"]
        ),
        last_seq=fields["last_seq"],
        chain=fields["chain"],
        backed_up_at=fields["backed_up_at"],
        kept=tuple(
            KeptCopy(
                directory=row["directory"],
                name=row["name"],
                bytes=row["bytes"],
                sha256=row["sha256"],
            )
            for row in fields.get("kept", ())
        ),
    )
    rows: tuple[SegmentCopy | KeptCopy, ...] = (*manifest.segments, *manifest.kept)
    texts = [manifest.chain, manifest.backed_up_at, *(row.sha256 for row in rows)]
    numbers = [manifest.last_seq, *(row.bytes for row in rows)]
    if not all(isinstance(text, str) for text in texts) or not all(
        map(_is_non_negative_int, numbers)
    ):
        raise TypeError("a field has the wrong type")
    if manifest.chain and HASH_PATTERN.fullmatch(manifest.chain) is None:
        raise ValueError("the chain is not 64 hex digits")
    if manifest.last_seq >= 1 << 63 or bool(manifest.last_seq) != bool(manifest.segments):
        raise ValueError("the last seq does not fit the segments")
    # A name becomes a path, so it must be that of a segment.
    named = [segment_copy.segment for segment_copy in manifest.segments]
    if named != sorted(set(named)):
        raise ValueError("the segments are not in order")
    if not all(_is_kept(kept_copy.directory, kept_copy.name) for kept_copy in manifest.kept):
        raise ValueError("a file is listed that no backup keeps")
    return manifest


def _is_kept(directory: object, name: object) -> bool:
    """Whether a backup keeps a file of that name, which becomes a path."""
    kept_dir = KEPT_DIRS.get(directory) if isinstance(directory, str) else None
    return (
        kept_dir is not None
        and isinstance(name, str)
        and name not in ("", ".", "..")
        and not set(name) & {"/", "\0"}
        and kept_dir.may_list(name)
    )


def _is_non_negative_int(value: object) -> bool:
    return type(value) is int and value >= 0
