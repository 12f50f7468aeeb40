"""Repairs by the hundred, on the simulated disk of tools/crash with the files of a real log.

R7: one that dies, fails or loses power at any of its steps is finished by the next one.
R3, R6: whatever the damage, no altered entry is read, and a backup puts every byte back.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eventlog import EventLog, EventLogError, LogCorrupt
from eventlog.format.durability import decode_lock_record, encode_lock_record
from eventlog.format.scan import CHAIN_UNKNOWN, tip_of
from eventlog.format.segment import segment_name
from eventlog.read.reader import LogReader
from eventlog.repair.repair import Repaired, repair
from eventlog.storage.home import Home
from tests.eventlog.repair.test_repair import (
    DAMAGE,
    ENTRIES,
    NOW,
    build,
    remove_lock_record,
    torn_home,
)
from tests.harness.log_checks import lines_in
from tests.harness.signals import a_signal, signals
from tools.crash.actors import Killed
from tools.crash.inodes import ROOT, File, Folder, Inodes, Link
from tools.crash.simulated_disk import Fault, SimulatedDisk, World
from tools.crash.states import everything, files_of, inode_named, nothing, random_power_loss

HOME, BACKUP = "/simulated/home", "/simulated/backup"
CHANGES = {"create", "pwrite", "truncate", "fdatasync", "fsync_dir", "rename", "unlink"}
RANDOM_STATES = 3  # of what a power loss may leave, at each step
STEPS_MAX = 200

Work = Callable[[SimulatedDisk], Repaired]


def inodes_of(roots: dict[str, Path]) -> Inodes:
    """A disk on which everything is durable."""
    inodes: Inodes = {}

    def add(path: Path | None, names: dict[str, Path]) -> int:
        number = len(inodes) + ROOT
        inodes[number] = File()
        if path is not None and path.is_symlink():
            inodes[number] = Link(str(path.readlink()))
        elif path is not None and path.is_file():
            data = path.read_bytes()
            inodes[number] = File(data, data)
        else:
            children = names or {child.name: child for child in path.iterdir()} if path else names
            found = {name: add(child, {}) for name, child in children.items()}
            inodes[number] = Folder(found, found)
        return number

    add(None, roots)
    _adapt_lock_records(inodes)
    return inodes


def _adapt_lock_records(inodes: Inodes) -> None:
    """Makes lock records of this machine valid on a simulated one."""
    world = World()
    for folder in [inode for inode in inodes.values() if isinstance(inode, Folder)]:
        file = inodes.get(folder.names.get(".lock", 0))
        record = decode_lock_record(file.cache) if isinstance(file, File) else None
        if record is not None:
            inode = folder.names.get(segment_name(record.end.segment), 0)
            record = record._replace(
                boot_id=SimulatedDisk(world).boot_id(), device=world.device, inode=inode
            )
            data = encode_lock_record(record)
            inodes[folder.names[".lock"]] = File(data, data)


def simulated(home: Path, backup: Path | None = None) -> Inodes:
    inodes = inodes_of({"home": home} | ({"backup": backup} if backup else {}))
    root = inodes[ROOT]
    assert isinstance(root, Folder)
    inodes[max(inodes) + 1] = root
    below = {"simulated": max(inodes)}
    inodes[ROOT] = Folder(below, below)
    return inodes


def work(disk: SimulatedDisk, *, backup: bool = False, accept: bool = False) -> Repaired:
    return repair(
        HOME,
        backup=BACKUP if backup else None,
        accept=accept,
        now=NOW,
        lock_timeout_s=0.0,
        disk=disk,
    )


def lines_of(world: World) -> list[bytes]:
    """What a reader gets to see. Raises LogCorrupt."""
    reader = LogReader(SimulatedDisk(world, 9), Home(HOME))
    found = []
    while lines := reader.read():
        found += lines
    reader.close()
    return found


def stored(world: World) -> set[bytes]:
    """All lines that stand in segments."""
    return {
        line
        for path, inode in files_of(world.inodes)
        if path.startswith(HOME) and path.endswith(".jsonl") and isinstance(inode, File)
        for line in inode.cache.splitlines(keepends=True)
    }


def interrupted(start: Inodes, do: Work) -> Iterator[World]:
    """Disks after the work died before its nth change, failed there, or power failed there."""
    random = Random(1)
    for nth in range(1, STEPS_MAX):
        left = nth
        for fault in (None, Fault()):

            def step(call: str, fault: Fault | None = fault) -> Fault | None:
                nonlocal left
                left -= call in CHANGES
                if left == 0 and call in CHANGES:
                    if fault is None:
                        raise Killed
                    return fault
                return None

            left = nth
            world = World(dict(start))
            with suppress(Killed, EventLogError):
                do(SimulatedDisk(world, 1, step))
            if left > 0:
                return
            world.reap(1)
            states = [nothing(world.inodes), everything(world.inodes)]
            states += [random_power_loss(world.inodes, random) for _ in range(RANDOM_STATES)]
            yield World(dict(world.inodes))
            yield from (World(dict(state), boot=2) for state in states)
    raise AssertionError("it never ends")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return build(tmp_path / "home")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "a bit in a body",
        "bits on both sides of a rotation",
        "a segment missing",
        "the last segment cut in a line",
        "the last two segments missing",
    ],
)
def test_a_restore_that_is_interrupted_loses_nothing_and_is_finished_by_the_next(
    home: Path, tmp_path: Path, name: str
) -> None:
    """What only we have, and the backup lacks, is there after each crash too."""
    original = lines_in(home)
    backup = build(tmp_path / "backup", like=home, more=signals(0))
    if name == "a bit in a body":
        backup = build(tmp_path / "older", like=home)
        original = lines_in(build(home, more=signals(3, start=100)))
    DAMAGE[name](home)
    kept = set(original) & set(lines_in(home))
    finish = partial(work, backup=True)
    for world in interrupted(simulated(home, backup), finish):
        assert kept <= stored(world)
        report = finish(SimulatedDisk(world, 2))
        assert report.is_done
        assert lines_of(world) == original
        assert work(SimulatedDisk(world, 3)) == Repaired()


@pytest.mark.parametrize("name", ["a bit in a body", "the last segment missing", "zeros"])
@pytest.mark.parametrize("boot", ["this boot", "another boot"])
def test_an_acceptance_that_is_interrupted_is_finished_by_the_next(
    home: Path, name: str, boot: str
) -> None:
    DAMAGE[name](home)
    if boot == "another boot":
        remove_lock_record(home)
    start = simulated(home)
    finish = partial(work, accept=True)
    reference = World(dict(start))
    finish(SimulatedDisk(reference, 1))
    wanted = lines_of(reference)
    assert ENTRIES // 2 < len(wanted) < ENTRIES
    for world in interrupted(start, finish):
        if work(SimulatedDisk(world, 2)).damage:
            with pytest.raises(LogCorrupt):
                lines_of(world)
            assert finish(SimulatedDisk(world, 3)).is_done
        assert lines_of(world) == wanted
        assert work(SimulatedDisk(world, 4)).is_done


def test_a_cut_that_is_interrupted_is_finished_by_the_next(home: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    tail = torn_home(home, torn, 700)
    tail = tail[tail.rfind(b"\n") + 1 :]
    start = simulated(torn)
    reference = World(dict(start))
    assert work(SimulatedDisk(reference, 1)).torn_bytes_cut
    wanted = lines_of(reference)
    for world in interrupted(start, work):
        assert work(SimulatedDisk(world, 2)).is_done
        assert lines_of(world) == wanted
        files = {path: inode for path, inode in files_of(world.inodes) if ".torn" in path}
        assert tail in [inode.cache for inode in files.values() if isinstance(inode, File)]


# -- whatever the damage

FLIPS_STEP = 211  # of the bytes of the log every so many-th; all of them were flipped by hand
EDITS_MAX = 4
LENGTHS = (1, 5, 100, 512, 2000)


@pytest.fixture(scope="module")
def disk_of_a_log(tmp_path_factory: pytest.TempPathFactory) -> Inodes:
    """A home and a backup of it."""
    path = tmp_path_factory.mktemp("simulated")
    home = build(path / "home")
    return simulated(home, build(path / "backup", like=home))


def segment_inodes(inodes: Inodes) -> list[int]:
    """The numbers of the files of the home's segments, in order."""
    folder = next(i for path, i in files_of(inodes) if path == f"{HOME}/logs/")
    assert isinstance(folder, Folder)
    return [folder.names[name] for name in sorted(folder.names) if name.endswith(".jsonl")]


