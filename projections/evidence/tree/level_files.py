"""The tree on disk: `data/tree/0`, `1`, `2` ... and `state`.

File L holds the roots of all complete runs of 256**L leaves, 32 bytes each: file 0 the leaf hashes.
Bytes N*8192 to (N+1)*8192 of file L are tile N of level L of tlog-tiles.

A batch writes the level files, behind the end that the state gives; syncs them; replaces the state,
without a sync. After a crash the state may be an older one, and the next batch writes over what the
files have behind it. A state that a power loss has emptied makes the tree be built again.

The state has a CRC-32 of the leaf hashes in the last, incomplete tile, calculated from what was
added and never from the file. So a flipped bit there is noticed before the tile is complete, and
then level 1 has the root over it.

Invariant: the state covers only hashes that are on the device.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from eventlog.plumbing import Directory, Disk, make_private_dir, write_all
from projections.errors import ProjectionError
from projections.evidence.formats.encoding import HASH_BYTES
from projections.evidence.formats.merkle import TILE_WIDTH, Tree, fold
from projections.projection import CHAIN_START, Checkpoint

NAME = "tree"  # of the projection, and of its directory in data/
STATE_NAME = "state"
_NEW_STATE_NAME = f".{STATE_NAME}.new"
STATE_BYTES_MAX = 1024  # six short values
LEVELS_MAX = 8  # 256**8 lines are more than a seq can count


class _Stored(NamedTuple):
    """What the state file says."""

    checkpoint: Checkpoint
    crc: int  # of the leaf hashes in the incomplete tile


class LevelFiles:
    """The open directory of one tree. Not thread-safe. A caller that writes holds its lock."""

    def __init__(self, directory: Directory, *, is_read_only: bool = False) -> None:
        self._directory = directory
        self._is_read_only = is_read_only
        self._fds: dict[int, int] = {}

    def close(self) -> None:
        """Closes the level files."""
        while self._fds:
            self._directory.disk.close(self._fds.popitem()[1])

    def read_state(self) -> Checkpoint:
        """The last line that the tree covers; seq 0 where the files cannot be continued.

        They are derived from the log, so a damaged state is no error: the tree is built again. So
        it is where the incomplete tile is damaged.
        """
        stored = self._stored()
        if stored is None or not self._is_last_tile_intact(stored):
            return Checkpoint(projection=NAME)
        return stored.checkpoint

    def stored_state(self) -> Checkpoint:
        """The last line that the tree covers, whether or not hashes are damaged; seq 0 without."""
        stored = self._stored()
        return Checkpoint(projection=NAME) if stored is None else stored.checkpoint

    def is_tile_intact(self, tile: int) -> bool:
        """Whether the leaf hashes in a tile, which the tree covers, are those that were added.

        A complete tile must have the root that level 1 has.
        """
        stored = self._stored()
        if stored is None:
            return False
        if tile < stored.checkpoint.seq // TILE_WIDTH:
            leaves = self.read(0, tile * TILE_WIDTH, TILE_WIDTH)
            return fold(leaves) == self.read(1, tile, 1)
        return self._is_last_tile_intact(stored)

    def tree(self) -> Tree:
        """The tree that the state covers."""
        return Tree(self.read_state().seq, self.read)

    def read(self, level: int, first: int, count: int) -> bytes:
        """`count` hashes of a level. Raises ProjectionError where they are not there."""
        try:
            fd = self._fd(level)
        except FileNotFoundError:
            raise self._short_error(level) from None
        found = self._directory.disk.pread(fd, count * HASH_BYTES, first * HASH_BYTES)
        if len(found) < count * HASH_BYTES:
            raise self._short_error(level)
        return found

    def append(self, leaves: bytes, after: Checkpoint) -> None:
        """Adds the hashes of the lines up to `after.seq`, durably, and `after` as the state.

        `leaves` are the hashes behind the end of the tree. Raises OSError, ProjectionError.
        """
        level, first, added = 0, after.seq - len(leaves) // HASH_BYTES, leaves
        crc = self._crc_after(first, leaves)
        written, has_created = [], False
        while added:
            fd, is_new = self._writable(level)
            has_created = has_created or is_new
            write_all(self._directory.disk, fd, added, first * HASH_BYTES)
            written.append(fd)
            end = first + len(added) // HASH_BYTES
            runs = range(first // TILE_WIDTH, end // TILE_WIDTH)
            added = b"".join(fold(self.read(level, run * TILE_WIDTH, TILE_WIDTH)) for run in runs)
            level, first = level + 1, first // TILE_WIDTH
        for fd in written:  # one or two: a thread for each would take longer
            self._directory.disk.fdatasync(fd)
        if has_created:
            self._directory.sync()
        self._replace_state(_Stored(after, crc))

    def reset(self) -> None:
        """Makes the next batch begin at seq 1. It writes over what the files hold."""
        self._replace_state(_Stored(Checkpoint(projection=NAME), 0))

    def _crc_after(self, first: int, leaves: bytes) -> int:
        """The CRC of the incomplete tile once these leaves are added behind `first` others.

        Raises ProjectionError where the tile that they continue is damaged.
        """
        stored, into_tile = self._stored(), first % TILE_WIDTH
        if into_tile == 0:
            crc = 0
        elif stored and stored.checkpoint.seq == first and self._is_last_tile_intact(stored):
            crc = stored.crc
        else:
            raise ProjectionError(
                "the tree was damaged while it grew",
                where=self._directory.path,
                do="run this again: it is built again from the log",
            )
        end = into_tile + len(leaves) // HASH_BYTES
        if end < TILE_WIDTH:
            return crc32(leaves, crc)
        return crc32(leaves[len(leaves) - end % TILE_WIDTH * HASH_BYTES :])

    def _is_last_tile_intact(self, stored: _Stored) -> bool:
        return crc32(self._last_tile(stored.checkpoint.seq)) == stored.crc

    def _last_tile(self, seq: int) -> bytes:
        """The leaf hashes in the incomplete tile of a tree of `seq` lines; empty without one."""
        count = seq % TILE_WIDTH
        return self.read(0, seq - count, count) if count else b""

    def _stored(self) -> _Stored | None:
        """The state, where each level file is as long as it demands."""
        try:
            stored = _decode_state(self._directory.read(STATE_NAME, STATE_BYTES_MAX))
        except FileNotFoundError:
            return None
        return stored if stored is not None and self._covers(stored.checkpoint.seq) else None

    def _replace_state(self, state: _Stored) -> None:
        """Replaces the state, in one step for each process that reads it."""
        directory = self._directory
        try:
            fd = directory.create(_NEW_STATE_NAME)
        except FileExistsError:  # of a process that died
            directory.unlink(_NEW_STATE_NAME)
            fd = directory.create(_NEW_STATE_NAME)
        try:
            write_all(directory.disk, fd, _encode_state(state), 0)
        finally:
            directory.disk.close(fd)
        directory.rename(_NEW_STATE_NAME, STATE_NAME)

    def _covers(self, seq: int) -> bool:
        """Whether each level file is as long as a tree of `seq` lines demands."""
        for level in range(LEVELS_MAX):
            wanted = seq // TILE_WIDTH**level * HASH_BYTES
            if wanted == 0:
                return True
            found = self._directory.identity(str(level))
            if found is None or self._directory.disk.size(self._fd(level)) < wanted:
                return False
        return True

    def _fd(self, level: int) -> int:
        if level not in self._fds:
            is_writable = not self._is_read_only
            self._fds[level] = self._directory.open_file(str(level), writable=is_writable)
        return self._fds[level]

    def _writable(self, level: int) -> tuple[int, bool]:
        """The descriptor of a level, and whether its file was created now."""
        try:
            return self._fd(level), False
        except FileNotFoundError:
            self._fds[level] = self._directory.create(str(level))
            return self._fds[level], True

    def _short_error(self, level: int) -> ProjectionError:
        return ProjectionError(
            "a file of the tree ends too early",
            where=f"{self._directory.path}/{level}",
            do="remove that directory while no daemon runs: it is built again from the log",
        )


def stored_state(home: Path) -> Checkpoint | None:
    """The last line that the tree covers; None where there is no tree. Creates nothing."""
    with stored_files(home) as files:
        return None if files is None else files.read_state()


@contextmanager
def stored_files(home: Path) -> Iterator[LevelFiles | None]:
    """The files of the tree of a home, to be read only; None where there is no tree."""
    try:
        directory = Directory.open(home / "data" / NAME)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    with directory:
        files = LevelFiles(directory, is_read_only=True)
        try:
            yield files
        finally:
            files.close()


@contextmanager
def level_files(home: Path, *, disk: Disk | None = None) -> Iterator[LevelFiles]:
    """The files of the tree of a home, which are created where they are missing."""
    data = home / "data"
    with suppress(FileExistsError):
        make_private_dir(data)  # not the home, which may have been moved
    with (
        Directory.open(data, follow=True, disk=disk) as above,
        above.subdirectory(NAME, create=True) as directory,
    ):
        files = LevelFiles(directory)
        try:
            yield files
        finally:
            files.close()


def _encode_state(stored: _Stored) -> bytes:
    state = stored.checkpoint
    shown = {
        "seq": state.seq,
        "chain": state.chain,
        "segment": state.segment,
        "byte_offset": state.byte_offset,
        "crc": stored.crc,
    }
    return json.dumps(shown).encode() + b"\n"


def _decode_state(data: bytes) -> _Stored | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    seq, chain, crc = found.get("seq"), found.get("chain"), found.get("crc")
    # Not bool, which is an int. The size of a tree must fit the arithmetic of its files.
    if type(seq) is not int or not isinstance(chain, str) or not 0 <= seq < TILE_WIDTH**7:
        return None
    if type(crc) is not int or (seq == 0 and chain != CHAIN_START):
        return None
    hints = (found.get("segment"), found.get("byte_offset"))
    segment, byte_offset = (hint if type(hint) is int and hint >= 0 else None for hint in hints)
    state = Checkpoint(
        projection=NAME, seq=seq, chain=chain, segment=segment, byte_offset=byte_offset
    )
    return _Stored(state, crc)
