"""Tiles: what is published has the signed root, and a checkpoint never precedes its tiles."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from errno import EIO
from pathlib import Path
from typing import NoReturn

import pytest

from eventlog import EventLog, UnsafePath
from projections.errors import ProjectionError
from projections.evidence.formats.checkpoint import open_checkpoint
from projections.evidence.formats.encoding import HASH_BYTES
from projections.evidence.formats.keys import VerifierKey
from projections.evidence.formats.merkle import Tree, leaf_hash
from projections.evidence.handover.export import export_evidence
from projections.evidence.handover.publish import publish
from projections.evidence.handover.tile_paths import tile_path, tiles_of
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.command import eventlog
from tests.harness.fault_disk import FaultDisk
from tests.harness.log_checks import lines_in
from tests.harness.signals import a_signal, signals
from tests.projections.evidence.handover.homes import ORIGIN, signed_home, statement_of
from tests.projections.evidence.tree.test_lost_leaves import LOST, Signed, accept, damage


def append(home: Path, count: int, start: int) -> None:
    with EventLog(home) as log:
        log.append_many(signals(count, start=start))


def tree_at(directory: Path, size: int) -> Tree:
    """The tree as a client reads it: each tile by its path, whole or partial."""

    def read(level: int, first: int, count: int) -> bytes:
        width = min(256, size // 256**level - first // 256 * 256)
        data = (directory / tile_path(str(level), first // 256, width)).read_bytes()
        assert len(data) == width * HASH_BYTES
        at = first % 256
        assert at + count <= width
        return data[at * HASH_BYTES : (at + count) * HASH_BYTES]

    return Tree(size, read)


def entries_at(directory: Path, size: int) -> Iterator[bytes]:
    for tile in tiles_of(size):
        if tile.level == 0:
            data = (directory / tile_path("entries", tile.number, tile.width)).read_bytes()
            while data:
                length = int.from_bytes(data[:2])
                yield data[2 : 2 + length]
                data = data[2 + length :]


def head_at(directory: Path, key: VerifierKey) -> int:
    """The size that is published; each of its tiles is there, and has the signed root."""
    head = open_checkpoint((directory / "checkpoint").read_bytes(), key).head
    for tile in tiles_of(head.size):
        assert (directory / tile.path).stat().st_size == tile.width * HASH_BYTES
    assert tree_at(directory, head.size).root() == head.root
    return head.size


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_paths_are_those_of_tlog_tiles() -> None:
    assert tile_path("0", 0) == "tile/0/000"
    assert tile_path("1", 273, 5) == "tile/1/273.p/5"
    assert tile_path("0", 1234067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 1000, 1) == "tile/entries/x001/000.p/1"
    assert [tuple(tile) for tile in tiles_of(70_000)][-4:] == [
        *((0, 273, 112), (1, 0, 256), (1, 1, 17)),
        (2, 0, 1),
    ]
    assert list(tiles_of(0)) == []


def test_what_is_published_grows_with_the_log_and_keeps_full_tiles(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    key = signed_home(home)
    first = publish(home, public, with_entries=True)
    assert (head_at(public, key), first.old_size, first.files) == (300, 0, 5)
    full = (public / "tile/0/000").stat()
    assert publish(home, public, with_entries=True).files == 0
    append(home, 250, 9000)
    assert publish(home, public).files == 0  # nothing new is signed
    sign_checkpoint(home)
    second = publish(home, public, with_entries=True)
    assert (head_at(public, key), second.old_size, second.unsalted) == (550, 300, 250)
    assert (public / "tile/0/000").stat() == full
    lines = [line[:-1] for line in lines_in(home)]
    assert list(entries_at(public, 550)) == lines
    assert not (public / "tile/0/001.p").exists()  # the whole tile is there
    assert not (public / "tile/entries/001.p").exists()
    tree = tree_at(public, 550)
    assert tree.inclusion(299, 550)
    assert leaf_hash(lines[299]) == (public / "tile/0/001").read_bytes()[43 * 32 : 44 * 32]


def test_lines_are_published_only_where_it_was_asked_for(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    signed_home(home)
    publish(home, public)
    assert files_in(public) == {"checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"}
    publish(home, public, with_entries=True)
    assert len(list(entries_at(public, 300))) == 300


def test_a_web_server_can_read_it_and_nobody_else_can_write_it(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    signed_home(home)
    umask = os.umask(0o077)
    try:
        publish(home, public)
    finally:
        os.umask(umask)
    for path in (public, *public.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_neither_a_home_nor_the_directory_of_another_log_is_written_to(tmp_path: Path) -> None:
    home, other, public = tmp_path / "home", tmp_path / "other", tmp_path / "public"
    signed_home(home)
    for target in (home, home / "public", home / "evidence" / "public"):
        with pytest.raises(UnsafePath, match="in a home"):
            publish(home, target)
    append(other, 3, 1)
    create_key(other, "other.example")
    sign_checkpoint(other)
    publish(other, public)
    before = files_in(public)
    with pytest.raises(ProjectionError, match="not of this log"):
        publish(home, public)
    assert files_in(public) == before


def test_a_home_that_was_rolled_back_does_not_replace_what_is_published(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    key = signed_home(home)
    append(home, 5, 9000)
    newest = Path(sign_checkpoint(home).path)
    publish(home, public)
    newest.unlink()
    with pytest.raises(ProjectionError, match="checkpoint of 305 entries"):
        publish(home, public)
    assert head_at(public, key) == 305


@pytest.mark.parametrize(("name", "at"), [("0", 5), ("0", 8195), ("1", 3)])
def test_a_damaged_tree_is_built_again_and_not_published(
    tmp_path: Path, name: str, at: int
) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    key = signed_home(home)
    path = home / "data" / "tree" / name
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    publish(home, public)
    assert head_at(public, key) == 300
    assert (public / "tile/0/000").read_bytes() == b"".join(
        leaf_hash(line[:-1]) for line in lines_in(home)[:256]
    )


@pytest.mark.parametrize("kind", ["create", "pwrite", "fdatasync", "rename", "fsync_dir"])
def test_a_run_that_fails_at_any_call_leaves_a_checkpoint_with_all_its_tiles(
    tmp_path: Path, kind: str
) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    key = signed_home(home)
    publish(home, public)
    append(home, 250, 9000)
    sign_checkpoint(home)
    for nth in range(1, 9):
        disk = FaultDisk()
        disk.fail(kind, nth=nth, error=EIO)
        with suppress(OSError):
            publish(home, public, disk=disk)
        assert head_at(public, key) in (300, 550)
    publish(home, public)
    assert head_at(public, key) == 550
    assert not [name for name in files_in(public) if name.endswith(".new")]


def test_the_checkpoint_gets_its_name_after_its_tiles_are_on_the_device(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    signed_home(home)
    disk = FaultDisk()
    publish(home, public, with_entries=True, disk=disk)
    calls = [(call.kind, Path(call.path).name) for call in disk.calls]
    last = calls.index(("rename", "checkpoint"))
    renamed = [at for at, (kind, _) in enumerate(calls) if kind == "rename"]
    assert max(renamed) == last
    for name in ("000", "44", "1"):
        synced = calls.index(("fdatasync", f".{name}.new"))
        named = calls.index(("rename", name))
        assert synced < named < last
        assert "fsync_dir" in [kind for kind, _ in calls[named:last]]


def test_a_published_tile_that_was_damaged_is_written_again(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    key = signed_home(home)
    publish(home, public, with_entries=True)
    tile, lines = public / "tile/0/000", public / "tile/entries/000"
    good = [path.read_bytes() for path in (tile, lines)]
    for path, data in zip((tile, lines), good, strict=True):
        path.write_bytes(b"X" + data[1:])
    append(home, 10, 9000)
    sign_checkpoint(home)
    publish(home, public, with_entries=True)
    assert head_at(public, key) == 310
    assert tile.read_bytes() == good[0]
    assert lines.read_bytes() != good[1]  # only its presence is looked for
    assert publish(home, public, with_entries=True, all_again=True).files == 5
    assert [path.read_bytes() for path in (tile, lines)] == good


def test_a_link_is_followed_and_a_directory_above_that_is_missing_is_named(tmp_path: Path) -> None:
    home, link = tmp_path / "home", tmp_path / "link"
    key = signed_home(home)
    (tmp_path / "real").mkdir()
    link.symlink_to("real")
    publish(home, link)
    assert head_at(tmp_path / "real", key) == 300
    with pytest.raises(ProjectionError, match="no such directory") as error:
        publish(home, tmp_path / "a" / "b")
    assert error.value.where == str(tmp_path / "a")
    link.unlink()
    link.symlink_to("home")
    with pytest.raises(UnsafePath, match="in a home"):
        publish(home, link)


def test_entries_without_a_salt_are_counted_before_their_hashes_are_public(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    with EventLog(home) as log:
        salts = ("", "x", "0" * 31, "g" * 32, "0" * 32)
        log.append_many([a_signal(at, salt=salt) for at, salt in enumerate(salts, 1)])
    create_key(home, ORIGIN)
    sign_checkpoint(home)

    def refuse(unsalted: int) -> NoReturn:
        raise InterruptedError(unsalted)

    with pytest.raises(InterruptedError, match="4"):
        publish(home, public, on_unsalted=refuse)
    assert files_in(public) == set()
    assert publish(home, public).unsalted == 4


def test_lost_lines_are_named_and_their_hashes_published(tmp_path: Path) -> None:
    original = Signed(tmp_path / "home")
    home, public = original.home, tmp_path / "public"
    damage(home, original.lines, LOST)
    assert accept(home) == []
    assert publish(home, public).unsalted == 300 - len(LOST)
    assert head_at(public, original.key) == 300
    for hand_over in (
        lambda: publish(home, public, with_entries=True),
        lambda: statement_of(home),
        lambda: export_evidence(home, tmp_path / "export"),
    ):
        with pytest.raises(ProjectionError, match="entry 150 is missing"):
            hand_over()


def test_the_command_counts_entries_without_a_salt(tmp_path: Path) -> None:
    home, public = tmp_path / "home", tmp_path / "public"
    with EventLog(home) as log:
        log.append_many([a_signal(1), a_signal(2, salt="0" * 32), a_signal(3, x={"salt": "1"})])
    create_key(home, ORIGIN)
    sign_checkpoint(home)
    done = eventlog("evidence", "publish", "--entries", public, "--json", home=home)
    found = json.loads(done.out)
    assert (done.code, found["size"], found["unsalted"]) == (0, 3, 2)
    assert "2 new entries without a salt" in done.err
    assert eventlog("evidence", "publish", public, home=home).err == ""
