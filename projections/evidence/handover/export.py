"""The export for a regulator: all lines, tables, tiles, checkpoints, stamps, and pages to read.

Everything is of one checkpoint. The directory is written under a hidden name and renamed at the
end; its files are private.

Invariant: an export that has its name is complete, and has the root that was signed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from shlex import quote
from string import Template
from typing import BinaryIO

from eventlog.plumbing import BadLine, Disk, VerifiedChunk, printable, refuse_in_home, verify_lines
from projections.errors import ProjectionError
from projections.evidence.formats.encoding import time_text
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.handover import page
from projections.evidence.handover.file_tree import PRIVATE, FileTree, file_tree
from projections.evidence.handover.growth_files import growth_files
from projections.evidence.handover.lines_table import lines_table
from projections.evidence.handover.publish import publish
from projections.evidence.handover.signed_lines import Progress, require_no_loss, signed_lines
from projections.evidence.handover.statement import head_bytes
from projections.evidence.handover.tables import TABLES, table_lines
from projections.evidence.kept.kept_files import KeptFiles, kept_files
from projections.evidence.kept.kept_listing import cosignatures_in, stamp_time
from projections.evidence.kept.newest import NewestCheckpoint, read_newest

SUMS_NAME = "SHA256SUMS"
CHUNK_BYTES = 1 << 20
_CHECKPOINT_ROW = (
    '<tr><td>{}</td><td><a href="checkpoints/{}"><code>{}</code></a></td>'
    "<td>{}</td><td>{}</td></tr>"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A complete export."""

    path: str
    origin: str
    size: int
    files: int
    bytes: int

    def to_text(self) -> list[str]:
        """For a reader."""
        return [f"{self.size} entries of {self.origin} to {self.path}: {self.files} files"]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        return {
            "path": self.path,
            "origin": self.origin,
            "size": self.size,
            "files": self.files,
            "bytes": self.bytes,
        }


@dataclass(slots=True)
class SeenLines:
    """What the index page says about the lines."""

    signals: int = 0
    first_recorded_at: str = "none"
    last_recorded_at: str = "none"


def export_evidence(
    home: Path,
    target: Path,
    *,
    disk: Disk | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Exported:
    """Exports everything up to the newest checkpoint to `target`, which must not exist yet.

    Raises NotProved where nothing was signed yet; ProjectionError where the log is not what was
    signed, where `target` exists, and where the disk is full; UnsafePath in a home; OSError.
    """
    refuse_in_home(target, home=home)
    target = Path(os.path.abspath(target))
    _require_free(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with (
            kept_files(home, disk=disk) as kept,
            file_tree(part, PRIVATE, disk=disk) as tree,
        ):
            newest, key = read_newest(kept), kept.read_vkey()
            require_no_loss(home, newest.head.size)
            publish(home, part / "log", modes=PRIVATE, newest=newest, disk=disk)
            seen = _write_tables(home, newest, tree, part, progress)
            sizes = [size for size in kept.sizes() if size <= newest.head.size]
            rows = _write_checkpoints(kept, sizes, tree)
            tree.write_all("growth", growth_files(home, [0, *sizes], newest, disk=disk))
            tree.write("vkey", f"{key.to_text()}\n".encode())
            tree.write(page.NAME, page.page_bytes())
            tree.write("index.html", index_page(key, newest.head.size, seen, rows))
            sums = list(_sums(part))
            text = "".join(f"{digest}  {name}\n" for name, digest, _ in sums)
            tree.write(SUMS_NAME, text.encode())
        _require_free(target)
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    with file_tree(target.parent, PRIVATE, disk=disk) as above:
        above.sync()
    return Exported(
        path=str(target),
        origin=key.name,
        size=newest.head.size,
        files=len(sums) + 1,
        bytes=sum(size for _, _, size in sums) + len(text),
    )


def index_page(key: VerifierKey, size: int, seen: SeenLines, rows: list[str]) -> bytes:
    """The page that explains the files in plain words."""
    template = (package_files("projections.evidence.handover") / "index.html").read_text("utf-8")
    values = {
        "origin": key.name,
        "vkey": key.to_text(),
        "quoted_vkey": quote(key.to_text()),
        "size": f"{size:,}",
        "signals": f"{seen.signals:,}",
        "first": seen.first_recorded_at,
        "last": seen.last_recorded_at,
    }
    escaped = {name: escape(printable(value)) for name, value in values.items()}
    return Template(template).substitute(escaped, checkpoints="\n".join(rows)).encode()


def _write_tables(
    home: Path, newest: NewestCheckpoint, tree: FileTree, scratch: Path, progress: Progress
) -> SeenLines:
    """Writes the statement, and the tables of its lines, in one pass over the log."""
    seen = SeenLines()
    with tree.created("statement") as file:
        pieces = _copied(signed_lines(home, newest.head, progress), file)
        file.write(head_bytes(newest.data))
        try:
            with lines_table(_noted(verify_lines(pieces), seen), scratch) as database:
                for name, columns, sql in TABLES:
                    with tree.created(name) as table:
                        for lines in table_lines(database, columns, sql):
                            table.write(lines)
                (seen.signals,) = database.execute("SELECT count(*) FROM signals").fetchone()
        except BadLine as error:
            raise ProjectionError(
                f"an entry that was signed is wrong: {error}",
                where=str(home),
                do="run `eventlog verify`: it tells what is wrong, and what can be done",
            ) from None
    return seen


def _copied(pieces: Iterator[bytes], file: BinaryIO) -> Iterator[bytes]:
    for piece in pieces:
        file.write(piece)
        yield piece


def _noted(chunks: Iterator[VerifiedChunk], seen: SeenLines) -> Iterator[VerifiedChunk]:
    for chunk in chunks:
        if chunk.seq_from == 1:
            seen.first_recorded_at = chunk.recorded_times[0].recorded_at
        seen.last_recorded_at = chunk.recorded_times[-1].recorded_at
        yield chunk


def _write_checkpoints(kept: KeptFiles, sizes: list[int], tree: FileTree) -> list[str]:
    """Copies the checkpoints and their time stamps; returns their rows of the index page."""
    rows, written = [], {}
    for size in sizes:
        name = Path(kept.checkpoint_path(size)).name
        written[name] = data = kept.read_checkpoint(size)
        stamps = {stamp: kept.read_stamp(stamp) for stamp in kept.stamps(size)}
        written |= stamps
        seen = (
            f"{each.name}, {time_text(each.time_s)}"
            for each in cosignatures_in(data.decode(errors="replace"))
        )
        times = (f"{stamp}, {_stamp_text(reply)}" for stamp, reply in stamps.items())
        witnesses, authorities = (escape(printable("; ".join(found))) for found in (seen, times))
        rows.append(_CHECKPOINT_ROW.format(f"{size:,}", name, name, witnesses, authorities))
    tree.write_all("checkpoints", written)
    return rows


def _stamp_text(reply: bytes) -> str:
    time_s = stamp_time(reply)
    return "its time cannot be read" if time_s is None else time_text(int(time_s))


def _sums(directory: Path) -> Iterator[tuple[str, str, int]]:
    """Name, SHA-256 and size of each file, in the order of their names."""
    for path in sorted(each for each in directory.rglob("*") if each.is_file()):
        digest, size = sha256(), 0
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                digest.update(data)
                size += len(data)
        yield str(path.relative_to(directory)), digest.hexdigest(), size


def _require_free(target: Path) -> None:
    """Raises ProjectionError where something is at the path."""
    with suppress(FileNotFoundError):
        target.lstat()
        raise ProjectionError(
            "there is a file or a directory already", where=str(target), do="name a new directory"
        )
