"""The restore drill: proves that a backup can be restored, by restoring it.

The backup is restored into a scratch directory, every chain and every sha256 is checked while a
database is built from it, and its last entry is compared with the log of the home.

Invariant: `ok` is true only for a backup that was just restored, verified and rebuilt.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eventlog import (
    BackupUnusable,
    LogCorrupt,
    LogDiverged,
    LogNotFound,
    RestoredHome,
    restore_home,
)
from eventlog.plumbing import count_text, read_verified, require_home, time_text
from projections.errors import ProjectionError
from projections.monitoring.drill_record import write_drill_record
from projections.rebuild.rebuild import RebuildResult, rebuild
from projections.signals import schema
from projections.sqlite import database, file
from projections.sqlite.scratch import scratch_directory

SAME, DIFFERS, ABSENT = "same", "differs", "absent"

ProgressFactory = Callable[[str], AbstractContextManager[Callable[[int, int], object]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillResult:
    """The result of a restore drill. Figures that it did not reach are None."""

    ok: bool
    dest: str
    last_seq: int | None = None
    chain: str | None = None
    entries: int | None = None  # verified
    rows: int | None = None  # in the table that was built
    digest: str | None = None
    kept_files: int | None = None  # of other directories than logs/
    backed_up_at: str | None = None
    proven_at: str | None = None
    log: str | None = None  # how the log of the home compares: SAME, DIFFERS or ABSENT
    problem: str | None = None  # why it is not ok

    def to_json(self) -> dict[str, object]:
        """The object that `eventlog backup --verify --json` prints."""
        return asdict(self)

    def to_text(self) -> list[str]:
        """The lines that `eventlog backup --verify` prints."""
        if self.proven_at is None:
            return [f"NOT RESTORABLE: {self.problem}"]
        compared = {
            SAME: "the log has the same entry at that seq",
            ABSENT: "not compared: this home has no log",
            DIFFERS: f"THE LOG DIFFERS: {self.problem}",
        }
        lost = (self.last_seq or 0) - (self.entries or 0)
        return [
            f"proven restorable up to seq {self.last_seq}, chain {self.chain}",
            f"verified  {count_text(self.entries or 0, 'entry')}, built"
            f" {count_text(self.rows or 0, 'row')}, digest {self.digest}",
            *(
                [f"kept      {count_text(self.kept_files, 'file')} beside logs/"]
                if self.kept_files
                else []
            ),
            *([f"WITHOUT   {count_text(lost, 'entry')} accepted as lost"] if lost else []),
            f"backed up {time_text(self.backed_up_at or '-')}",
            f"log       {compared[self.log or ABSENT]}",
        ]


def run_restore_drill(
    home: Path,
    dest: Path,
    *,
    scratch_parent: Path | None,
    now: str,
    progress_factory: ProgressFactory,
) -> DrillResult:
    """Restores and verifies the backup `dest`, and compares it with the log of `home`.

    The scratch directory is made in `scratch_parent`, else in `dest`. A success is recorded in
    `home` with the time `now`. Raises EventLogError if the directories cannot be used.
    """
    is_log_absent = False
    try:
        require_home(home)
    except LogNotFound:
        is_log_absent = True
    real = Path(os.path.realpath(dest))
    failed = DrillResult(ok=False, dest=str(real))
    try:
        with scratch_directory(scratch_parent or real) as directory:
            restored, rebuilt = _restore_and_rebuild(real, directory / "home", progress_factory)
    except (BackupUnusable, LogCorrupt, LogDiverged, LogNotFound) as error:
        return replace(failed, problem=str(error))
    except OSError as error:
        raise ProjectionError(
            f"cannot make a scratch directory to restore into: {error.strerror or error}",
            where=str(error.filename or scratch_parent or real),
            do="name the directory of a backup; if it is read-only, use --scratch to name a "
            "directory with free space for twice the log",
        ) from error
    manifest = restored.manifest
    result = replace(
        failed,
        last_seq=manifest.last_seq,
        chain=manifest.chain,
        entries=rebuilt.entries,
        rows=rebuilt.rows,
        digest=rebuilt.digest,
        kept_files=len(manifest.kept),
        backed_up_at=manifest.backed_up_at,
        proven_at=now,
    )
    if is_log_absent:
        return replace(result, ok=True, log=ABSENT)
    problem = _log_mismatch(home, manifest.last_seq, manifest.chain)
    if problem is not None:
        return replace(result, log=DIFFERS, problem=problem)
    result = replace(result, ok=True, log=SAME)
    write_drill_record(home, seq=manifest.last_seq, chain=manifest.chain, at=now, dest=result.dest)
    return result


def _restore_and_rebuild(
    dest: Path, home: Path, progress_factory: ProgressFactory
) -> tuple[RestoredHome, RebuildResult]:
    with progress_factory("restoring") as progress:
        restored = restore_home(dest, home, progress=progress)
    end = (restored.manifest.last_seq, restored.manifest.chain)
    if not end[0]:
        raise BackupUnusable("the backup holds no entry", where=str(dest))
    with progress_factory("verifying") as progress:
        rebuilt = rebuild(home, progress=progress)
    found = file.read_database(
        database.database_path(home),
        lambda db: db.execute(schema.SELECT_CHECKPOINT, (schema.SQLITE,)).fetchone(),
    )
    if tuple(found[:2]) != end:
        raise BackupUnusable(
            f"its log ends with entry {found[0]}, chain {found[1]}; its manifest has another end",
            where=str(dest),
            do="make a new backup in an empty directory",
        )
    return restored, rebuilt


def _log_mismatch(home: Path, seq: int, chain: str) -> str | None:
    """Why the log is not the one that was backed up; None if it is."""
    try:
        next(read_verified(home, after=seq, chain=chain), None)
    except (LogDiverged, LogCorrupt, LogNotFound) as error:
        return str(error)
    return None
