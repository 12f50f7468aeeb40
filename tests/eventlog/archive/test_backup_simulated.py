"""Backup and restore on the simulated disk of tools/crash: power may fail before each call.

A backup is then restorable up to what it says, and never to less than before; a home has no log or
the whole one. The next run completes it.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from eventlog import back_up, restore_home
from eventlog.archive.manifest import read_manifest
from eventlog.format.scan import Tip
from eventlog.read.reader import LogReader
from eventlog.storage.directory import Directory
from eventlog.storage.home import Home
from tests.eventlog.archive.test_backup import ENTRIES, NOW, begun, build
from tests.eventlog.repair.test_repair_simulated import simulated
from tests.harness.log_checks import lines_in
from tools.crash.inodes import Inodes
from tools.crash.simulated_disk import Fault, SimulatedDisk, World
from tools.crash.states import State, digest, everything, nothing, power_losses, random_power_loss

HOME, BACKUP, NEW = "/simulated/home", "/simulated/backup", "/simulated/new"
LISTED_STATES = 60  # of what a power loss may leave at each step, in the order of the models ...
RANDOM_STATES = 6  # ... and well beyond them


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("simulated") / "home")


def states_of(inodes: Inodes, random: Random) -> Iterator[State]:
    yield nothing(inodes)
    yield everything(inodes)
    yield from islice(power_losses(inodes), LISTED_STATES)
    for _ in range(RANDOM_STATES):
        yield random_power_loss(inodes, random)


def lost_at_each_step(
    inodes: Inodes, work: Callable[[SimulatedDisk], object], check: Callable[[World], None]
) -> int:
    """Power fails, in many ways, before each call of `work`; how many states were checked."""
    world = World(inodes)
    random = Random(20251119)
    seen: set[int] = set()
    version = -1

    def step(_: str) -> Fault | None:
        nonlocal version
        if world.version != version:
            version = world.version
            for state in states_of(world.inodes, random):
                if digest(state) not in seen:
                    seen.add(digest(state))
                    check(World(dict(state), boot=2))
        return None

    work(SimulatedDisk(world, step=step))
    step("the end")
    return len(seen)


def tip_in(world: World, home: str) -> Tip:
    """The last entry of a log, each line before it verified."""
    reader = LogReader(SimulatedDisk(world), Home(home))
    try:
        while reader.read():
            pass
        return reader.tip
    finally:
        reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("has_begun", [False, True])
def test_power_may_fail_at_any_step_of_a_backup(
    home: Path, tmp_path: Path, has_begun: bool
) -> None:
    dest = tmp_path / "backup"
    seq = 0
    if has_begun:
        begun(home, dest)
        seq = len(lines_in(dest))
        assert 0 < seq < ENTRIES

    def check(world: World) -> None:
        disk = SimulatedDisk(world, process=2)
        manifest = None
        if world.find(BACKUP):
            with Directory.open(BACKUP, disk=disk) as directory:
                manifest = read_manifest(directory)
        assert manifest is not None or not seq, "the list is gone"
        if manifest is not None:
            assert manifest.last_seq >= seq
            restored = restore_home(BACKUP, NEW, disk=disk)
            assert restored.manifest == manifest
            tip = tip_in(world, NEW)
            assert (tip.seq, tip.chain) == (manifest.last_seq, manifest.chain)
        done = back_up(HOME, BACKUP, now=NOW, disk=disk)
        assert done.manifest.last_seq == ENTRIES
        assert done.repaired == ()
        restore_home(BACKUP, f"{NEW}-2", disk=disk)
        assert tip_in(world, f"{NEW}-2").chain == done.manifest.chain

    inodes = simulated(home, dest if has_begun else None)
    states = lost_at_each_step(
        inodes, lambda disk: back_up(HOME, BACKUP, now=NOW, disk=disk), check
    )
    assert states > 100


@pytest.mark.slow
def test_power_may_fail_at_any_step_of_a_restore(home: Path, tmp_path: Path) -> None:
    dest = tmp_path / "backup"
    back_up(home, dest, now=NOW)

    def check(world: World) -> None:
        if world.find(f"{NEW}/logs") is None:
            restore_home(BACKUP, NEW, disk=SimulatedDisk(world, process=2))
        assert tip_in(world, NEW).seq == ENTRIES

    inodes = simulated(home, dest)
    states = lost_at_each_step(inodes, lambda disk: restore_home(BACKUP, NEW, disk=disk), check)
    assert states > 100


def test_everything_a_finished_backup_reported_is_on_the_device(home: Path) -> None:
    world = World(simulated(home))
    back_up(HOME, BACKUP, now=NOW, disk=SimulatedDisk(world))
    lost = World(nothing(world.inodes), boot=2)
    restore_home(BACKUP, NEW, disk=SimulatedDisk(lost))
    assert tip_in(lost, NEW).seq == ENTRIES
    lost = World(nothing(lost.inodes), boot=3)
    assert tip_in(lost, NEW).seq == ENTRIES
