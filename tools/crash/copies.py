"""Homes that other programs copied, and lock records that are older than their log.

`explore_copies`: a home whose every byte and name is in the page cache alone, as `cp -r` leaves it:
raw, compressed, and with segments in `closed`. A writer appends, or a reader reads; then power
fails. What was acknowledged or handed out is there afterwards, with all that stands before it.

`explore_stale_records`: a log of this boot, as a snapshot of the volume holds it, beside the lock
record of any other moment of the same boot; on the same device and on another one. Readers and
writers find every acknowledged entry, refuse nothing and cut nothing.

Invariant: the same seed tries the same states.
"""

from collections.abc import Callable
from contextlib import closing
from itertools import count
from typing import NamedTuple

from eventlog.archive.compress import compress_log
from eventlog.errors import EventLogError, LogCorrupt
from eventlog.format.durability import (
    CLEAN,
    LockRecord,
    LogEnd,
    decode_lock_record,
    decode_watermark,
    encode_lock_record,
)
from eventlog.format.segment import CLOSED_NAME
from eventlog.read.reader import LogReader
from eventlog.storage.segment_disk import SegmentDisk
from tools.crash.actors import Killed
from tools.crash.check import HOME, RECORDED_AT, Subject, append, check
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.flips import SETTINGS, closed_log
from tools.crash.histories import FLUSH, History
from tools.crash.inodes import File, Folder, Inodes, Write
from tools.crash.simulated_disk import SimulatedDisk, World
from tools.crash.states import (
    State,
    everything,
    files_of,
    inode_named,
    nothing,
    random_power_loss,
)

RANDOM_STATES = 8  # of each moment, beside the two extremes
STALE_WORKLOAD = (1, 2, FLUSH, 6, 1, 3, FLUSH, 2)  # a few segments; the watermark is late at times
THIS_BOOT = 1  # a record of another boot says nothing, which the other explorations hold
DEVICES = (1, 2)  # the one that the record was written on, and another one
KEPT = ("raw", "compressed", "in closed")


def copied(inodes: Inodes, *, boot: int = THIS_BOOT, device: int = 2) -> World:
    """A new disk with the files of another one, as `cp -r` leaves them: nothing of it is synced."""
    world = World(boot=boot, device=device)
    disk = SimulatedDisk(world)
    for path, inode in files_of(inodes):
        if isinstance(inode, Folder):
            if path != "/":
                disk.make_dir(path.rstrip("/"))
        elif isinstance(inode, File):
            fd = disk.create(path)
            disk.pwrite(fd, inode.cache, 0)
            disk.close(fd)
        else:
            disk.link(inode.target, path)
    return world


def unsynced(inodes: Inodes, *, device: int = 2, generation: int = 1) -> World:
    """The same as `copied`, where each file happens to get the inode number of its origin."""
    world = World({**inodes}, boot=THIS_BOOT, device=device, generation=generation)
    for ino, inode in inodes.items():
        if isinstance(inode, File):
            world.inodes[ino] = File(inode.cache, b"", (Write(0, inode.cache),))
    return world


def put_back(inodes: Inodes) -> World:
    """A home that was removed, and copied back to its disk: the inode numbers are used again."""
    return unsynced(inodes, device=DEVICES[0], generation=2)


def with_lock_record(inodes: Inodes, record: bytes) -> State:
    """The same disk with these bytes in `.lock`, written in place."""
    ino = inode_named(".lock", inodes)
    return {**inodes, ino: File(record, record)} if ino else dict(inodes)


# -- copied homes


def explore_copies(explorer: Explorer) -> None:
    """Writers and readers on copies, raw and compressed. Raises Failure."""
    for kept in KEPT:
        log = _kept_log(explorer.subject, kept)
        for act in (_append, _read_on, _read_the_end, _read_and_append):
            if explorer.is_done:
                return
            name = f"{act.__name__.strip('_')}, {kept}"
            _Copy(explorer, log, name).explore(act)
            if kept == "raw":
                record = _record_of(log, explorer.subject)
                for copy in (copied, unsynced, put_back):
                    beside = with_lock_record(log, record)
                    _Copy(explorer, beside, f"{name}, with its record", copy=copy).explore(act)


def explore_killed_on_copies(explorer: Explorer) -> None:
    """The first writer of a copy dies at each of its steps; another process goes on there.

    What the first one left in the lock record vouches for no segment that it had not synced.
    Raises Failure.
    """
    for kept in KEPT:
        log = _kept_log(explorer.subject, kept)
        for act in (_append, _read_on):
            for moment in count():
                name = f"{act.__name__.strip('_')} behind a killed writer, {kept}"
                copy = _Copy(explorer, log, name, random_states=0)
                if explorer.is_done or not copy.killed_at(moment):
                    break
                copy.explore(act)