def bytes_at(inodes: Inodes, ino: int) -> bytes:
    file = inodes[ino]
    assert isinstance(file, File)
    return file.cache


def with_bytes(inodes: Inodes, changed: dict[int, bytes], *, has_lock_record: bool) -> Inodes:
    after = {**inodes, **{ino: File(data, data) for ino, data in changed.items()}}
    if not has_lock_record:
        after[inode_named(".lock", inodes)] = File()
    return after


def check_accept_and_restore(start: Inodes, damaged: Inodes) -> int:
    """Accepts the damage on one disk and restores it on another. Gives how many entries it cost."""
    original = lines_of(World(dict(start)))
    world = World(dict(damaged))
    if not work(SimulatedDisk(world, 1)).damage:
        assert lines_of(world) == original  # bytes were added at the end, and are torn
        return 0
    report = work(SimulatedDisk(world, 2), accept=True)
    assert report.is_done
    lost = {s for gap in report.accepted for s in range(gap.seq_from, gap.seq_to + 1)}
    at_their_word = {gap.seq_to + 1 for gap in report.accepted if gap.chain == CHAIN_UNKNOWN}
    kept = [line for seq, line in enumerate(original, 1) if seq not in lost]
    found = lines_of(world)
    assert [tip_of(line).seq for line in found] == [tip_of(line).seq for line in kept]
    for line, wanted in zip(found, kept, strict=True):
        assert line == wanted or tip_of(line).seq in at_their_word
    with EventLog(HOME, disk=SimulatedDisk(world, 3), allow_network_fs=True) as log:
        log.append(a_signal(777))
    assert lines_of(world)[:-1] == found
    restored = World(dict(damaged))
    assert work(SimulatedDisk(restored, 1), backup=True).is_done
    assert lines_of(restored) == original
    for path, inode in files_of(start):
        if path.startswith(HOME) and path.endswith(".jsonl") and isinstance(inode, File):
            assert bytes_at(restored.inodes, restored.find(path) or 0) == inode.cache
    return len(lost)


