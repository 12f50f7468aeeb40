"""Publishes the tree of a home as static files, as https://c2sp.org/tlog-tiles has them.

New tiles are written first, and then the checkpoint. A tile that stands below the published
checkpoint is not written again if it is the one of the tree; of lines only the file is looked for.
Each full tile is compared with the hash above it, and the rest with the signed root, so damage of
the tree on disk is not published.

Invariant: the checkpoint that is published never precedes a tile that it needs.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path

from eventlog.plumbing import Disk, decode, raw_lines, refuse_in_home
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import SignedHead, open_checkpoint
from projections.evidence.formats.encoding import HASH_BYTES
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import EMPTY_ROOT, TILE_WIDTH, fold, leaf_hash
from projections.evidence.formats.note import NOTE_BYTES_MAX
from projections.evidence.handover.file_tree import (
    FILES_AT_ONCE,
    PUBLIC,
    FileTree,
    Modes,
    file_tree,
)
from projections.evidence.handover.signed_lines import lines_in_order, require_no_loss
from projections.evidence.handover.tile_paths import ENTRIES, Tile, bundle, tile_path, tiles_of
from projections.evidence.kept.kept_files import kept_files
from projections.evidence.kept.locks import held_lock
from projections.evidence.kept.newest import NewestCheckpoint, read_newest
from projections.evidence.proofs.proving import extend_tree
from projections.evidence.tree.level_files import LevelFiles, level_files

CHECKPOINT_NAME = "checkpoint"
LOCK_NAME = "publish.lock"
SALT = "salt"  # the payload key that makes the hash of a line impossible to guess
_SALT_TEXT = b'"salt":"'
_SALT = re.compile(r"[0-9a-f]{32}")  # shorter text could be guessed too

Progress = Callable[[int, int], object]  # files written, and in all
OnUnsalted = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was published."""

    path: str
    origin: str
    old_size: int  # of the checkpoint that was published before; 0 without one
    size: int
    files: int  # written, without the checkpoint
    unsalted: int  # entries since the old size that have no salt

    def to_text(self) -> list[str]:
        """For a reader."""
        return [
            f"{self.size} entries of {self.origin} to {self.path}: {self.files} new files,"
            f" {self.size - self.old_size} new entries"
        ]

    def to_json(self) -> dict[str, object]:
        """For a program."""
        return {
            "path": self.path,
            "origin": self.origin,
            "old_size": self.old_size,
            "size": self.size,
            "files": self.files,
            "unsalted": self.unsalted,
        }


