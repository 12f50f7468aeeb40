"""A database on a small disk that is full or nearly full, with blocks of 1 KiB among others."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.command import COMMAND, Done, jsonl
from tests.harness.mounts import mounted
from tests.harness.requirements import needs_tool
from tests.harness.signals import signals

pytestmark = pytest.mark.slow  # each script mounts the disk anew and runs some ten commands

RUN_S_MAX = 300.0
BUS_ERROR = 135
READERS = ("signals", "stats", "digest", "export", "signals --as-of 2025-12-01T00:00:00Z")

# `ours` is the command; `fill N` leaves N KiB: written, not only reserved, for a hole takes none.
PRELUDE = f"""\
disk=$1
ours() {{ timeout -s KILL 30 "{COMMAND}" --home "$disk/home" "$@"; }}
fill() {{
    dd if=/dev/zero of="$disk/fill" bs=1k 2>/dev/null
    truncate -s "-$1k" "$disk/fill"
    sync "$disk/fill"
}}
report() {{ "$@" >"/proc/self/fd/1" 2>/dev/null; echo "code $? of $*"; }}
"""
TRACKER = """\
import sys
from projections import SignalTracker
try:
    print(SignalTracker(home=sys.argv[1]).get_stats())
except Exception as error:
    print(type(error).__name__)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDisk:
    """A file system in a file, mounted for one script at a time."""

    image: Path
    mount: Path

    def run(self, script: str, *words: object, stdin: bytes = b"") -> Done:
        """Runs a script of bash; `words` are $2, $3 ..."""
        under = mounted('mount -o loop "$1" "$2"', self.image, self.mount)
        words = (*under, "bash", "-c", PRELUDE + script, "bash", self.mount, *words)
        done = subprocess.run(
            [str(word) for word in words],
            input=stdin,
            capture_output=True,
            timeout=RUN_S_MAX,
            check=False,
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr.decode())


def ext4(tmp_path: Path, block_bytes: int) -> SmallDisk:
    disk = SmallDisk(image=tmp_path / "image", mount=tmp_path / "mount")
    disk.mount.mkdir()
    with disk.image.open("wb") as file:
        file.truncate(8 << 20)
    mkfs = needs_tool("mkfs.ext4", apt="e2fsprogs")
    options = ["-q", "-F", "-m", "0", "-b", str(block_bytes), "-O", "^has_journal"]
    subprocess.run([mkfs, *options, disk.image], check=True)
    return disk


def codes(done: Done) -> dict[str, int]:
    """Exit codes by command, of what `report` ran."""
    lines = [line.split() for line in done.out.decode().splitlines() if line.startswith("code ")]
    return {" ".join(words[3:]): int(words[1]) for words in lines}


# -- SIGBUS


@pytest.mark.parametrize(
    ("free_kib", "first"),
    [
        (0, "signals"),
        (4, "rebuild-database"),
        (8, "project sqlite --once"),
        (9, "tracker"),
        (9, "rebuild-database"),
        (10, "signals"),
        (33, "project sqlite --once"),
    ],
)
def test_no_process_dies_of_a_bus_error_on_a_nearly_full_disk_with_small_blocks(
    tmp_path: Path, free_kib: int, first: str
) -> None:
    """The file -shm has holes there: writing to one through the map needs a block."""
    disk = ext4(tmp_path, 1024)
    script = """\
ours append >/dev/null || exit 9
ours project sqlite --once || exit 9
fill "$2"
for words in "$3" signals "project sqlite --once" rebuild-database; do
    case $words in
    tracker) report timeout -s KILL 30 "$4" -c "$5" "$disk/home" ;;
    *) report ours $words ;;
    esac
done
rm "$disk/fill"
report ours project sqlite --once
report ours wait 3 --for projected --timeout 5
"""
    python = COMMAND.with_name("python")
    done = disk.run(script, free_kib, first, python, TRACKER, stdin=jsonl(signals(3)))
    assert done.code != 9, done.err
    found = codes(done)
    assert len(found) >= 4, done
    assert BUS_ERROR not in found.values(), found
    assert set(found.values()) <= {0, 3}, found
    assert found["ours wait 3 --for projected --timeout 5"] == 0, "it goes on once there is space"