@pytest.mark.slow
def test_a_flipped_bit_costs_one_entry_wherever_it_is(disk_of_a_log: Inodes) -> None:
    random = Random(2)
    for number, ino in enumerate(segment_inodes(disk_of_a_log)):
        data = bytes_at(disk_of_a_log, ino)
        for at in range(number, len(data), FLIPS_STEP):
            flipped = bytearray(data)
            flipped[at] ^= 1 << random.randrange(8)
            has_lock_record = bool(random.getrandbits(1))
            damaged = with_bytes(
                disk_of_a_log, {ino: bytes(flipped)}, has_lock_record=has_lock_record
            )
            assert check_accept_and_restore(disk_of_a_log, damaged) == 1


EDITS = st.tuples(
    st.sampled_from(["flip", "zero", "cut", "delete", "repeat", "insert", "swap lines", "swap"]),
    st.integers(0, 3),  # segment
    st.floats(0, 1, exclude_max=True),  # where in it
    st.sampled_from(LENGTHS),
)


def edited(files: list[bytes], edit: tuple[str, int, float, int]) -> list[bytes]:
    """The files of a log after one more damage."""
    kind, index, part, length = edit
    data = files[index]
    at = int(part * len(data))
    end = min(at + length, len(data))
    files = list(files)
    if kind == "flip" and data:
        files[index] = data[:at] + bytes([data[at] ^ 1 << length % 8]) + data[at + 1 :]
    elif kind == "zero":
        files[index] = data[:at] + bytes(end - at) + data[end:]
    elif kind == "cut":
        files[index] = data[:at]
    elif kind == "delete":
        files[index] = data[:at] + data[end:]
    elif kind == "repeat":
        files[index] = data[:end] + data[at:]
    elif kind == "insert":
        files[index] = data[:at] + Random(at).randbytes(length) + data[at:]
    elif kind == "swap lines" and data:
        lines = data.splitlines(keepends=True)
        one, other = int(part * len(lines)), length % len(lines)
        lines[one], lines[other] = lines[other], lines[one]
        files[index] = b"".join(lines)
    elif kind == "swap":
        other = length % len(files)
        files[index], files[other] = files[other], files[index]
    return files


@pytest.mark.slow
@settings(max_examples=200)
@given(edits=st.lists(EDITS, min_size=1, max_size=EDITS_MAX), has_lock_record=st.booleans())
def test_no_altered_bytes_are_read_and_a_backup_repairs_any_damage(
    disk_of_a_log: Inodes, edits: list[tuple[str, int, float, int]], has_lock_record: bool
) -> None:
    numbers = segment_inodes(disk_of_a_log)
    whole = files = [bytes_at(disk_of_a_log, ino) for ino in numbers]
    for edit in edits:
        files = edited(files, edit)
    assume(files != whole)
    changed = dict(zip(numbers, files, strict=True))
    check_accept_and_restore(
        disk_of_a_log, with_bytes(disk_of_a_log, changed, has_lock_record=has_lock_record)
    )
