"""Paths and sizes of tiles. Pure. https://c2sp.org/tlog-tiles

    tile/<level>/<N>          256 hashes of a level
    tile/<level>/<N>.p/<W>    the first W of them, while there are no more
    tile/entries/<N>[.p/<W>]  the lines below such a tile of level 0

N is written in groups of three digits, all but the last of which begin with x: x001/x234/067.

Invariant: the tiles of a size hold each hash of its tree that is the root of a complete run once.
"""

from collections.abc import Iterator
from typing import NamedTuple

from projections.evidence.formats.merkle import TILE_WIDTH

ENTRIES = "entries"  # in place of a level
LENGTH_BYTES = 2  # before each line of a bundle
_GROUP = 1000


class Tile(NamedTuple):
    """The first `width` hashes of tile `number` of a level."""

    level: int
    number: int
    width: int

    @property
    def path(self) -> str:
        """Its path below the directory that is published."""
        return tile_path(str(self.level), self.number, self.width)


def tile_path(level: str, number: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile, or of a bundle of lines where the level is ENTRIES."""
    groups = [f"{number % _GROUP:03d}"]
    while number := number // _GROUP:
        groups.insert(0, f"x{number % _GROUP:03d}")
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{'/'.join(groups)}{partial}"


def tiles_of(size: int) -> Iterator[Tile]:
    """The tiles of a tree of `size` lines, level by level, each in order."""
    level, count = 0, size
    while count:
        for index in range(count // TILE_WIDTH):
            yield Tile(level, index, TILE_WIDTH)
        if count % TILE_WIDTH:
            yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)
        level, count = level + 1, count // TILE_WIDTH


def bundle(lines: list[bytes]) -> bytes:
    """The bytes of a bundle; lines without their newlines."""
    return b"".join(len(line).to_bytes(LENGTH_BYTES) + line for line in lines)