@pytest.mark.parametrize("free_kib", [9])
def test_a_daemon_waits_for_space_and_goes_on(tmp_path: Path, free_kib: int) -> None:
    disk = ext4(tmp_path, 1024)
    script = """\
ours append >/dev/null || exit 9
ours project sqlite --once || exit 9
fill "$2"
"$3" --home "$disk/home" project sqlite & daemon=$!
sleep 4
kill -0 $daemon || { wait $daemon; echo "died with $?"; exit 1; }
rm "$disk/fill"
report ours wait 3 --for projected --timeout 25
kill -TERM $daemon; wait $daemon; echo "code $? of the daemon"
"""
    done = disk.run(script, free_kib, COMMAND, stdin=jsonl(signals(3)))
    assert done.code == 0, done
    assert codes(done) == {"ours wait 3 --for projected --timeout 25": 0, "the daemon": 0}, done


def test_doctor_warns_of_small_blocks(tmp_path: Path) -> None:
    small, usual = tmp_path / "small", tmp_path / "usual"
    for path in (small, usual):
        path.mkdir()
    script = 'ours append >/dev/null; ours doctor --json; echo "$?" >&2'
    lines = jsonl(signals(1))
    warned = ext4(small, 1024).run(script, stdin=lines).answers[-1]["findings"]
    silent = ext4(usual, 4096).run(script, stdin=lines).answers[-1]["findings"]

    def about_blocks(findings: list[dict[str, str]]) -> list[str]:
        return [f["level"] for f in findings if "block" in f["found"]]

    assert "warning" in about_blocks(warned), warned
    assert not {"warning", "problem"} & set(about_blocks(silent)), silent


# -- a full disk on which a daemon was killed


KILLED = """\
ours append >/dev/null || exit 9
"$2" --home "$disk/home" project sqlite & daemon=$!
ours wait 50 --for projected --timeout 25 || exit 9
ours digest >"/dev/shm/$$.before"
kill -KILL $daemon; wait $daemon 2>/dev/null
test -s "$disk/home/data/signals.db-wal" || exit 8
if [ "$3" = "without -shm" ]; then rm "$disk/home/data/signals.db-shm"; fi
fill 0
report ours signals
report ours stats
report ours export
report ours signals --as-of 2025-12-01T00:00:00Z
ours digest >"/dev/shm/$$.after"; echo "code $? of ours digest"
cmp "/dev/shm/$$.before" "/dev/shm/$$.after"; echo "code $? of the comparison"
ours signals --limit 1000 | grep -c AAPL
rm "/dev/shm/$$.before" "/dev/shm/$$.after"
"""


@pytest.mark.parametrize("shm", ["with -shm", "without -shm"])
@pytest.mark.parametrize("block_bytes", [1024, 4096])
def test_the_table_is_read_on_a_full_disk_after_a_daemon_was_killed(
    tmp_path: Path, block_bytes: int, shm: str
) -> None:
    disk = ext4(tmp_path, block_bytes)
    done = disk.run(KILLED, COMMAND, shm, stdin=jsonl(signals(50)))
    assert done.code not in (8, 9), done
    found = codes(done)
    assert len(found) == 6, done
    assert set(found.values()) == {0}, (found, done.err)
    assert done.out.split()[-1] == b"50", "rows that are in the WAL alone are shown, too"


@pytest.mark.parametrize("shm", ["with -shm", "without -shm"])
def test_the_table_is_read_on_a_full_tmpfs_after_a_daemon_was_killed(
    tmp_path: Path, shm: str
) -> None:
    under = mounted('mount -t tmpfs -o size=2m tmpfs "$1"', tmp_path)
    words = (*under, "bash", "-c", PRELUDE + KILLED, "bash", tmp_path, COMMAND, shm)
    done = subprocess.run(
        [str(word) for word in words],
        input=jsonl(signals(50)),
        capture_output=True,
        timeout=RUN_S_MAX,
        check=False,
    )
    found = codes(Done(code=done.returncode, out=done.stdout, err=""))
    assert len(found) == 6, done
    assert set(found.values()) == {0}, (found, done.stderr.decode())