def _kept_log(subject: Subject, kept: str) -> State:
    """A log of three segments, closed well."""
    log = closed_log(subject)
    if kept == "raw":
        return log
    world = World(dict(log), boot=2)
    disk = SimulatedDisk(world)
    if kept == "in closed":
        disk.make_dir(f"{HOME.log_dir}/{CLOSED_NAME}")
        disk.fsync_dir(HOME.log_dir)
    compress_log(HOME.root, disk=disk, lock_timeout_s=0.0)
    return everything(world.inodes)


def _record_of(log: State, subject: Subject) -> bytes:
    """A `clean` record of this boot with the end of the log, as its writer left it."""
    disk = subject.disk(World(dict(log), boot=THIS_BOOT, device=DEVICES[0]))
    with closing(LogReader(disk, HOME)) as reader:
        while reader.read():
            pass
        position = reader.position
        end = LogEnd(*position, reader.tip.seq, reader.tip.chain)
    found = disk.identity_at(HOME.segment_path(position.segment))
    assert found is not None, "the last segment is raw"
    file = (found.device, found.inode, disk.generation_at(HOME.segment_path(position.segment)))
    record = LockRecord(disk.boot_id(), 1, CLEAN, end, *file)
    return encode_lock_record(record)


class _Copy:
    """One copy, what is owed on it, and the power losses that it must survive."""

    def __init__(
        self,
        explorer: Explorer,
        log: State,
        name: str,
        *,
        random_states: int = RANDOM_STATES,
        copy: Callable[[Inodes], World] = copied,
    ) -> None:
        self.explorer = explorer
        self.subject = explorer.subject
        self.world = copy(log)
        self.owed = b""  # lines that a reader returned, or that a receipt covers
        self.has_receipt = False  # from then on the whole log is durable
        self._name = name
        self._random_states = random_states

    def killed_at(self, moment: int) -> bool:
        """A writer appends, and dies when it has changed the disk so often; whether it did."""
        left, version = moment, self.world.version

        def step(_: str) -> None:
            nonlocal left, version
            left -= self.world.version != version
            version = self.world.version
            if left < 0:
                raise Killed

        disk = SegmentDisk(self.subject.disk(self.world, 3, step))
        writer = self.subject.writer(disk, HOME, lambda: RECORDED_AT, SETTINGS, 3)
        try:
            append(writer, ExpectedLog().submit(["killed"]))
        except Killed:
            return True
        finally:
            self.world.reap(3)
        return False

    def explore(self, act: Callable[["_Copy"], None]) -> None:
        """Acts on the copy; what is owed then survives any power loss. Raises Failure."""
        try:
            act(self)
        except (EventLogError, OSError, Violation) as error:
            raise self._failure(f"it is refused: {error}") from error

    def disk(self, process: int) -> SegmentDisk:
        """The copy as a process sees it: segments look raw however they are kept."""
        return SegmentDisk(self.subject.disk(self.world, process))

    def owe(self, lines: bytes) -> None:
        """These lines, from the start of the log on, are owed from here on. Raises Failure."""
        self.owed = lines
        inodes, random = self.world.inodes, self.explorer.random
        self._try(nothing(inodes))
        self._try(everything(inodes))
        for _ in range(self._random_states):
            self._try(random_power_loss(inodes, random, self.explorer.models))

    def _try(self, state: State) -> None:
        if self.explorer.is_done:
            return
        self.explorer.states += 1
        found = b""
        try:
            with closing(LogReader(_disk_of(state), HOME)) as reader:
                while lines := reader.read():
                    found += b"".join(lines)
        except (EventLogError, OSError) as error:
            # Segments that no reader has reached are lost, and so is the log behind them.
            if self.has_receipt or not found.startswith(self.owed):
                raise self._failure(f"after a power loss it is refused: {error}", state) from error
        if not found.startswith(self.owed):
            why = f"{len(self.owed)} bytes were handed out, {len(found)} are left"
            raise self._failure(why, state)

    def _failure(self, why: str, state: State | None = None) -> Failure:
        return Failure(f"a copied home ({self._name}): {why}", self.explorer.states, state)


def _disk_of(state: State) -> SegmentDisk:
    return SegmentDisk(SimulatedDisk(World(dict(state), boot=2)))


def _append(copy: _Copy) -> None:
    """A receipt vouches for every line before it too."""
    settings = SETTINGS._replace(segment_bytes=1 << 20)
    writer = copy.subject.writer(copy.disk(1), HOME, lambda: RECORDED_AT, settings, 1)
    expected = ExpectedLog()
    for number in range(2):
        append(writer, expected.submit([f"copy-{number}"]))
        copy.has_receipt = True
        copy.owe(_cached_lines(copy.world))
    writer.close()
    copy.owe(_cached_lines(copy.world))


