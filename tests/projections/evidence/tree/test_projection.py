"""The tree on disk: equal to the model after every batch, crash and damage."""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from eventlog import EventLog
from projections.errors import CheckpointMoved, ProjectionError, ProjectionStalled
from projections.evidence.formats.checkpoint import open_checkpoint
from projections.evidence.formats.merkle import EMPTY_ROOT, RunningRoot, leaf_hash
from projections.evidence.proofs.proof import parse_proof, verify_proof
from projections.evidence.proofs.proving import prove
from projections.evidence.signing.signing import create_key, sign_checkpoint
from projections.evidence.tree.level_files import NAME, level_files
from projections.evidence.tree.projection import TreeProjection, update_tree
from projections.monitoring.status import projections_status
from projections.projection import Checkpoint
from projections.runtime.projector import Projector
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import lines_in
from tests.harness.signals import closed, signals

LINES = 600  # more than two runs of 256


def fill(home: Path, count: int, *, start: int = 1) -> None:
    with EventLog(home) as log:
        log.append_many(signals(count, start=start))


@pytest.fixture
def filled(home: Path) -> Path:
    fill(home, LINES)
    return home


def model(home: Path, size: int | None = None) -> bytes:
    running = RunningRoot()
    for line in lines_in(home)[:size]:
        running.add(leaf_hash(line.removesuffix(b"\n")))
    return running.root()


def root_on_disk(home: Path) -> tuple[int, bytes]:
    with level_files(home) as files:
        tree = files.tree()
        return tree.size, tree.root()


def assert_is_model(home: Path) -> None:
    assert root_on_disk(home) == (len(lines_in(home)), model(home))


def project(home: Path) -> None:
    asyncio.run(Projector(home, TreeProjection()).run(once=True))


def test_each_batch_of_the_projector_extends_the_tree(home: Path) -> None:
    start = 1
    for count in (1, 254, 1, 1, 300):
        fill(home, count, start=start)
        project(home)
        assert_is_model(home)
        start += count
    with EventLog(home) as log:
        log.append(closed(1))
    project(home)
    assert_is_model(home)


def test_an_update_and_the_projector_continue_each_other(filled: Path) -> None:
    assert update_tree(filled).seq == LINES
    assert_is_model(filled)
    fill(filled, 10, start=LINES + 1)
    project(filled)
    fill(filled, 10, start=LINES + 11)
    assert update_tree(filled).seq == LINES + 20
    assert_is_model(filled)
    before = {path.name: path.stat().st_mtime_ns for path in tree_dir(filled).iterdir()}
    assert update_tree(filled).seq == LINES + 20
    assert {path.name: path.stat().st_mtime_ns for path in tree_dir(filled).iterdir()} == before


def tree_dir(home: Path) -> Path:
    return home / "data" / "tree"


def test_every_earlier_size_keeps_its_root(filled: Path) -> None:
    update_tree(filled)
    with level_files(filled) as files:
        tree = files.tree()
        for size in (0, 1, 2, 255, 256, 257, 511, 512, 513, 599):
            assert tree.root(size) == model(filled, size)


@pytest.mark.parametrize("kind", ["create", "pwrite", "fdatasync", "rename"])
@pytest.mark.parametrize("late", [False, True])
def test_a_batch_that_fails_at_any_call_is_written_again(
    filled: Path, kind: str, late: bool
) -> None:
    first_half = Checkpoint(projection=NAME)
    with EventLog(filled) as log:
        entries = list(log.read())
    half = 300
    middle = Checkpoint(projection=NAME, seq=half, chain=entries[half - 1].chain)
    end = Checkpoint(projection=NAME, seq=LINES, chain=entries[-1].chain)
    for nth in (1, 2, 3):
        disk = FaultDisk()

        async def play(disk: FaultDisk = disk, nth: int = nth) -> None:
            projection = TreeProjection(disk=disk)
            await projection.open(filled)
            await projection.apply(entries[:half], before=first_half, after=middle)
            fault = disk.fail(kind, nth=nth, error=EIO, late=late)
            try:
                await projection.apply(entries[half:], before=middle, after=end)
            except OSError:
                assert fault.fired
            assert fault.fired or nth > 1

        asyncio.run(play())
        size, root = root_on_disk(filled)
        assert (size, root) in ((half, model(filled, half)), (LINES, model(filled)))
        update_tree(filled)
        assert_is_model(filled)
        with level_files(filled) as files:
            files.reset()


