"""The crash-state explorer: the log survives every state, and each mutant of it fails."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventlog.append.batch import Receipt
from eventlog.append.segment_writer import WriterSettings
from eventlog.storage.disk import Disk, RealDisk
from tools.crash.__main__ import main
from tools.crash.check import Subject, simulation
from tools.crash.copies import (
    explore_copies,
    explore_killed_on_copies,
    explore_stale_records,
)
from tools.crash.damages import sweep_damages
from tools.crash.exhaustive import explore, explore_takeovers
from tools.crash.expected_log import ExpectedLog, Violation
from tools.crash.explorer import Explorer, Failure
from tools.crash.flips import sweep
from tools.crash.histories import work
from tools.crash.inodes import SECTOR_BYTES, File
from tools.crash.mutants import MUTANTS
from tools.crash.random_histories import RandomHistory
from tools.crash.readers import explore_readers
from tools.crash.rejoins import explore_rejoin
from tools.crash.replicas import (
    BATCHES,
    explore_damaged_replica,
    explore_killed_replica,
    explore_replica,
)
from tools.crash.simulated_disk import NO_BOOT_ID, Fault, SimulatedDisk, World
from tools.crash.states import ADVERSARIAL, BOTH, ORDERED, power_losses

SUBJECT = Subject(
    settings=WriterSettings(segment_bytes=2500, dedupe_entries=100, lock_timeout_s=1.0)
)
# Two segments, a flush of the watermark, and another process. `python -m tools.crash` explores
# longer ones, and more rounds.
WORKLOAD = (1, 2, 0, 4, -1, 2, 1)
TAKEN_OVER = (1, 0, 4)
ROUNDS = 8


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with simulation():
        yield


def flips(explorer: Explorer) -> None:
    sweep(explorer.subject)


def one_writer(explorer: Explorer) -> None:
    explore(explorer, WORKLOAD)


def two_writers(explorer: Explorer) -> None:
    explore_takeovers(explorer, TAKEN_OVER)


def random_histories(explorer: Explorer) -> None:
    for number in range(ROUNDS):
        RandomHistory(explorer, f"histories-{number}").run()


def states_until_detected(
    name: str, search: Callable[[Explorer], None], models: tuple[str, ...] = BOTH
) -> int | None:
    """The number of states until the mutant was detected; None if it was not."""
    with MUTANTS[name].applied(SUBJECT) as mutant:
        try:
            search(Explorer(mutant, models=models))
        except Failure as failure:
            return failure.states
    return None


@pytest.mark.slow
def test_power_may_fail_at_any_step_of_a_writer() -> None:
    explorer = Explorer(SUBJECT)
    one_writer(explorer)
    assert explorer.states > 1000


@pytest.mark.slow
def test_a_writer_may_die_or_fail_to_sync_at_any_step_and_power_fail_in_the_next_one() -> None:
    explorer = Explorer(SUBJECT)
    two_writers(explorer)
    assert explorer.states > 1000


@pytest.mark.slow
def test_power_may_fail_at_any_step_where_no_boot_id_can_be_read() -> None:
    explorer = Explorer(SUBJECT, states_max=3000)
    explore(explorer, TAKEN_OVER, boot=NO_BOOT_ID)
    explore_takeovers(explorer, TAKEN_OVER, boot=NO_BOOT_ID)
    assert explorer.states > 1000


@pytest.mark.slow
def test_a_writer_may_overtake_a_reader_at_any_call_and_die_at_any_step() -> None:
    explorer = Explorer(SUBJECT)
    explore_readers(explorer)
    assert explorer.states > 1000


@pytest.mark.slow
def test_processes_may_die_fail_to_sync_and_lose_power_in_any_order() -> None:
    explorer = Explorer(SUBJECT)
    random_histories(explorer)
    assert explorer.states > 1000


@pytest.mark.slow
def test_power_may_fail_at_any_step_of_a_replica() -> None:
    explorer = Explorer(SUBJECT)
    explore_replica(explorer)
    assert explorer.states > 1000


@pytest.mark.slow
def test_a_follower_may_be_killed_at_any_step_and_power_fail_under_the_next_one() -> None:
    explorer = Explorer(SUBJECT)
    explore_killed_replica(explorer)
    assert explorer.states > 1000


def test_damage_below_the_watermark_of_a_replica_is_refused_and_beyond_it_cut() -> None:
    explorer = Explorer(SUBJECT)
    explore_damaged_replica(explorer)
    assert explorer.states == sum(BATCHES)


@pytest.mark.slow
def test_a_rejoin_may_be_killed_or_lose_power_at_any_step_and_be_run_again() -> None:
    explorer = Explorer(SUBJECT)
    explore_rejoin(explorer)
    assert explorer.states > 500


@pytest.mark.slow
def test_every_flipped_bit_of_acknowledged_bytes_is_detected() -> None:
    """The accepted limit is counted: the last batch, where no watermark covers it."""
    counts = sweep(SUBJECT)
    halts = counts.halted + counts.only_reader
    assert halts > 10_000
    assert counts.flips == halts + counts.torn + counts.harmless
    assert 0 < counts.torn < counts.flips / 20


@pytest.mark.slow
def test_every_truncated_moved_duplicated_or_missing_segment_is_detected() -> None:
    """Lines, sectors and whole segments, everywhere in a log that its watermark covers."""
    counts = sweep_damages(SUBJECT)
    assert counts.halted + counts.only_reader == counts.flips > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "search"),
    [
        ("ack-before-sync", one_writer),
        ("no-directory-sync", one_writer),
        ("torn-tail-not-cut", one_writer),
        ("refuse-valid-after-bad", one_writer),
        ("cut-any-bad-line", flips),
        ("readers-unbounded", one_writer),
        ("no-dontneed", two_writers),
        ("clean-before-sync", one_writer),
        ("evidence-must-verify", flips),
        ("retry-sync", two_writers),
        ("no-parent-sync", one_writer),
        ("readers-unbounded", random_histories),  # as a projector that comes back to its database
        ("no-lock", random_histories),
        ("torn-tail-not-kept", one_writer),
        ("one-watermark-slot", one_writer),
        ("record-any-file", explore_copies),
        ("record-any-device", explore_copies),
        ("record-any-size", explore_stale_records),
        ("record-ignores-watermark", explore_stale_records),
        ("record-ignores-next-segment", explore_stale_records),
        ("sync-last-only", explore_copies),
        ("sync-no-closed", explore_copies),
        ("sync-no-names", explore_copies),
        ("record-any-generation", explore_copies),
        ("record-writing-of-nobody", explore_stale_records),
        ("reader-syncs-nothing-before", explore_copies),
        ("reader-syncs-last-only", explore_copies),
        ("reader-syncs-late", explore_copies),
        ("writing-before-all-synced", explore_killed_on_copies),
        ("replica-lines-are-evidence", explore_replica),
        ("replica-watermark-before-sync", explore_replica),
        ("replica-cuts-below-watermark", explore_damaged_replica),
        ("replica-mark-unsynced", explore_replica),
        ("rejoin-aside-unsynced", explore_rejoin),
        ("rejoin-first-segment-first", explore_rejoin),
        ("rejoin-keeps-watermark", explore_rejoin),
    ],
)
def test_each_mutant_is_detected(
    name: str,
    search: Callable[[Explorer], None],
    record_property: Callable[[str, object], None],
) -> None:
    states = states_until_detected(name, search)
    assert states is not None, f"{name} survives"
    record_property("states_until_death", states)


def test_every_mutant_has_its_test() -> None:
    (mark,) = (m for m in test_each_mutant_is_detected.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == set(MUTANTS)


@pytest.mark.slow
def test_only_the_adversarial_model_detects_the_mutant_refuse_valid_after_bad() -> None:
    assert states_until_detected("refuse-valid-after-bad", one_writer, (ORDERED,)) is None
    assert states_until_detected("refuse-valid-after-bad", one_writer, (ADVERSARIAL,)) is not None


@pytest.mark.slow
def test_only_the_adversarial_model_shows_that_lines_are_no_evidence_on_a_replica() -> None:
    name = "replica-lines-are-evidence"
    assert states_until_detected(name, explore_replica, (ORDERED,)) is None
    assert states_until_detected(name, explore_replica, (ADVERSARIAL,)) is not None


@pytest.mark.slow
def test_only_the_flip_sweep_detects_the_mutant_cut_any_bad_line() -> None:
    assert states_until_detected("cut-any-bad-line", one_writer) is None


# -- the explorer's own parts


def disks(tmp_path: Path) -> Iterator[tuple[Disk, str]]:
    sim = SimulatedDisk(World())
    sim.make_dir("/home")
    yield sim, "/home"
    yield RealDisk(), str(tmp_path)


def outcome_of(call: Callable[[], object]) -> object:
    """The result of a call, or the number of its error."""
    try:
        return call()
    except OSError as error:
        return f"OSError {error.errno}"


def history(disk: Disk, root: str) -> Iterator[object]:
    """The results of a few calls of each kind."""
    yield outcome_of(lambda: disk.names(f"{root}/a"))
    disk.make_dir(f"{root}/a")
    yield outcome_of(lambda: disk.make_dir(f"{root}/a"))
    yield disk.is_dir(f"{root}/a"), disk.is_dir(f"{root}/b")
    yield outcome_of(lambda: disk.open(f"{root}/a/f", writable=True))
    fd = disk.create(f"{root}/a/f")
    yield outcome_of(lambda: disk.create(f"{root}/a/f"))
    yield disk.pwrite(fd, b"hello", 3), disk.size(fd), disk.pread(fd, 99, 1)
    disk.truncate(fd, 6)
    disk.fdatasync(fd)
    disk.fsync_dir(f"{root}/a")
    yield disk.pread(fd, 2, 5), disk.pread(fd, 2, 6)
    disk.truncate(fd, 9)
    disk.drop_cache(fd)
    other = disk.open(f"{root}/a/f", writable=False)
    yield disk.pread(other, 99, 0)
    yield disk.try_lock(fd), disk.try_lock(other), disk.try_lock(fd)
    yield disk.is_locked(other)
    disk.unlock(fd)
    yield disk.is_locked(other), disk.try_lock(other), disk.try_lock(fd)
    disk.close(other)
    yield disk.try_lock(fd)
    disk.rename(f"{root}/a/f", f"{root}/a/g")
    yield disk.size_at(fd, f"{root}/a/f"), disk.size_at(fd, f"{root}/a/g")
    yield [disk.identity_at(f"{root}/{path}") for path in ("a", "a/f")]
    disk.link("one", f"{root}/a/link")
    disk.link("two", f"{root}/a/link")
    yield disk.link_target(f"{root}/a/link"), disk.link_target(f"{root}/a/g")
    yield [(disk.identity_at(f"{root}/a/{name}") or ())[2:] for name in ("link", "g")]
    yield sorted(disk.names(f"{root}/a"))
    folder, same = disk.open_dir(f"{root}/a"), disk.open_dir(f"{root}/a")
    yield disk.try_lock(folder), disk.try_lock(same), disk.is_locked(same)
    disk.close(folder)
    yield disk.is_locked(same)
    disk.close(same)
    yield from history_by_descriptor(disk, f"{root}/a", fd)
    disk.unlink(f"{root}/a/g")
    yield sorted(disk.names(f"{root}/a")), disk.pread(fd, 4, 3)
    disk.close(fd)


def history_by_descriptor(disk: Disk, path: str, g: int) -> Iterator[object]:
    """The results of calls that name files in an open directory, in which `g` is open."""
    folder = disk.open_dir(path, follow=False)
    disk.make_dir("b", dir_fd=folder)
    inner = disk.open_dir("b", dir_fd=folder, follow=False)
    fd = disk.create("f", dir_fd=inner)
    yield outcome_of(lambda: disk.create("f", dir_fd=inner))
    yield outcome_of(lambda: disk.open("f", writable=True, dir_fd=folder))
    disk.close(disk.open("b/f", writable=True, dir_fd=folder))
    yield disk.pwrite(fd, b"hello", 0), disk.size_at(fd, "f", dir_fd=inner)
    yield disk.size_at(fd, "g", dir_fd=folder), disk.size_at(g, "g", dir_fd=folder)
    disk.fsync_dir(inner)
    yield (disk.identity_of(fd) == disk.identity_at("f", dir_fd=inner)), disk.link_count(fd)
    disk.rename("f", "h", dir_fd=inner)
    yield disk.names(inner), sorted(disk.names(folder))
    yield disk.identity_at("f", dir_fd=inner), disk.size_at(fd, f"{path}/b/h")
    disk.unlink("h", dir_fd=inner)
    yield disk.names(f"{path}/b"), disk.link_count(fd), disk.size(fd)
    for opened in (fd, inner, folder):
        disk.close(opened)


def test_the_simulated_disk_behaves_like_the_real_one(tmp_path: Path) -> None:
    sim, real = (list(history(disk, root)) for disk, root in disks(tmp_path))
    assert sim == real


def synced_file(data: bytes) -> tuple[SimulatedDisk, int]:
    disk = SimulatedDisk(World())
    fd = disk.create("/f")
    disk.pwrite(fd, data, 0)
    disk.fdatasync(fd)
    disk.fsync_dir("/")
    return disk, fd


def contents(disk: SimulatedDisk, model: str) -> set[bytes]:
    """What the file may hold after a power loss."""
    files = (
        state[disk.world.find("/f") or 0] for state in power_losses(disk.world.inodes, [model])
    )
    return {file.cache for file in files if isinstance(file, File)}


def test_a_power_loss_cuts_a_write_at_its_ends_its_lines_and_its_sectors() -> None:
    disk, fd = synced_file(b"1\n")
    disk.pwrite(fd, b"ab\ncd\n" + bytes(600), 2)
    lengths = {len(data) for data in contents(disk, ORDERED)}
    sector_end = SECTOR_BYTES
    assert lengths >= {2, 3, 2 + 303, 2 + 605, 2 + 606, sector_end} | {4, 5, 6, 7, 8, 9}


def test_a_power_loss_may_take_any_two_sectors_of_what_was_not_synced() -> None:
    disk, fd = synced_file(b"1\n")
    disk.pwrite(fd, b"x" * 4 * SECTOR_BYTES, 2)
    found = contents(disk, ADVERSARIAL)
    assert {data[:2] for data in found} == {b"1\n"}
    assert {len(data) for data in found} == {2 + 4 * SECTOR_BYTES}
    # 5 sectors hold new bytes: one, or two, or all of them missing, as zeros or as garbage.
    assert len(found) == 2 * (5 + 10 + 1)


def test_a_power_loss_takes_any_names_that_were_not_synced_and_no_others() -> None:
    disk, _ = synced_file(b"")
    for name in "abc":
        disk.close(disk.create(f"/{name}"))

    def names(model: str) -> set[str]:
        states = power_losses(disk.world.inodes, [model])
        return {"".join(sorted(SimulatedDisk(World(dict(state))).names("/"))) for state in states}

    assert names(ORDERED) == {"f", "af", "abf", "abcf"}
    assert names(ADVERSARIAL) == names(ORDERED) | {"bf", "cf", "acf", "bcf"}


def test_the_expected_log_detects_lost_and_unsubmitted_entries() -> None:
    world, expected = World(), ExpectedLog()
    work(SimulatedDisk(world), expected, SUBJECT, (2, 1), "w")
    expected.collect()
    assert expected.acknowledged.keys() == {1, 2, 3}
    expected.check(world.inodes)
    expected.acknowledge(4, "0" * 64)
    with pytest.raises(Violation, match="entry 4 is lost"):
        expected.check(world.inodes)
    with pytest.raises(Violation, match="never submitted"):
        ExpectedLog().check(world.inodes)


def test_the_expected_log_never_withdraws_an_acknowledged_entry() -> None:
    """A retry that fails does not show whether the entry is in the log."""
    expected = ExpectedLog()
    first = expected.submit(["s1"])
    first.settle(0, Receipt(1, "s1", None, "0" * 64, "2025-11-18T02:00:00.000000Z", False))
    expected.collect()
    again, never = expected.submit(["s1"]), expected.submit(["s2"])
    expected.withdraw(again)
    expected.withdraw(never)
    assert expected.submitted == {"s1"}


def test_a_failed_sync_is_hidden_by_the_cache_until_that_is_dropped() -> None:
    faults = iter([None, Fault(), None, None, None, None])
    disk, fd = synced_file(b"durable ")
    disk.step = lambda _: next(faults)
    disk.pwrite(fd, b"lost", 8)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.fdatasync(fd)
    disk.fdatasync(fd)
    assert disk.pread(fd, 99, 0) == b"durable lost"
    disk.drop_cache(fd)
    assert disk.pread(fd, 99, 0) == b"durable \0\0\0\0"


def test_a_sync_error_is_reported_once_to_each_open_descriptor() -> None:
    disk, fd = synced_file(b"")
    other = disk.open("/f", writable=False)
    disk.world.lose(disk.world.fds[fd].ino, b"", is_reported_later=True)
    for descriptor in (fd, other):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            disk.fdatasync(descriptor)
        disk.fdatasync(descriptor)
    disk.fdatasync(disk.open("/f", writable=False))


def test_a_long_run_prints_its_seed_and_its_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7", "--round", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seed 7\n")
    assert "/s, seed 7: no failure" in printed


def test_a_failure_of_a_long_run_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seed", "7", "--round", "3", "--mutant", "ack-before-sync"]
    assert main(arguments) == 1
    first = capsys.readouterr().out
    assert f"to repeat: python -m tools.crash {' '.join(arguments)}\n" in first
    assert main(arguments) == 1
    assert capsys.readouterr().out == first