def _read_on(copy: _Copy) -> None:
    """Each line that leaves a reader is owed."""
    with closing(LogReader(copy.disk(1), HOME)) as reader:
        given = b""
        while lines := reader.read():
            given += b"".join(lines)
            copy.owe(given)


def _read_the_end(copy: _Copy) -> None:
    """A line vouches for those before it too, which this reader never sees: it has a checkpoint."""
    lines = _cached_lines(copy.world).splitlines(keepends=True)
    with closing(LogReader(copy.disk(1), HOME, after=len(lines) - 1)) as reader:
        while reader.read():
            copy.owe(b"".join(lines[: reader.tip.seq]))


def _read_and_append(copy: _Copy) -> None:
    """A writer syncs again what a reader has synced, or knows that it need not."""
    _read_on(copy)
    _append(copy)


def _cached_lines(world: World) -> bytes:
    """All lines as the page cache holds them, read on a disk of its own."""
    return _all_lines(SegmentDisk(SimulatedDisk(World(dict(world.inodes), boot=world.boot))))


def _all_lines(disk: SegmentDisk) -> bytes:
    with closing(LogReader(disk, HOME)) as reader:
        return b"".join(iter(lambda: b"".join(reader.read()), b""))


# -- stale records


class _Moment(NamedTuple):
    """A snapshot of the volume, and what was acknowledged by then."""

    inodes: Inodes
    expected: ExpectedLog


def explore_stale_records(explorer: Explorer) -> None:
    """Each snapshot of a history, with each lock record of that history. Raises Failure."""
    records, moments = _snapshots(explorer)
    for moment in moments:
        for record in records:
            for device in DEVICES:
                if explorer.is_done:
                    return
                _try_stale(explorer, moment, record, device)
    for number, moment in enumerate(moments):
        for later in moments[number + 1 :]:
            _try_put_back(explorer, moment, later)


def _snapshots(explorer: Explorer) -> tuple[list[bytes], list[_Moment]]:
    """The versions of the record, and the moments at which nothing is under way."""
    history = History(explorer, World(boot=THIS_BOOT))
    records: list[bytes] = []
    moments: list[_Moment] = []

    def step(_: str) -> None:
        if not history.has_changed():
            return
        inodes = history.world.inodes
        file = inodes.get(inode_named(".lock", inodes))
        if isinstance(file, File) and file.cache not in records:
            records.append(file.cache)
        if isinstance(file, File) and b" clean " in file.cache:
            moments.append(_Moment(dict(inodes), history.expected.copy()))

    history.run(1, STALE_WORKLOAD, step)
    step("the end")
    return records, moments


def _try_stale(explorer: Explorer, moment: _Moment, record: bytes, device: int) -> None:
    explorer.states += 1
    inodes, expected = moment
    state = with_lock_record(nothing(inodes), record)
    if device == DEVICES[0] and _has_lost_bytes(record, inodes):
        return
    try:
        check(state, expected.copy(), explorer.subject, THIS_BOOT, device=device)
    except Violation as error:
        where = "the same device" if device == DEVICES[0] else "another device"
        why = f"a record of another moment, on {where}: {error}; the record: {record!r}"
        raise Failure(why, explorer.states, state) from error


def _try_put_back(explorer: Explorer, moment: _Moment, later: _Moment) -> None:
    """The log of a moment with its own lock record, and the watermark of a later moment."""
    ino = inode_named(".durable", moment.inodes)
    watermark = _bytes_of(".durable", later.inodes)
    durable = decode_watermark(watermark)
    own = decode_lock_record(_bytes_of(".lock", moment.inodes))
    if not ino or durable is None or own is None or durable.end.seq <= own.end.seq:
        return
    explorer.states += 1
    state = {**nothing(moment.inodes), ino: File(watermark, watermark)}
    state = with_lock_record(state, _bytes_of(".lock", moment.inodes))
    disk = SegmentDisk(explorer.subject.disk(World(dict(state), boot=THIS_BOOT), 1))
    try:
        with closing(LogReader(disk, HOME)) as reader:
            while reader.read():
                pass
    except LogCorrupt:
        return
    why = f"a log that was put back is read to its end, though {durable.end.seq} was durable"
    raise Failure(why, explorer.states, state)


def _bytes_of(name: str, inodes: Inodes) -> bytes:
    file = inodes.get(inode_named(name, inodes))
    return file.cache if isinstance(file, File) else b""


def _has_lost_bytes(record: bytes, inodes: Inodes) -> bool:
    """Whether the very file that the record names is shorter than its durable end: it was cut."""
    said = decode_lock_record(record)
    if said is None:
        return False
    path = HOME.segment_path(said.end.segment)
    return any(
        at == path and isinstance(inode, File) and len(inode.device) < said.end.byte_offset
        for at, inode in files_of(inodes)
    )