def test_the_state_is_replaced_once_the_hashes_are_on_the_device(filled: Path) -> None:
    disk = FaultDisk()
    update_tree(filled, disk=disk)
    made = [call.kind for call in disk.calls if call.kind in ("pwrite", "fdatasync", "rename")]
    hashes, state = ["pwrite"] * 2 + ["fdatasync"] * 2, ["pwrite", "rename"]
    assert made == [*hashes, *state]


def test_a_full_disk_stalls_the_projection(filled: Path) -> None:
    disk = FaultDisk()
    disk.fail("pwrite", error=ENOSPC)
    with pytest.raises(ProjectionStalled, match="full"):
        update_tree(filled, disk=disk)
    update_tree(filled)
    assert_is_model(filled)


def test_a_batch_behind_another_checkpoint_is_refused(filled: Path) -> None:
    update_tree(filled)

    async def play() -> None:
        projection = TreeProjection()
        await projection.open(filled)
        with EventLog(filled) as log:
            entry = next(log.read())
        after = Checkpoint(projection=NAME, seq=1, chain=entry.chain)
        with pytest.raises(CheckpointMoved):
            await projection.apply([entry], before=Checkpoint(projection=NAME), after=after)

    asyncio.run(play())
    assert_is_model(filled)


STATES = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "another type": b'{"seq":"1","chain":"","crc":0}',
    "a bool": b'{"seq":true,"chain":"","crc":0}',
    "negative": b'{"seq":-1,"chain":"","crc":0}',
    "far too large": b'{"seq":%d,"chain":"","crc":0}' % 10**30,
    "beyond the files": b'{"seq":%d,"chain":"%s","crc":0}' % (LINES + 1, b"0" * 64),
    "another chain": b'{"seq":%d,"chain":"%s","crc":CRC}' % (LINES, b"0" * 64),
    "another CRC": b'{"seq":%d,"chain":"CHAIN","crc":1}' % LINES,
    "no CRC": b'{"seq":%d,"chain":"CHAIN"}' % LINES,
    "deep": b"[" * 1000,
}


def write_state(home: Path, state: bytes) -> None:
    """CRC and CHAIN in it stand for those of the state that it replaces."""
    path = tree_dir(home) / "state"
    now = json.loads(path.read_bytes())
    path.write_bytes(
        state.replace(b"CRC", b"%d" % now["crc"]).replace(b"CHAIN", now["chain"].encode())
    )


@pytest.mark.parametrize("state", STATES.values(), ids=list(STATES))
def test_a_damaged_state_makes_the_tree_be_built_again(filled: Path, state: bytes) -> None:
    update_tree(filled)
    write_state(filled, state)
    fill(filled, 1, start=LINES + 1)
    update_tree(filled)
    assert_is_model(filled)


@pytest.mark.parametrize("name", ["0", "1"])
@pytest.mark.parametrize("size", [None, 0, 31])
def test_a_level_file_that_is_short_or_missing_is_built_again(
    filled: Path, name: str, size: int | None
) -> None:
    update_tree(filled)
    path = tree_dir(filled) / name
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    update_tree(filled)
    assert_is_model(filled)


def test_what_a_crash_left_behind_the_state_is_written_over(filled: Path) -> None:
    update_tree(filled)
    for name in ("0", "1"):
        with (tree_dir(filled) / name).open("ab") as file:
            file.write(b"x" * 77)
    fill(filled, 300, start=LINES + 1)
    update_tree(filled)
    assert_is_model(filled)


def flip_last_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_gone_once_the_tree_is_built_again(filled: Path) -> None:
    update_tree(filled)
    flip_last_bit(tree_dir(filled) / "1")
    update_tree(filled)
    assert root_on_disk(filled)[1] != model(filled)
    update_tree(filled, again=True)
    assert_is_model(filled)


def test_a_bit_that_flips_in_the_incomplete_tile_is_noticed_before_it_is_complete(
    filled: Path,
) -> None:
    update_tree(filled)
    flip_last_bit(tree_dir(filled) / "0")
    fill(filled, 300, start=LINES + 1)
    update_tree(filled)
    assert_is_model(filled)


