"""Repairs a log for an operator: cuts a torn tail, repairs from a backup, or accepts a loss.

Steps of a repair, in an order in which a crash after each is safe:

    flock .closed.lock, .lock       no other process compresses or appends meanwhile
    sync and read the log           from the device, from its first byte
    lock record := writing          before the first change
    rewrite both watermarks, cut    only an unacknowledged tail is ever cut
    repair from the backup          each segment as it was or whole
    before_loss                     others keep what they need of the entries that will be lost
    create the next segment         where the log ends in bad bytes; its name is durable first
    record accepted gaps            durable before a reader uses them
    lock record := clean            once all damage is accepted

Invariant: no acknowledged byte is ever removed: bad ones stay where they are, or in `.damaged`.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from eventlog.append.recovery import cut_torn_tail, sync_to_device
from eventlog.errors import EventLogError, LogCorrupt
from eventlog.figures import count_text
from eventlog.format.durability import (
    CLEAN,
    NOTHING_DURABLE,
    WRITING,
    LogEnd,
)
from eventlog.format.gap import AcceptedGap
from eventlog.format.segment import segment_name
from eventlog.repair.from_backup import RestoredRange, repair_from_backup
from eventlog.repair.segment_builder import BackupSegments
from eventlog.repair.survey import Damage, Survey, survey
from eventlog.storage.disk import Disk, RealDisk
from eventlog.storage.durable_state import (
    read_durable_state,
    require_log,
    rewrite_watermarks,
)
from eventlog.storage.gap_file import append_gaps
from eventlog.storage.home import Home, home_at
from eventlog.storage.locks import WriterLock, closed_segments_lock
from eventlog.storage.segment_disk import SegmentDisk

logger = logging.getLogger(__name__)


BeforeLoss = Callable[[str, Sequence[tuple[int, int]]], object]  # home; first and last seqs


def _keep_nothing(_home: str, _ranges: Sequence[tuple[int, int]]) -> None:
    """Nothing else depends on lost entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """The result of a repair, and the damage that is left."""

    torn_bytes_cut: int = 0
    kept_in: str | None = None  # the name of the file with these bytes
    restored: tuple[RestoredRange, ...] = ()
    accepted: tuple[AcceptedGap, ...] = ()  # by this repair
    damage: tuple[Damage, ...] = ()  # that is left and not accepted
    gaps: tuple[Damage, ...] = ()  # that were accepted before
    halt: LogCorrupt | None = None  # a damage that can be neither accepted nor read past
    advice: tuple[str, ...] = ()  # why the backup did not help, and what to do

    @property
    def is_done(self) -> bool:
        """Whether no damage is left that is not accepted."""
        return not self.damage and self.halt is None

    def to_text(self) -> list[str]:
        """The report as lines of text."""
        lines = []
        if self.torn_bytes_cut:
            lines.append(
                f"cut {count_text(self.torn_bytes_cut, 'unacknowledged byte')} at the end; kept in"
                f" {self.kept_in}"
            )
        for restored in self.restored:
            name = segment_name(restored.segment)
            kept = f"; the damaged file is now {restored.kept_in}" if restored.kept_in else ""
            lines.append(f"restored {name}, {_seqs(restored.seq_from, restored.seq_to)}{kept}")
        lines += [f"accepted as lost: {_describe_gap(accepted)}" for accepted in self.accepted]
        lines += [
            f"accepted before, on {damage.gap.accepted_at[:10]}: {_describe_gap(damage.gap)}"
            for damage in self.gaps
        ]
        lines += [
            f"DAMAGED: {_describe_gap(damage.gap)}: {damage.problem}" for damage in self.damage
        ]
        if self.halt is not None:
            lines.append(f"DAMAGED: {self.halt.where}: {self.halt.problem}")
        lines += [f"what to do: {advice}" for advice in self.advice]
        return lines or ["nothing to repair: the log is whole"]

    def to_json(self) -> dict[str, object]:
        """The report of `eventlog repair --json`."""
        return {
            "torn_bytes_cut": self.torn_bytes_cut,
            "kept_in": self.kept_in,
            "restored": [restored.to_json() for restored in self.restored],
            "accepted": [accepted.to_json() for accepted in self.accepted],
            "damage": [
                *(damage.to_json() for damage in self.damage),
                *([_halt_to_json(self.halt)] if self.halt is not None else []),
            ],
            "gaps": [damage.to_json() for damage in self.gaps],
            "advice": list(self.advice),
        }


def repair(
    path: str | os.PathLike[str],
    *,
    backup: str | None = None,
    accept: bool = False,
    now: str,
    lock_timeout_s: float,
    before_loss: BeforeLoss = _keep_nothing,
    disk: Disk | None = None,
) -> Repaired:
    """Repairs the log at `path`, and excludes writers meanwhile.

    An unacknowledged tail is saved in a file and cut. Damage before it is only listed, unless
    `backup`, a directory with segments, has the original lines. With `accept` the rest is recorded
    as lost at `now`, and readers continue after it; `before_loss` is called before that with the
    home and the first and last seqs of the entries, and nothing is recorded where it raises.

    Raises LogNotFound, LogLocked, LogCorrupt (a foreign file is among the segments), and
    EventLogError where the disk fails. After an error the finished steps stay, and are safe.
    """
    disk = SegmentDisk(disk or RealDisk())
    home = home_at(path)
    try:
        require_log(disk, home)
        source = BackupSegments(disk, backup) if backup is not None else None
        lock = WriterLock(disk, home, pid=os.getpid(), timeout_s=lock_timeout_s)
        with closed_segments_lock(disk, home, lock_timeout_s):
            try:
                lock.take()
                return _Repair(disk, home, lock, before_loss).run(source, now if accept else None)
            finally:
                lock.drop()
    except OSError as error:
        raise EventLogError(
            f"the log could not be repaired: {error.strerror or error}",
            where=error.filename or home.log_dir,
            do="nothing is lost: check the disk, then repair again",
        ) from error


