"""Files beside the segments whose checksum is right and whose content is nonsense, or too much."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from eventlog.storage.disk import RealDisk
from tests.harness.command import Done
from tests.harness.forked import forked
from tests.harness.log_checks import assert_valid_log, lines_in
from tests.harness.read_side import append, project
from tests.harness.shared_data import assert_ended_well, assert_refused
from tests.harness.signals import a_signal, signals

SEGMENT = "00000000000000000001.jsonl"
LINE = json.dumps(a_signal(9)).encode() + b"\n"
COMMANDS: list[tuple[str, ...]] = [
    *(("append",), ("cat",), ("tail", "-n", "1"), ("verify",), ("status",), ("repair",)),
    *(("project", "sqlite", "--once"), ("rebuild-database",), ("compress",), ("doctor",)),
    *(("export",), ("signals",), ("backup", "dest"), ("repair", "--accept")),
]
MEMORY_BYTES_MAX = 4 << 30  # what would take more ends at once
# One function decides whether bytes are a record, so a reader and a writer suffice for most names.
FEW_COMMANDS = (("cat",), ("append",))
THOROUGH = {"all of 31 digits", "a chain of another log", "an offset of 31 digits"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    append(home, *signals(3))
    project(home)
    return home


def run(home: Path, words: tuple[str, ...]) -> Done:
    return forked(*words, home=home, stdin=LINE, memory_bytes=MEMORY_BYTES_MAX, cwd=home.parent)


def checked(fields: str, size: int) -> bytes:
    """A record with a right checksum, as docs/format.md has it."""
    text = fields.encode()
    return (text + b" %08x" % crc32(text)).ljust(size - 1) + b"\n"


HUGE = str(10**30)
CHAIN = "0" * 64


def lock_records(home: Path) -> dict[str, str]:
    """Lock records of this boot, by what is wrong with them."""
    segment = (home / "logs" / SEGMENT).stat()
    boot, size = RealDisk().boot_id(), segment.st_size
    chain = json.loads(lines_in(home)[-1])["chain"]
    good = {"pid": "1", "state": "clean", "segment": "1", "offset": str(size), "seq": "3"}
    generation = RealDisk().generation_at(str(home / "logs" / SEGMENT))
    inode = f"{segment.st_ino}.{generation}" if generation else str(segment.st_ino)
    good |= {"chain": chain, "device": str(segment.st_dev), "inode": inode}
    bad = {
        "a pid in words": {"pid": "one"},
        "a segment in words": {"segment": "first"},
        "a device in words": {"device": "disk"},
        "an inode of 31 digits": {"inode": HUGE},
        "an offset in words": {"offset": "end"},
        "a seq in words": {"seq": "three"},
        "an empty seq": {"seq": ""},
        "a seq with a sign": {"seq": "-3"},
        "a seq with an underscore": {"seq": "0_3"},
        "an offset below zero": {"offset": "-1"},
        "an offset of 31 digits": {"offset": HUGE},
        "an offset of 5,000 digits cut": {"offset": "9" * 100},
        "a segment of 31 digits": {"segment": HUGE},
        "a seq of 31 digits": {"seq": HUGE},
        "all of 31 digits": {"segment": HUGE, "offset": HUGE, "seq": HUGE},
        "a segment that does not exist": {"segment": "2"},
        "no such state": {"state": "broken"},
        "a chain that is none": {"chain": "z"},
        "a chain of another log": {"chain": "f" * 64},
        "an offset within a line": {"offset": str(size - 5)},
        "an offset of the line before": {"offset": str(len(lines_in(home)[0]))},
    }
    found = {}
    for name, change in bad.items():
        r = good | change
        found[name] = (
            f"2 {boot} {r['pid']} {r['state']} {r['segment']} {r['device']} {r['inode']}"
            f" {r['offset']} {r['seq']} {r['chain']}"
        )
    return found


LOCK_NAMES = [
    *("a pid in words", "a segment in words", "an offset in words", "a seq in words"),
    *("a device in words", "an inode of 31 digits"),
    *("an empty seq", "a seq with a sign", "a seq with an underscore", "an offset below zero"),
    *("an offset of 31 digits", "an offset of 5,000 digits cut", "a segment of 31 digits"),
    *("a seq of 31 digits", "all of 31 digits", "a segment that does not exist", "no such state"),
    *("a chain that is none", "a chain of another log", "an offset within a line"),
    "an offset of the line before",
]
# It names the file, its size and its seq, so it is believed, and then the log seems damaged.
PLAUSIBLE = {"a chain of another log"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCK_NAMES)
def test_a_lock_record_of_nonsense_is_no_record_and_every_command_works(
    home: Path, name: str
) -> None:
    record = checked(lock_records(home)[name], 256)
    for words in COMMANDS if name in THOROUGH else FEW_COMMANDS:
        (home / "logs" / ".lock").write_bytes(record)
        done = run(home, words)
        assert "Traceback" not in done.err, (words, done.err)
        if name in PLAUSIBLE:
            assert done.code in (0, 1, 3), (words, done)
        else:
            assert done.code == 0, (words, done)
    assert_valid_log(home)
    assert len(lines_in(home)) == 3 + (name not in PLAUSIBLE) or name in PLAUSIBLE


WATERMARKS = {
    "a generation in words": f"1 one 1 10 1 {CHAIN}",
    "a segment in words": f"1 9 first 10 1 {CHAIN}",
    "an offset in words": f"1 9 1 ten 1 {CHAIN}",
    "a seq in words": f"1 9 1 10 one {CHAIN}",
    "an empty offset": f"1 9 1  1 {CHAIN}",
    "a generation below zero": f"1 -9 1 10 1 {CHAIN}",
    "an offset below zero": f"1 9 1 -10 1 {CHAIN}",
    "an offset of 31 digits": f"1 9 1 {HUGE} 1 {CHAIN}",
    "a generation of 31 digits": f"1 {HUGE} 1 10 1 {CHAIN}",
    "a segment of 31 digits": f"1 9 {HUGE} 10 1 {CHAIN}",
    "all of 31 digits": f"1 {HUGE} {HUGE} {HUGE} {HUGE} {CHAIN}",
    "a chain that is none": "1 9 1 10 1 z",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WATERMARKS)
@pytest.mark.parametrize("has_lock_record", [True, False])
def test_a_watermark_of_nonsense_is_no_watermark_and_no_command_fails_with_a_traceback(
    home: Path, name: str, has_lock_record: bool
) -> None:
    slot = checked(WATERMARKS[name], 256)
    record = (home / "logs" / ".lock").read_bytes()
    for words in COMMANDS if name in THOROUGH else FEW_COMMANDS:
        (home / "logs" / ".durable").write_bytes(slot.ljust(4096, b"\0") + slot)
        if words[0] != "append":
            (home / "logs" / ".lock").write_bytes(record if has_lock_record else b"")
        done = run(home, words)
        record = (home / "logs" / ".lock").read_bytes() or record
        assert "Traceback" not in done.err, (words, done.err)
        assert done.code == 0, (words, done)
    assert_valid_log(home)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".lock", ".durable"])
@pytest.mark.parametrize("data", [b"\xff" * 8192, b"1 " * 4096, b"\0" * 8192, b" " * 8192, b""])
def test_a_lock_or_watermark_of_any_bytes_stops_no_command(
    home: Path, name: str, data: bytes
) -> None:
    for words in FEW_COMMANDS:
        (home / "logs" / name).write_bytes(data)
        assert_ended_well(run(home, words))


# -- files that are too large to be ours


def sparse(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(3 << 40)


@pytest.mark.slow
def test_a_huge_file_of_accepted_damage_is_refused_where_it_is_needed(home: Path) -> None:
    sparse(home / "logs" / ".accepted")
    for words in COMMANDS:
        done = run(home, words)
        assert "Traceback" not in done.err, (words, done.err[-300:])
        assert done.code in (0, 1, 3), (words, done.code)
    with (home / "logs" / SEGMENT).open("r+b") as segment:
        segment.seek(700)
        segment.write(b"#")  # damage: now the file is asked what was accepted
    for words in COMMANDS:
        done = run(home, words)
        assert "Traceback" not in done.err, (words, done.err[-300:])
        assert done.code in (0, 1, 3), (words, done.code)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".lock", ".durable", ".closed.lock"])
def test_a_huge_lock_or_watermark_is_read_up_to_its_limit(home: Path, name: str) -> None:
    sparse(home / "logs" / name)
    for words in COMMANDS:
        done = run(home, words)
        assert "Traceback" not in done.err, (words, done.err[-300:])
        assert done.code in (0, 1, 3), (words, done.code)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["backup.json", "backup.lock", "logs/.accepted"])
def test_a_huge_file_in_a_backup_is_refused_in_words(home: Path, tmp_path: Path, name: str) -> None:
    dest = tmp_path / "dest"
    assert_ended_well(forked("backup", dest, home=home))
    sparse(dest / name)
    for words in (("backup", "dest"), ("backup", "--verify", "dest"), ("repair", "--from", "dest")):
        done = run(home, words)
        assert "Traceback" not in done.err, (words, done.err[-300:])
        assert done.code in (0, 1, 3), (words, done.code)
    done = forked("restore", dest, home=tmp_path / "new", memory_bytes=MEMORY_BYTES_MAX)
    assert "Traceback" not in done.err, done.err[-300:]
    assert done.code in (0, 3)
    if name == "backup.json":
        assert_refused(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data", [b"[" * 200_000, b'{"v":1}' + b" " * 100, b"null", b'{"segments":"x"}']
)
def test_a_list_of_a_backup_that_is_none_is_refused_in_words(
    home: Path, tmp_path: Path, data: bytes
) -> None:
    dest = tmp_path / "dest"
    assert_ended_well(forked("backup", dest, home=home))
    (dest / "backup.json").write_bytes(data)
    assert_refused(run(home, ("backup", "dest")))
    assert_refused(forked("restore", dest, home=tmp_path / "new", memory_bytes=MEMORY_BYTES_MAX))


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"[" * 60_000, b'{"segment":' + b"9" * 40_000 + b"}"])
def test_accepted_damage_of_any_shape_is_no_record(home: Path, line: bytes) -> None:
    (home / "logs" / ".accepted").write_bytes(line + b"\n")
    with (home / "logs" / SEGMENT).open("r+b") as segment:
        segment.seek(700)
        segment.write(b"#")
    assert run(home, ("verify",)).code == 1
    done = run(home, ("cat",))
    assert_refused(done)


def odd_files() -> dict[str, Callable[[Path], None]]:
    return {
        "a FIFO": os.mkfifo,
        "a link to zeros": lambda path: os.symlink("/dev/zero", path),
        "a directory": lambda path: path.mkdir(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [".lock", ".durable", ".accepted", SEGMENT])
@pytest.mark.parametrize("odd", odd_files())
def test_no_command_hangs_on_what_stands_in_place_of_a_file_of_the_log(
    home: Path, name: str, odd: str
) -> None:
    (home / "logs" / name).unlink(missing_ok=True)
    odd_files()[odd](home / "logs" / name)
    for words in COMMANDS:
        done = run(home, words)
        assert "Traceback" not in done.err, (words, done.err[-300:])
        assert done.code in (0, 1, 3), (words, done.code)