def test_a_tree_of_another_log_is_built_again(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fill(other, 300, start=5000)
    update_tree(filled)
    (other / "data").mkdir(exist_ok=True)
    tree_dir(filled).rename(tree_dir(other))
    update_tree(other)
    assert_is_model(other)


def test_a_gap_in_the_log_ends_the_tree_before_it(filled: Path) -> None:
    with EventLog(filled) as log:
        entries = [*list(log.read())[:10], *list(log.read())[11:20]]

    async def play() -> None:
        projection = TreeProjection()
        start = await projection.open(filled)
        after = Checkpoint(projection=NAME, seq=20, chain=entries[-1].chain)
        with pytest.raises(ProjectionError, match="lacks lines"):
            await projection.apply(entries, before=start, after=after)

    asyncio.run(play())
    assert root_on_disk(filled)[0] == 0


def test_status_shows_a_tree_that_was_built_and_no_other(filled: Path) -> None:
    assert "tree" not in projections_status(filled)
    assert not tree_dir(filled).exists()
    update_tree(filled)
    fill(filled, 3, start=LINES + 1)
    found = projections_status(filled)["tree"]
    assert (found["checkpoint"], found["lag_entries"]) == (LINES, 3)
    write_state(filled, STATES["another chain"])
    assert "another chain" in str(projections_status(filled)["tree"]["problem"])


def test_the_files_of_the_tree_are_private_and_small(filled: Path) -> None:
    update_tree(filled)
    directory = tree_dir(filled)
    assert directory.stat().st_mode & 0o777 == 0o700
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    assert (sizes["0"], sizes["1"], set(sizes)) == (LINES * 32, 64, {"0", "1", "state"})
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())
    assert json.loads((directory / "state").read_bytes())["seq"] == LINES


_GROW = """
import asyncio, sys
from itertools import islice
from pathlib import Path
from eventlog import EventLog
from projections.evidence.tree.projection import TreeProjection
from projections.projection import Checkpoint

async def grow(home):
    projection = TreeProjection()
    before = await projection.open(home)
    print("ready", flush=True)
    with EventLog(home) as log:
        entries = log.read(after=before.seq)
        while batch := list(islice(entries, 7)):
            after = Checkpoint(projection="tree", seq=batch[-1].seq, chain=batch[-1].chain)
            await projection.apply(batch, before=before, after=after)
            before = after

asyncio.run(grow(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_the_tree_grows_loses_only_the_batch(filled: Path) -> None:
    fill(filled, 2_400, start=LINES + 1)
    running, roots = RunningRoot(), [EMPTY_ROOT]
    for line in lines_in(filled):
        running.add(leaf_hash(line[:-1]))
        roots.append(running.root())
    kills, last = 0, 0
    for wait_s in itertools.cycle((0.0, 0.004, 0.011, 0.023)):
        with subprocess.Popen(
            [sys.executable, "-c", _GROW, str(filled)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            time.sleep(wait_s)
            kills += process.poll() is None
            process.kill()
        size, root = root_on_disk(filled)
        assert root == roots[size]
        assert size >= last
        last = size
        if size == len(roots) - 1 or kills == 5:
            break
    assert kills > 2
    update_tree(filled)
    assert_is_model(filled)


@pytest.mark.slow
def test_a_flipped_bit_in_the_third_level_signs_no_wrong_root(tmp_path: Path) -> None:
    home, count = tmp_path / "home", 256 * 256 + 1
    with EventLog(home) as log:
        log.append_many([{"event": "note", "n": number} for number in range(count)])
    key = create_key(home, "log.example/main")
    update_tree(home)
    path = tree_dir(home) / "2"
    good = path.read_bytes()
    assert len(good) == 32
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    signed = Path(sign_checkpoint(home).path).read_bytes()
    right = model(home)
    assert open_checkpoint(signed, key).head.root == right
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert verify_proof(parse_proof(prove(home, count)), key).head.root == right


def test_a_flipped_bit_in_the_state_signs_no_wrong_root(home: Path) -> None:
    fill(home, 20)
    key = create_key(home, "log.example/main")
    sign_checkpoint(home)
    path = tree_dir(home) / "state"
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert verify_proof(parse_proof(prove(home, 20)), key).head.root == model(home)
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert not sign_checkpoint(home).is_new
