"""A real file system on a loop device, and what is left of it when the power fails.

    disk = LoopDisk.make(tmp_path)
    disk.run('"$eventlog" --home "$disk/h" append < "$1"; power_fails', lines)
    lost = disk.after_power_loss()
    lost.copy_out("h", tmp_path / "h")         its files, as a restarted machine finds them

`power_fails` copies the device while the file system is mounted: bytes and names that no sync
brought to it are absent from the copy. The copy, mounted, is also a crash-consistent snapshot on
the running host.

Invariant: no mount outlives its command; background writes only keep more than a power loss may.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.harness.command import COMMAND
from tests.harness.deadline import DEADLINE_S
from tests.harness.mounts import mounted
from tests.harness.requirements import needs_tool

SIZE_BYTES = 64 << 20  # of a device, most of it a hole

_FUNCTIONS = """
power_fails() { cp --sparse=always "$image" "$image.lost"; }
another_boot() {
    echo 00000000-0000-4000-8000-00000000b007 >"$image.boot"
    mount --bind "$image.boot" /proc/sys/kernel/random/boot_id
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopDisk:
    """An ext4 file system in a file."""

    image: Path
    mount: Path  # where commands see it

    @staticmethod
    def make(parent: Path) -> "LoopDisk":
        """An empty file system. Skips the test where nothing can be mounted."""
        mounted("true")
        image, mount = parent / "disk.img", parent / "disk"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        mkfs = needs_tool("mkfs.ext4", apt="e2fsprogs")
        subprocess.run([mkfs, "-q", "-F", image], check=True, timeout=DEADLINE_S)
        return LoopDisk(image=image, mount=mount)

    def run(self, script: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
        """Runs a shell script with the disk mounted at $disk; $1, $2 ... are the arguments."""
        # A journal that is committed late keeps less, as a sudden end does.
        prefix = mounted('mount -o loop,commit=300 "$1" "$2"', self.image, self.mount)
        words = (*prefix, "bash", "-ec", _FUNCTIONS + script, "bash", *arguments)
        places = {"disk": self.mount, "image": self.image, "eventlog": COMMAND}
        return subprocess.run(
            [str(word) for word in words],
            env={**os.environ, **{key: str(place) for key, place in places.items()}},
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def after_power_loss(self) -> "LoopDisk":
        """The disk as it was when the power failed."""
        return LoopDisk(image=self.image.with_name(f"{self.image.name}.lost"), mount=self.mount)

    def copy_out(self, name: str, to: Path) -> Path:
        """Copies a directory of the disk to `to`."""
        done = self.run('cp -r "$disk/$1" "$2"', name, to)
        assert done.returncode == 0, done.stderr.decode()
        return to
