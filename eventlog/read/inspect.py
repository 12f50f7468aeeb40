"""What the reading commands show of a log: raw lines, the last ones, and its figures.

Invariant: nothing is changed or made; a home without a log raises LogNotFound.
"""

from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress

from eventlog.errors import LogCorrupt
from eventlog.format.durability import End
from eventlog.format.line import HEAD, LINE_BYTES_MAX, BadLine, Entry
from eventlog.format.scan import Tip, tip_of
from eventlog.read.reader import LogReader, entries_of, present_segments, reader_near_end
from eventlog.read.seek import last_line
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.durable_state import read_word
from eventlog.storage.home import Home, home_at, list_segments
from eventlog.storage.segment_disk import Shelf, sizes_of

COUNTED_BYTES_MAX = 16 * 1024 * 1024  # a log up to this size is counted in a few milliseconds


def existing_home(path: str) -> Home:
    """The home at `path`. Raises LogNotFound where there is no log, LogCorrupt where it is gone."""
    home = home_at(path)
    present_segments(Shelf(RealDisk()), home)
    return home


def raw_lines(path: str, *, after: int = 0, limit: int | None = None) -> Iterator[list[bytes]]:
    """The lines with seq > `after`, in lists of bounded size; at most `limit` in all.

    Raises LogCorrupt at damage, after the lines before it.
    """
    disk, home = Shelf(RealDisk()), existing_home(path)
    if after:
        end, damage = _end(disk, home)
        if after >= end.seq:
            if damage is not None:
                raise damage
            return
    left = limit
    reader = LogReader(disk, home, after=after)
    try:
        while (left is None or left > 0) and (lines := reader.read()):
            yield lines[:left]
            left = left if left is None else left - len(lines)
    finally:
        reader.close()


def end_seq(path: str) -> int:
    """Seq of the last entry, also where the log is damaged before it."""
    return _end(Shelf(RealDisk()), existing_home(path))[0].seq


def follow_lines(path: str, after: int, show: Callable[[list[bytes]], object]) -> None:
    """Hands lists of lines with seq > `after` to `show` for ever, as they become durable."""
    import asyncio

    from eventlog.read.tail import follow

    async def run() -> None:
        async with aclosing(follow(Shelf(RealDisk()), existing_home(path), after=after)) as batches:
            async for lines, _ in batches:
                show(lines)

    asyncio.run(run())


def _end(disk: Disk, home: Home) -> tuple[Tip, LogCorrupt | None]:
    """The last durable entry: as its line stands where the lock's word tells where, else by
    scanning the tail. Where that meets damage, which comes along, it is the last line as it stands
    or, where that is damaged itself, the last entry that can be read.
    """
    word = read_word(disk, home)
    last = _last_tip(disk, home, word.end if word is not None else None)
    if word is not None and last is not None and last.chain == word.end.chain:
        return last, None
    reader: LogReader | None = None
    try:
        reader = reader_near_end(disk, home)
        while reader.read():
            pass
        return reader.tip, None
    except LogCorrupt as damage:
        if word is None and last is not None:
            return last, damage
        reader = reader or LogReader(disk, home)
        with suppress(LogCorrupt):
            while reader.read():
                pass
        return reader.tip, damage
    finally:
        if reader is not None:
            reader.close()


def _last_tip(disk: Disk, home: Home, end: End | None) -> Tip | None:
    """What the line that ends at `end`, or else the last line of all, says of itself."""
    segment = end.segment if end is not None else list_segments(disk, home)[-1]
    try:
        fd = disk.open(home.segment_path(segment), writable=False)
        try:
            size = end.byte_offset if end is not None else disk.size(fd)
            return tip_of(last_line(disk, fd, size))
        finally:
            disk.close(fd)
    except (BadLine, FileNotFoundError):
        return None


def read_entries(path: str, *, after: int, few: bool = False) -> Iterator[Entry]:
    """The durable entries with seq > `after`. Raises LogCorrupt at damage, after those before.

    `few`: only the first ones are wanted, so no more than a line may need is read at a time.
    """
    reader = LogReader(Shelf(RealDisk()), existing_home(path), after=after)
    if few:
        reader.chunk_bytes = LINE_BYTES_MAX
    try:
        while lines := reader.read():
            yield from entries_of(lines, reader.position)
    finally:
        reader.close()


def log_status(path: str, *, count: bool = True) -> dict[str, object]:
    """The `log` object of `eventlog status --json`.

    `signals` is None where counting them is slow, and where the log is damaged.
    """
    disk, home = Shelf(RealDisk()), existing_home(path)
    segments = list_segments(disk, home)
    size, disk_bytes = sizes_of(RealDisk(), map(home.segment_path, segments))
    tip, _ = _end(disk, home)
    signals = None
    if count and size <= COUNTED_BYTES_MAX:
        with suppress(LogCorrupt):  # signals behind damage cannot be counted
            signals = sum(
                (head := HEAD.match(line)) is not None and head[4] == b"signal"
                for lines in raw_lines(path)
                for line in lines
            )
    return {
        "first_seq": 1 if tip.seq else 0,
        "last_seq": tip.seq,
        "signals": signals,
        "segments": len(segments),
        "bytes": size,
        "disk_bytes": disk_bytes,
        "last_recorded_at": tip.recorded_at or None,
        "chain": tip.chain,
    }
