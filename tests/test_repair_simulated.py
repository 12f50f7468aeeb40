"""R7: a repair that dies, fails or loses power at any of its steps is finished by the next one.

On the simulated disk of tools/crash: its files are those of a real log, damaged as in test_repair.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from eventlog import EventLogError, LogCorrupt
from eventlog.durable import decode_word, encode_word
from eventlog.home import Home
from eventlog.reader import LogReader
from eventlog.repair import Repaired, repair
from tests.harness.signals import signals
from tests.harness.whole import lines_in
from tests.test_repair import DAMAGE, ENTRIES, NOW, build, forget_the_word, torn_home
from tools.crash.actors import Killed
from tools.crash.inodes import ROOT, File, Folder, Inodes, Link
from tools.crash.simdisk import Fault, SimDisk, World
from tools.crash.states import everything, files_of, nothing, random_power_loss

HOME, BACKUP = "/simulated/home", "/simulated/backup"
CHANGES = {"create", "pwrite", "truncate", "fdatasync", "fsync_dir", "rename", "unlink"}
RANDOM_STATES = 3  # of what a power loss may leave, at each step
STEPS_MAX = 200

Work = Callable[[SimDisk], Repaired]


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
            word = decode_word(data) if path.name == ".lock" else None
            if word is not None:
                data = encode_word(word._replace(boot_id=SimDisk(World()).boot_id()))
            inodes[number] = File(data, data)
        else:
            children = names or {child.name: child for child in path.iterdir()} if path else names
            found = {name: add(child, {}) for name, child in children.items()}
            inodes[number] = Folder(found, found)
        return number

    add(None, roots)
    return inodes


def simulated(home: Path, backup: Path | None = None) -> Inodes:
    inodes = inodes_of({"home": home} | ({"backup": backup} if backup else {}))
    root = inodes[ROOT]
    assert isinstance(root, Folder)
    inodes[max(inodes) + 1] = root
    below = {"simulated": max(inodes)}
    inodes[ROOT] = Folder(below, below)
    return inodes


def work(disk: SimDisk, *, backup: bool = False, accept: bool = False) -> Repaired:
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
    reader = LogReader(SimDisk(world, 9), Home(HOME))
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
                do(SimDisk(world, 1, step))
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
        report = finish(SimDisk(world, 2))
        assert report.is_done
        assert lines_of(world) == original
        assert work(SimDisk(world, 3)) == Repaired()


@pytest.mark.parametrize("name", ["a bit in a body", "the last segment missing", "zeros"])
@pytest.mark.parametrize("boot", ["this boot", "another boot"])
def test_an_acceptance_that_is_interrupted_is_finished_by_the_next(
    home: Path, name: str, boot: str
) -> None:
    DAMAGE[name](home)
    if boot == "another boot":
        forget_the_word(home)
    start = simulated(home)
    finish = partial(work, accept=True)
    reference = World(dict(start))
    finish(SimDisk(reference, 1))
    wanted = lines_of(reference)
    assert ENTRIES // 2 < len(wanted) < ENTRIES
    for world in interrupted(start, finish):
        if work(SimDisk(world, 2)).damage:
            with pytest.raises(LogCorrupt):
                lines_of(world)
            assert finish(SimDisk(world, 3)).is_done
        assert lines_of(world) == wanted
        assert work(SimDisk(world, 4)).is_done


def test_a_cut_that_is_interrupted_is_finished_by_the_next(home: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    tail = torn_home(home, torn, 700)
    tail = tail[tail.rfind(b"\n") + 1 :]
    start = simulated(torn)
    reference = World(dict(start))
    assert work(SimDisk(reference, 1)).torn_bytes_cut
    wanted = lines_of(reference)
    for world in interrupted(start, work):
        assert work(SimDisk(world, 2)).is_done
        assert lines_of(world) == wanted
        files = {path: inode for path, inode in files_of(world.inodes) if ".torn" in path}
        assert tail in [inode.cache for inode in files.values() if isinstance(inode, File)]
