"""`data/mirror.json`: the highest seq that the stream has acknowledged, and the mirror's state.

The checkpoint itself is the stream's last message. The record shows it where no server can be
reached, and reveals a stream that ends below what it has acknowledged.

Invariant: `acked` was acknowledged by the stream, and `lost_acked` never shrinks for one stream.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eventlog import EventLogError, UnsafePath
from eventlog.plumbing import make_private_dir, read_record, run_in_thread, write_record

logger = logging.getLogger(__name__)

NAME = "mirror"
MIRRORING, WAITING, UNFIT, FENCED, SHORT = "mirroring", "waiting", "unfit", "fenced", "short"
STATES = (MIRRORING, WAITING, UNFIT, FENCED, SHORT)
# Between two writes: each one is a sync, and must not slow down the appends beside it. After a
# crash the record may be behind the stream by as much; the next start reads the stream.
WRITE_PAUSE_S = 0.5

_FILE_NAME = "mirror.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorRecord:
    """What is known of the stream without asking it."""

    stream: str
    acked: int = 0  # the highest seq that it has acknowledged
    lost_acked: int = 0  # lines that it had acknowledged and did not hold later
    state: str = WAITING
    last_error: str | None = None  # why the state is not MIRRORING
    replicas: int | None = None  # servers that are to hold the stream; None: not known yet
    replicas_current: int | None = None  # servers that held all of it at the last look


def read_mirror_record(home: Path) -> MirrorRecord | None:
    """The record of a home; None where there is no readable one."""
    found = read_record(home / "data", _FILE_NAME) or {}
    stream, state, error = (found.get(key) for key in ("stream", "state", "last_error"))
    counts = [found.get(key) for key in ("acked", "lost_acked")]
    replicas = [found.get(key) for key in ("replicas", "replicas_current")]
    if not isinstance(stream, str) or state not in STATES:
        return None
    acked, lost_acked = (value if type(value) is int and value >= 0 else 0 for value in counts)
    wanted, current = (value if type(value) is int else None for value in replicas)
    return MirrorRecord(
        stream=stream,
        acked=acked,
        lost_acked=lost_acked,
        state=str(state),
        last_error=error if isinstance(error, str) else None,
        replicas=wanted,
        replicas_current=current,
    )


class MirrorRecorder:
    """Holds the record in memory, and writes it soon after a change."""

    def __init__(self, home: Path, stream: str) -> None:
        self._home = home
        found = read_mirror_record(home)
        is_ours = found is not None and found.stream == stream
        self.record = found if found is not None and is_ours else MirrorRecord(stream=stream)
        self._written: MirrorRecord | None = self.record if is_ours else None
        self._changed = asyncio.Event()
        self._has_failed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts writing. `close` ends it."""
        self._task = asyncio.create_task(self._write_changes(), name="mirror record")

    def set_acked(self, seq: int) -> None:
        """Notes that the stream has acknowledged all lines up to `seq`."""
        self._set(replace(self.record, acked=max(seq, self.record.acked)))

    def set_state(self, state: str, error: str | None = None) -> None:
        """Notes the state, and why it is not MIRRORING."""
        self._set(replace(self.record, state=state, last_error=error))

    def set_replicas(self, replicas: int, current: int) -> None:
        """Notes how many servers are to hold the stream, and how many hold all of it."""
        self._set(replace(self.record, replicas=replicas, replicas_current=current))

    async def add_lost(self, end_seq: int) -> None:
        """Notes that the stream ends at `end_seq`, below what it has acknowledged. Durable."""
        lost = self.record.acked - end_seq
        self._set(replace(self.record, acked=end_seq, lost_acked=self.record.lost_acked + lost))
        await run_in_thread(self._write)

    async def close(self) -> None:
        """Writes the last change."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(EventLogError):
            await run_in_thread(self._write)

    def _set(self, record: MirrorRecord) -> None:
        self.record = record
        if record != self._written:
            self._changed.set()

    async def _write_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            with suppress(EventLogError):  # no thread is left: written at the next change
                await run_in_thread(self._write)
            await asyncio.sleep(WRITE_PAUSE_S)

    def _write(self) -> None:
        record = self.record
        if record == self._written:
            return
        data_dir = self._home / "data"
        try:
            with suppress(FileExistsError):
                make_private_dir(data_dir)  # not the home, which may have been moved
            write_record(data_dir, _FILE_NAME, asdict(record))
        except (OSError, UnsafePath) as error:  # such as a full disk, which stops no mirror
            if not self._has_failed:
                path = data_dir / _FILE_NAME
                logger.warning("mirror_record_not_written path=%s error=%s", path, error)
            self._has_failed = True
            return
        self._written, self._has_failed = record, False
