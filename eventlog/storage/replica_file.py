"""The file `.replica`: the home is a replica, and follows a stream.

It holds a JSON object with the name of the stream, its epoch (the number of the last promotion),
the host that was promoted, and the line of a promotion of this home that is under way. It is never
in a backup: a restored log follows no stream.

Invariant: it is created and removed only under the writer's lock, under which every writer looks
for it; so no append passes once it is there, of whatever kind it is.
"""

import json
from contextlib import suppress
from dataclasses import dataclass

from eventlog.errors import LogIsReplica, UnsafePath
from eventlog.storage.atomic import replace_file
from eventlog.storage.directory import read_small_file
from eventlog.storage.disk import Disk
from eventlog.storage.home import Home

REPLICA_FILE_NAME = ".replica"
EPOCH_FIRST = 1  # of a stream whose primary was never replaced
_REPLICA_FILE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """What a replica follows."""

    stream: str  # the name that EVENTLOG_STREAM gives
    epoch: int = EPOCH_FIRST  # never less than that of a promotion in the log
    primary: str | None = None  # the host that was promoted; None where none ever was
    promotion: str = ""  # a line that this home publishes, or has published, to be promoted


def replica_path(home: Home) -> str:
    """The path of the file."""
    return f"{home.log_dir}/{REPLICA_FILE_NAME}"


def read_replica_state(disk: Disk, home: Home) -> ReplicaState | None:
    """What the home follows; None where it is no replica. Raises UnsafePath, OSError."""
    data = None
    with suppress(FileNotFoundError):
        data = read_small_file(disk, replica_path(home), _REPLICA_FILE_BYTES_MAX)
    if data is None:
        return None
    try:
        found = json.loads(data)
        primary = found.get("primary")
        return ReplicaState(
            stream=str(found["stream"]),
            epoch=int(found["epoch"]),
            primary=None if primary is None else str(primary),
            promotion=str(found.get("promotion", "")),
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise UnsafePath(
            "the file that makes this home a replica cannot be understood",
            where=replica_path(home),
            do="write it again as the stream's name has it, for example "
            '{"stream":"main","epoch":1}',
        ) from error


def write_replica_state(disk: Disk, home: Home, state: ReplicaState) -> None:
    """Makes the home a replica, durably. The caller holds the writer's lock. Raises OSError."""
    found: dict[str, object] = {"stream": state.stream, "epoch": state.epoch}
    if state.primary is not None:
        found["primary"] = state.primary
    if state.promotion:
        found["promotion"] = state.promotion
    replace_file(disk, home.log_dir, REPLICA_FILE_NAME, json.dumps(found).encode() + b"\n")


def remove_replica_state(disk: Disk, home: Home) -> None:
    """Ends the home's being a replica, durably. The caller holds the writer's lock."""
    with suppress(FileNotFoundError):
        disk.unlink(replica_path(home))
    disk.fsync_dir(home.log_dir)


def is_replica(disk: Disk, home: Home) -> bool:
    """Whether the home follows a stream. Anything of that name makes it a replica."""
    return disk.exists(replica_path(home))


def refuse_replica(disk: Disk, home: Home) -> None:
    """Raises LogIsReplica where the home is a replica. A writer asks under its lock."""
    # Each commit pays for this look, also where the home became a replica under an open handle.
    if not is_replica(disk, home):
        return
    what = "its lines come from a stream, and nothing is appended to it"
    try:
        read_replica_state(disk, home)
    except UnsafePath as error:
        what = f"{error.what} ({error.where})"
    raise LogIsReplica(
        f"this home is a replica: {what}",
        where=home.root,
        do="nothing was written: append to the primary's home",
    )