class _Repair:
    """One repair, under the lock."""

    def __init__(self, disk: Disk, home: Home, lock: WriterLock, before_loss: BeforeLoss) -> None:
        self._before_loss = before_loss
        self._disk = disk
        self._home = home
        self._lock = lock
        self._durable_end = NOTHING_DURABLE

    def run(self, backup: BackupSegments | None, accepted_at: str | None) -> Repaired:
        sync_to_device(self._disk, self._home)
        self._durable_end = read_durable_state(self._disk, self._home).end
        found = self._survey()
        done = Repaired()
        is_damaged = bool(found.unaccepted_damages or found.halt)
        if is_damaged and backup is None and accepted_at is None:
            return _final_report(done, found, ())
        # With damage and no known durable end, the end is unknown: recording one now would be
        # taken for proof later. Without lock record and watermark every writer starts anew.
        is_end_known = self._durable_end.seq > 0 or not is_damaged
        if is_end_known and (
            is_damaged or found.torn_bytes or (backup is not None and found.damages)
        ):
            self._lock.write_state(WRITING, self._record_end(found))
        if found.torn_bytes:
            if is_end_known:
                rewrite_watermarks(self._disk, self._home, self._record_end(found))
            kept_in = cut_torn_tail(self._disk, self._home, found.end, found.torn_bytes)
            done = replace(done, torn_bytes_cut=found.torn_bytes, kept_in=kept_in)
        insufficiencies: tuple[str, ...] = ()
        if backup is not None and found.damages:
            outcome = repair_from_backup(
                self._disk, self._home, backup, found.damages, self._durable_end
            )
            done = replace(done, restored=outcome.restored)
            insufficiencies = outcome.insufficiencies
            found = self._survey()
        if accepted_at is not None and found.unaccepted_damages and not found.halt:
            records = [replace(d.gap, accepted_at=accepted_at) for d in found.unaccepted_damages]
            self._accept(found, records)
            done = replace(done, accepted=tuple(records))
            found = self._survey()
        if not found.unaccepted_damages and not found.halt:
            self._lock.write_state(CLEAN, found.end)
        return _final_report(done, found, insufficiencies)

    def _survey(self) -> Survey:
        return survey(self._disk, self._home, self._durable_end)

    def _record_end(self, found: Survey) -> LogEnd:
        """The durable end for the lock record: never below the known durable end.

        With damage it is not beyond it either: a misnamed segment may show entries that the log
        never had.
        """
        if self._durable_end.seq and (found.unaccepted_damages or found.halt):
            return self._durable_end
        return max(found.good_end, self._durable_end, key=lambda end: end.seq)

    def _accept(self, found: Survey, records: Sequence[AcceptedGap]) -> None:
        lost = [(gap.seq_from, gap.seq_to) for gap in records if gap.seq_from <= gap.seq_to]
        self._before_loss(self._home.root, lost)
        if found.needs_new_segment:
            # Before the record: a record without the segment would let a writer append to bad
            # bytes, while a segment without the record halts every process as before.
            self._disk.close(self._disk.create(self._home.segment_path(found.end.segment)))
            self._disk.fsync_dir(self._home.log_dir)
        append_gaps(self._disk, self._home, records)
        rewrite_watermarks(self._disk, self._home, found.end)
        for record in records:
            logger.warning(
                "damage_accepted segment=%d byte_from=%d byte_to=%d seq_from=%d seq_to=%d",
                *(record.segment, record.byte_from, record.byte_to),
                *(record.seq_from, record.seq_to),
            )


def _final_report(done: Repaired, found: Survey, insufficiencies: tuple[str, ...]) -> Repaired:
    advice = [f"find another backup; this one does not help: {why}" for why in insufficiencies]
    if found.unaccepted_damages:
        advice.append(
            "restore the original bytes with `eventlog repair --from BACKUP`, or, without a "
            "backup, record the loss with `eventlog repair --accept`"
        )
    if found.halt is not None:
        advice.append(
            "this damage can be neither repaired nor accepted: if that file does not belong to "
            "this log, move it away; else restore the whole log directory from a backup"
        )
    return replace(
        done,
        damage=found.unaccepted_damages,
        gaps=tuple(
            damage
            for damage in found.damages
            if damage.is_accepted and damage.gap not in done.accepted
        ),
        halt=found.halt,
        advice=tuple(advice),
    )


def _describe_gap(gap: AcceptedGap) -> str:
    """The place of a gap and its entries, as text."""
    name = segment_name(gap.segment)
    seqs = _seqs(gap.seq_from, gap.seq_to)
    if gap.byte_from == gap.byte_to:
        return f"{name} at byte {gap.byte_from}, {seqs} missing"
    return f"{name}, bytes {gap.byte_from} to {gap.byte_to}, {seqs}"


def _seqs(seq_from: int, seq_to: int) -> str:
    if seq_to > seq_from:
        return f"entries {seq_from} to {seq_to}"
    return f"entry {seq_from}" if seq_to == seq_from else "no entry"


def _halt_to_json(halt: LogCorrupt) -> dict[str, object]:
    return {
        "segment": halt.segment,
        "byte_from": halt.byte_offset,
        "byte_to": halt.byte_offset,
        "seq_from": halt.seq,
        "seq_to": halt.seq,
        "problem": halt.problem,
        "accepted_at": None,
    }