def publish(
    home: Path,
    directory: Path,
    *,
    with_entries: bool = False,
    all_again: bool = False,
    on_unsalted: OnUnsalted = lambda _count: None,
    modes: Modes = PUBLIC,
    newest: NewestCheckpoint | None = None,
    disk: Disk | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Published:
    """Publishes a checkpoint, by default the newest one, with its tiles.

    With `with_entries` the lines are published too, with `all_again` each file is written again.
    `on_unsalted` is called with the number of new entries without a salt before their hashes are
    public; what it raises keeps them from that.

    Raises NotProved where nothing was signed yet; UnsafePath where the directory is in a home;
    ProjectionError where it has the checkpoint of another log or a newer one, and where lines are
    wanted that were lost; OSError.
    """
    directory = _existing_parent(directory)
    refuse_in_home(directory, home=home)
    with kept_files(home, disk=disk) as kept:
        key, newest = kept.read_vkey(), newest or read_newest(kept)
    if with_entries:
        require_no_loss(home, newest.head.size)
    with (
        held_lock(home, LOCK_NAME, doing="publishing"),
        file_tree(directory, modes, disk=disk) as target,
    ):
        old = _published_head(target, key)
        _require_growth(target, old, newest.head)
        unsalted = _unsalted(home, old.size, newest.head.size)
        if unsalted:
            on_unsalted(unsalted)
        for again in (False, True):
            extend_tree(home, newest.head.size, again=again, disk=disk)
            with level_files(home, disk=disk) as files, suppress(_DamagedTree):
                _require_roots(files, old, newest.head)
                standing = 0 if all_again else old.size
                written = _publish(home, target, newest, standing, files, with_entries, progress)
                return _published(target, newest.head, old, written, unsalted)
    raise ProjectionError(
        f"the log does not have the roots that were signed at size {old.size} and"
        f" {newest.head.size}",
        where=str(home),
        do="run `eventlog verify`, and compare the log with a backup",
    )


def _published(
    target: FileTree, head: SignedHead, old: SignedHead, files: int, unsalted: int
) -> Published:
    return Published(
        path=target.path,
        origin=head.origin,
        old_size=old.size,
        size=head.size,
        files=files,
        unsalted=unsalted,
    )


class _DamagedTree(Exception):
    """The tree on disk does not have a hash that was signed, or one above it."""


def _publish(
    home: Path,
    target: FileTree,
    newest: NewestCheckpoint,
    old_size: int,
    files: LevelFiles,
    with_entries: bool,
    progress: Progress,
) -> int:
    """Writes what is missing, then the checkpoint; returns how many files were missing."""
    wanted = [(tile.path, tile) for tile in tiles_of(newest.head.size)]
    if with_entries:
        wanted += [(tile_path(ENTRIES, *tile[1:]), tile) for _, tile in wanted if not tile.level]
    size = newest.head.size
    missing = [each for each in wanted if not _stands(target, *each, old_size, size, files)]
    tiles = [each for each in missing if ENTRIES not in each[0]]
    contents = chain(
        ((path, _tile_bytes(files, tile)) for path, tile in tiles),
        _bundles(home, files, missing[len(tiles) :]),
    )
    for done, (folder, group) in enumerate(_by_folder(contents)):
        target.write_all(folder, group)
        progress(min((done + 1) * FILES_AT_ONCE, len(missing)), len(missing))
    target.write(CHECKPOINT_NAME, newest.data)
    for path, tile in missing:
        if tile.width == TILE_WIDTH:
            target.remove_folder(f"{path}.p")
    return len(missing)


def _existing_parent(directory: Path) -> Path:
    """The directory itself, where the path is a link. Raises ProjectionError without one above."""
    found = directory.resolve()
    if not found.parent.is_dir():
        raise ProjectionError(
            "there is no such directory",
            where=str(found.parent),
            do="make it, or name a directory below one that is there",
        )
    return found


def _stands(
    target: FileTree, path: str, tile: Tile, old_size: int, size: int, files: LevelFiles
) -> bool:
    """Whether a file was published with an earlier checkpoint, and is there as it was.

    Others that are there may be of another log.
    """
    if (tile.number + 1) * TILE_WIDTH ** (tile.level + 1) > old_size != size:
        return False
    if ENTRIES in path:
        return target.has(path, None)
    length = tile.width * HASH_BYTES
    hashes = files.read(tile.level, tile.number * TILE_WIDTH, tile.width)
    return target.has(path, length) and target.read(path, length) == hashes


def _tile_bytes(files: LevelFiles, tile: Tile) -> bytes:
    found = files.read(tile.level, tile.number * TILE_WIDTH, tile.width)
    # The hashes of a tile that is not full are below the root, which was compared.
    if tile.width == TILE_WIDTH and fold(found) != files.read(tile.level + 1, tile.number, 1):
        raise _DamagedTree
    return found


def _bundles(
    home: Path, files: LevelFiles, bundles: Sequence[tuple[str, Tile]]
) -> Iterator[tuple[str, bytes]]:
    """The bundles of lines that are missing, in order."""
    if not bundles:
        return
    last = bundles[-1][1]
    until = last.number * TILE_WIDTH + last.width
    lines = _lines(home, bundles[0][1].number * TILE_WIDTH, until)
    at = bundles[0][1].number
    for path, tile in bundles:
        for _ in range(at, tile.number):
            list(islice(lines, TILE_WIDTH))  # were published before
        found = list(islice(lines, tile.width))
        if b"".join(map(leaf_hash, found)) != _tile_bytes(files, tile):
            raise _DamagedTree
        yield path, bundle(found)
        at = tile.number + 1


def _lines(home: Path, after: int, until: int) -> Iterator[bytes]:
    """The lines behind `after` up to `until`, without newlines."""
    found = lines_in_order(home, after=after, until=until)
    return (line[:-1] for lines in found for line in lines)


def _by_folder(contents: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Files that are written together: at most FILES_AT_ONCE, of one folder."""
    for folder, group in groupby(contents, key=lambda each: each[0].rpartition("/")[0]):
        while found := dict(islice(group, FILES_AT_ONCE)):
            yield folder, {path.rpartition("/")[2]: data for path, data in found.items()}


def _unsalted(home: Path, old_size: int, size: int) -> int:
    """How many of the entries since an earlier checkpoint have no salt."""
    unsalted = 0
    for lines in raw_lines(str(home), after=old_size, limit=size - old_size):
        is_within = decode(lines[-1]).seq <= size  # not where others before it were lost
        signed = lines if is_within else [line for line in lines if decode(line).seq <= size]
        unsalted += sum(not _is_salted(line) for line in signed)
    return unsalted


def _is_salted(line: bytes) -> bool:
    """Whether a line has a salt that makes its hash impossible to guess."""
    if _SALT_TEXT not in line:
        return False
    salt = decode(line).payload.get(SALT)
    return isinstance(salt, str) and _SALT.fullmatch(salt) is not None


def _published_head(target: FileTree, key: VerifierKey) -> SignedHead:
    """The head that is published; that of the empty log where there is none."""
    head = SignedHead(origin=key.name, size=0, root=EMPTY_ROOT)
    try:
        with suppress(FileNotFoundError):
            head = open_checkpoint(target.read(CHECKPOINT_NAME, NOTE_BYTES_MAX), key).head
    except NotProved as error:
        raise ProjectionError(
            f"the directory holds a checkpoint that is not of this log: {error.what}",
            where=target.path,
            do="name another directory",
        ) from None
    return head


def _require_growth(target: FileTree, old: SignedHead, new: SignedHead) -> None:
    if old.size > new.size:
        raise ProjectionError(
            f"the directory has a checkpoint of {old.size} entries, and the newest one of this home"
            f" has {new.size}",
            where=target.path,
            do="publish from the home that signed it",
        )


def _require_roots(files: LevelFiles, *heads: SignedHead) -> None:
    """Raises _DamagedTree unless the tree on disk has these roots."""
    tree = files.tree()
    for head in heads:
        if tree.size < head.size or tree.root(head.size) != head.root:
            raise _DamagedTree
