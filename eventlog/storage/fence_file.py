"""The file `.fenced`: another home was promoted, and this one takes no more appends.

It holds a JSON object: the stream, the last seq that the log shares with it, and the promotion that
follows there. It is never in a backup. `eventlog rejoin` removes it.

Invariant: it is created and removed only under the writer's lock, under which every writer looks
for it; so no append passes once it is there, of whatever kind it is.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass

from eventlog.errors import LogFenced, UnsafePath
from eventlog.storage.atomic import replace_file
from eventlog.storage.directory import read_small_file
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home

FENCE_FILE_NAME = ".fenced"
_FENCE_FILE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceState:
    """Where the stream left this log."""

    stream: str  # the name that EVENTLOG_STREAM gives
    seq: int  # the last one that the log and the stream share
    primary: str | None = None  # the host that was promoted there; None where no promotion is
    epoch: int | None = None

    def to_text(self) -> str:
        """What happened, as a sentence without its end."""
        who = "another home" if self.primary is None else f"{self.primary} (epoch {self.epoch})"
        verb = "continues" if self.primary is None else "was promoted and continues"
        return f"{who} {verb} the stream {self.stream} after seq {self.seq}"


def fence_path(home: Home) -> str:
    """The path of the file."""
    return f"{home.log_dir}/{FENCE_FILE_NAME}"


def read_fence(disk: Disk, home: Home) -> FenceState | None:
    """The fence of a home; None where it has none. Raises UnsafePath, OSError."""
    data = None
    with suppress(FileNotFoundError):
        data = read_small_file(disk, fence_path(home), _FENCE_FILE_BYTES_MAX)
    if data is None:
        return None
    try:
        found = json.loads(data)
        primary, epoch = found.get("primary"), found.get("epoch")
        return FenceState(
            stream=str(found["stream"]),
            seq=int(found["seq"]),
            primary=None if primary is None else str(primary),
            epoch=None if epoch is None else int(epoch),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UnsafePath(
            "the file that fences this home cannot be understood",
            where=fence_path(home),
            do="remove it while nothing appends: `eventlog rejoin` and the mirror write it again",
        ) from error


def has_fence(disk: Disk, home: Home) -> bool:
    """Whether the home is fenced. Anything of that name fences it."""
    return disk.exists(fence_path(home))


def write_fence(disk: Disk, home: Home, fence: FenceState) -> None:
    """Fences the home, durably. The caller holds the writer's lock. Raises OSError."""
    replace_file(disk, home.log_dir, FENCE_FILE_NAME, json.dumps(asdict(fence)).encode() + b"\n")


def remove_fence(disk: Disk, home: Home) -> None:
    """Removes the fence, durably. The caller holds the writer's lock. Raises OSError."""
    with suppress(FileNotFoundError):
        disk.unlink(fence_path(home))
    disk.fsync_dir(home.log_dir)


def refuse_fenced(disk: Disk, home: Home) -> None:
    """Raises LogFenced where the home is fenced. The caller holds the writer's lock."""
    # Each commit pays for this look, also where the home was fenced under an open handle.
    if not has_fence(disk, home):
        return
    try:
        fence = read_fence(disk, home)
        what = fence.to_text() if fence is not None else "another home continues the stream"
    except UnsafePath as error:
        what = f"{error.what} ({error.where})"
    raise LogFenced(
        f"this home is fenced: {what}",
        where=home.root,
        do="nothing was written: append to the new primary, and run `eventlog rejoin` on this home",
    )
