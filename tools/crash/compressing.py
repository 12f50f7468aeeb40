"""Compression, checked exhaustively: before each of its calls power fails in every way.

A writer appends once more in the middle of each run. The runs compress in place, compress into
`closed`, and move compressed segments there.

Invariant: in each state a reader, verify and a writer find every acknowledged entry, and the next
run finishes what this one began.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple
from unittest import mock

from eventlog.append.writer import Writer
from eventlog.archive import compress
from eventlog.archive.compress import compress_log
from eventlog.errors import EventLogError
from eventlog.format import compressed
from eventlog.format.segment import CLOSED_NAME
from eventlog.read.reader import LogReader
from eventlog.storage.segment_disk import SegmentDisk
from eventlog.verify.verify import verify
from tools.crash.check import HOME, RECORDED_AT, Subject, append
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.flips import SETTINGS, closed_log
from tools.crash.inodes import Inodes
from tools.crash.simulated_disk import Fault, SimulatedDisk, World
from tools.crash.states import State, digest, files_of, nothing, power_losses, random_power_loss

FRAME_BYTES = 600  # a small segment has a few frames
VERIFY_EVERY = 8  # of the states: verify is slow
NESTED_SHARE = 0.03  # of the states: power fails again at each step of the next run
CLOSED_DIR = f"{HOME.log_dir}/{CLOSED_NAME}"
RUNS = ("in place", "to closed", "moved")


class LyingDisk(SimulatedDisk):
    """Changes one byte of each larger write."""

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        if len(data) > FRAME_BYTES // 4:
            data = data[:20] + bytes([data[20] ^ 4]) + data[21:]
        return super().pwrite(fd, data, offset)


class _NoFileSync(SimulatedDisk):
    """Never syncs a file."""

    def fdatasync(self, fd: int) -> None:
        self._enter("fdatasync")
        self.size(fd)


class _NoDirectorySync(SimulatedDisk):
    """Never syncs a directory."""

    def fsync_dir(self, _path: str | int) -> None:
        self._enter_or_fail("fsync_dir")


def _any_content(_self: object, _place: str) -> compress._Content:
    """Accepts what was written without reading it."""
    return _AnyContent(0, "")


class _AnyContent(compress._Content):
    """Compares equal to any content."""

    def __eq__(self, _other: object) -> bool:
        return True

    def __ne__(self, _other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


_write_verified = compress._SegmentCompression._write_verified


def _unlink_and_make(self: compress._SegmentCompression, source: str) -> compress._Content:
    """Removes the raw file before the compressed one has its name."""
    rename = self._disk.rename

    def rename_after_unlink(old: str, new: str) -> None:
        self._disk.unlink(source)
        rename(old, new)
        self._disk.close(self._disk.create(source))  # the real code unlinks it

    with mock.patch.object(self._disk, "rename", rename_after_unlink):
        return _write_verified(self, source)


class CompressMutant(NamedTuple):
    """One mistake in compressing."""

    disk: type[SimulatedDisk] = SimulatedDisk
    patches: tuple[tuple[object, str, object], ...] = ()

    @contextmanager
    def applied(self) -> Iterator[type[SimulatedDisk]]:
        """Yields the disk with this mistake for as long as the block lasts."""
        patches = [mock.patch.object(*patch) for patch in self.patches]
        for patch in patches:
            patch.start()
        try:
            yield self.disk
        finally:
            for patch in patches:
                patch.stop()


COMPRESS_MUTANTS = {
    "no-file-sync": CompressMutant(disk=_NoFileSync),
    "no-directory-sync": CompressMutant(disk=_NoDirectorySync),
    "unlink-before-rename": CompressMutant(
        patches=((compress._SegmentCompression, "_write_verified", _unlink_and_make),)
    ),
    "no-read-back": CompressMutant(
        patches=((compress._SegmentCompression, "_content", _any_content),)
    ),
}


@contextmanager
def _small_frames() -> Iterator[None]:
    """Compresses into frames of FRAME_BYTES, and lets readers accept frames of any size below."""
    with (
        mock.patch.object(compress, "FRAME_BYTES", FRAME_BYTES),
        mock.patch.object(compressed, "FRAME_BYTES_MIN", 1),
    ):
        yield


def explore_compress(
    explorer: Explorer, disk: type[SimulatedDisk] = SimulatedDisk, runs: Iterable[str] = RUNS
) -> None:
    """Explores each run: power fails before each of its calls. Raises Failure."""
    with _small_frames():
        log = closed_log(explorer.subject)
        for run in runs:
            _Run(explorer, log, disk, run).explore()


def compress_on_a_lying_disk(explorer: Explorer) -> None:
    """Compresses on a disk that stores wrong bytes: no segment may be lost. Raises Failure."""
    with _small_frames():
        log = closed_log(explorer.subject)
        world = World(dict(log), boot=2)
        whole = _read(SimulatedDisk(world))
        try:
            with suppress(EventLogError):
                _compress(LyingDisk(world))
            _require(_read(SimulatedDisk(world)) == whole, "a reader returns less")
        except (Violation, EventLogError) as error:
            raise Failure(
                f"a disk that stores wrong bytes has cost a segment: {error}", 1
            ) from error


class _Run:
    """One run of compress, with a concurrent writer."""

    def __init__(
        self, explorer: Explorer, log: State, disk: type[SimulatedDisk], name: str
    ) -> None:
        self._explorer = explorer
        self._name = name
        self._disk = disk
        self._seen: set[int] = set()
        self._version = -1
        self.world = World(dict(log), boot=2)
        plain = SimulatedDisk(self.world)
        if name == "moved":
            _compress(plain)
        if name != "in place":
            plain.make_dir(CLOSED_DIR)
            plain.fsync_dir(HOME.log_dir)
        self._expected_log = ExpectedLog()
        self._writer = _writer(explorer.subject, SimulatedDisk(self.world, 3))
        self._append("before")
        self._calls = 0

    def explore(self) -> None:
        """Runs compress to its end. Raises Failure."""
        try:
            _compress(self._disk(self.world, 2, self._step))
        except EventLogError as error:
            raise self._failure(f"compress fails: {error}") from error
        self._step("the end")

    def _append(self, key: str) -> None:
        append(self._writer, self._expected_log.submit([f"{self._name}-{key}"]))
        self._acknowledged = _read(SimulatedDisk(World(dict(self.world.inodes), boot=2)))

    def _step(self, _: str) -> Fault | None:
        self._calls += 1
        if self._calls == 40:
            self._append("beside")
        if self._version != self.world.version:
            self._version = self.world.version
            for state in power_losses(self.world.inodes, self._explorer.models):
                self._check(state)
        return None

    def _check(self, state: State) -> None:
        key = digest(state)
        if key in self._seen or self._explorer.is_done:
            return
        self._seen.add(key)
        self._explorer.states += 1
        try:
            moments = _check_state(state, self._acknowledged, self._explorer)
            random = self._explorer.random
            for inodes in moments if random.random() < NESTED_SHARE else ():
                self._explorer.states += 1
                later = random_power_loss(inodes, random, self._explorer.models)
                _check_state(later, self._acknowledged, self._explorer)
        except (Violation, EventLogError, OSError) as error:
            raise self._failure(str(error), state) from error

    def _failure(self, why: str, state: State | None = None) -> Failure:
        return Failure(f"compressing {self._name}: {why}", self._explorer.states, state)


def _check_state(state: State, acknowledged: bytes, explorer: Explorer) -> list[Inodes]:
    """Reads the state, compresses again, and appends.

    Returns the disks of that run at which power could fail again. Raises Violation.
    """
    moments: list[Inodes] = []
    world = World(dict(state), boot=3)
    _require(
        _read(SimulatedDisk(world)) == acknowledged,
        "a reader does not return every acknowledged entry",
    )
    if explorer.states % VERIFY_EVERY == 0:
        report = verify(HOME.root, disk=SimulatedDisk(World(dict(state), boot=3)), processes=1)
        _require(report.ok, f"verify finds damage: {report.findings}")

    def step(_: str) -> None:
        if not moments or world.inodes != moments[-1]:
            moments.append(dict(world.inodes))

    _compress(SimulatedDisk(world, 1, step))
    after = World(nothing(world.inodes), boot=4)
    _require(_read(SimulatedDisk(after)) == acknowledged, "the next run has lost an entry")
    left = [path for path, _ in files_of(after.inodes) if path.endswith((".zst.new", ".damaged"))]
    _require(not left, f"the next run left {left}")
    raw = [path for path, _ in files_of(after.inodes) if path.endswith(".jsonl")]
    _require(len(raw) <= 2, f"the next run left {raw}")
    append(_writer(explorer.subject, SimulatedDisk(after, 3)), ExpectedLog().submit(["after"]))
    given = _read(SimulatedDisk(after))
    _require(given.startswith(acknowledged) and given != acknowledged, "appends do not continue")
    return moments


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Violation(otherwise)


def _compress(disk: SimulatedDisk) -> None:
    try:
        compress_log(HOME.root, disk=disk, lock_timeout_s=0.0)
    finally:
        disk.world.reap(disk.process)


def _writer(subject: Subject, disk: SimulatedDisk) -> Writer:
    settings = SETTINGS._replace(segment_bytes=1 << 20)  # the writer starts no further segment
    return subject.writer(SegmentDisk(disk), HOME, lambda: RECORDED_AT, settings, disk.process)


def _read(disk: SimulatedDisk) -> bytes:
    """The bytes that a reader returns. Raises EventLogError."""
    reader = LogReader(SegmentDisk(disk), HOME)
    try:
        return b"".join(iter(lambda: b"".join(reader.read()), b""))
    finally:
        reader.close()
