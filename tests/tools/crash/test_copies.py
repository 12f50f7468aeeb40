"""The explorer on copied homes and stale lock records: what it tries, and that it finds faults."""

from collections.abc import Iterator

import pytest

from tools.crash.check import Subject, simulation
from tools.crash.copies import (
    copied,
    explore_copies,
    explore_killed_on_copies,
    explore_stale_records,
    with_lock_record,
)
from tools.crash.explorer import Explorer
from tools.crash.flips import closed_log
from tools.crash.inodes import File
from tools.crash.simulated_disk import SimulatedDisk, World
from tools.crash.states import everything, files_of, inode_named, nothing

SUBJECT = Subject()


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with simulation():
        yield


class SyncedCopy(SimulatedDisk):
    """A disk that was synced, by `sync`, before the first process started."""

    def __init__(self, world: World, process: int = 1, step: object = None) -> None:
        super().__init__(world, process)
        world.inodes.update(everything(world.inodes))


@pytest.mark.slow
def test_what_is_vouched_for_in_a_copied_home_survives_a_power_loss() -> None:
    explorer = Explorer(SUBJECT, "copies")
    explore_copies(explorer)
    assert explorer.states > 100


@pytest.mark.slow
def test_a_killed_writer_leaves_no_record_that_vouches_for_unsynced_segments() -> None:
    explorer = Explorer(SUBJECT, "killed")
    explore_killed_on_copies(explorer)
    assert explorer.states > 100


@pytest.mark.slow
def test_a_record_of_another_moment_of_the_same_boot_hides_nothing() -> None:
    explorer = Explorer(SUBJECT, "stale")
    explore_stale_records(explorer)
    assert explorer.states > 300


@pytest.mark.slow
def test_a_copy_that_was_synced_by_hand_survives() -> None:
    """So what the exploration finds in others is the missing sync."""
    explorer = Explorer(SUBJECT._replace(disk=SyncedCopy), "synced")
    explore_copies(explorer)
    explore_killed_on_copies(explorer)
    assert explorer.states > 300


def test_a_copied_disk_has_the_same_files_and_none_of_them_durable() -> None:
    log = closed_log(SUBJECT)
    world = copied(log)
    before = {p: i.cache for p, i in files_of(log) if isinstance(i, File)}
    after = {p: i.cache for p, i in files_of(world.inodes) if isinstance(i, File)}
    assert after == before
    assert list(files_of(nothing(world.inodes))) == [("/", nothing(world.inodes)[1])]


def test_a_copied_file_is_another_one() -> None:
    log = closed_log(SUBJECT)
    paths = [path for path, inode in files_of(log) if isinstance(inode, File)]
    origin, copy = SimulatedDisk(World(dict(log))), SimulatedDisk(copied(log))
    for path in paths:
        first, second = origin.identity_at(path), copy.identity_at(path)
        assert first is not None and second is not None
        assert first[0] != second[0]
        assert first[2] == second[2]
    assert origin.identity_at("/nowhere") is None


def test_a_record_is_put_back_in_place() -> None:
    log = closed_log(SUBJECT)
    state = with_lock_record(log, b"older")
    assert inode_named(".lock", state) == inode_named(".lock", log)
    assert state[inode_named(".lock", state)] == File(b"older", b"older")
