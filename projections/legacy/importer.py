"""Imports the files of the old tracker, `signals.log` and `signals.db`, into the log.

A line and a row with the same signal_id are one signal. The line is the signal as it was received;
the row supplies the fields that the line lacks, mainly outcome and order id, which become facts.
The old tracker hashed the nine fields as received: ints stayed ints, a timestamp without an offset
stayed as it was, and missing fields were left out. Its hash is checked by that rule and kept as
`legacy_sha256`; its own time of the signal is kept as `legacy_recorded_at`.

Invariant: a repeated import, also after an interruption, adds only what the log does not have yet.
"""

import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from eventlog import EventLog, EventLogError, InvalidSignal, Signal
from eventlog.plumbing import database_uri
from projections.errors import ProjectionError
from projections.legacy.times import parsed_time

HASHED_KEYS = (
    *("signal_id", "symbol", "action", "entry_price", "target_price", "stop_price"),
    *("confidence", "strategy", "timestamp"),
)
NUMBER_KEYS = ("entry_price", "target_price", "stop_price", "confidence")
# Outcome fields, and fields that the old tracker added: not part of the signal.
NON_SIGNAL_KEYS = frozenset(
    {"id", "outcome", "exit_price", "profit_loss_pct", "order_id", "created_at"}
    | {"server_timestamp", "sha256", "legacy_sha256", "legacy_recorded_at"}
)
ROW_ONLY_KEYS = frozenset({"id", "created_at"})  # in every row and in no line
BATCH_ITEMS_MAX = 500  # signals and facts in one durable write
REFUSED_LISTED_MAX = 1_000  # all are counted, and all go to the rejects file

Record = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRecord:
    """One line or row that was refused."""

    where: str  # `line 122` or `row 121`
    reason: str


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """The numbers of signals and facts imported, already known, and refused, with reasons."""

    signals_imported: int = 0
    signals_known: int = 0
    facts_imported: int = 0
    facts_known: int = 0
    refused_count: int = 0
    refused: list[RejectedRecord] = field(default_factory=list)
    created_log: bool = False  # there was none at the home

    def to_json(self) -> dict[str, object]:
        """The object that `eventlog import-legacy --json` prints."""
        return {
            "signals": {"imported": self.signals_imported, "known": self.signals_known},
            "facts": {"imported": self.facts_imported, "known": self.facts_known},
            "refused_count": self.refused_count,
            "refused": [{"where": r.where, "reason": r.reason} for r in self.refused],
        }


def import_legacy(
    home: Path,
    *,
    log_file: Path | None,
    database: Path | None,
    rejects: BinaryIO | None,
    progress: Callable[[int, int], object] | None = None,
) -> ImportReport:
    """Appends the signals and facts that the log does not have. Raises EventLogError, OSError."""
    report = ImportReport()
    with EventLog(home) as log:
        importer = _Importer(log, report, rejects)
        with closing(_open_rows(database)) as rows:
            seen: set[str] = set()
            for where, raw, line in _lines(log_file, progress):
                if line is None:
                    importer.refuse(where, raw, "is not a JSON object")
                    continue
                signal_id = line.get("signal_id")
                row = _row(rows, signal_id) if isinstance(signal_id, str) else {}
                if isinstance(signal_id, str):
                    seen.add(signal_id)
                importer.add(where, raw, line, row)
            for where, row in _rows(rows):
                if row["signal_id"] not in seen:
                    importer.add(where, _json(row), {}, row)
        importer.flush()
        report.created_log = log.created
    return report


class _Importer:
    """Collects signals and facts, and appends them in batches."""

    def __init__(self, log: EventLog, report: ImportReport, rejects: BinaryIO | None) -> None:
        self._log = log
        self._report = report
        self._rejects = rejects
        self._signals: dict[str, object] = {}  # legacy_sha256 by signal_id, of the whole log
        self._facts: set[tuple[str, object]] = set()  # (event, signal_id) of the whole log
        self._batch: list[tuple[str, bytes, Record]] = []
        # The dedupe window of append does not reach back far enough.
        for entry in log.read():
            signal_id = entry.payload.get("signal_id")
            if entry.event != "signal":
                self._facts.add((entry.event, signal_id))
            elif isinstance(signal_id, str):
                self._signals.setdefault(signal_id, entry.payload.get("legacy_sha256"))

    def add(self, where: str, raw: bytes, line: Record, row: Record) -> None:
        """Adds one signal from its line and its row; either may be empty."""
        try:
            item = _signal_item(line, row)
            Signal.from_mapping(item)
        except InvalidSignal as error:
            self.refuse(where, raw, str(error))
            return
        signal_id = str(item["signal_id"])
        if signal_id in self._signals:
            if self._signals[signal_id] != item.get("legacy_sha256"):
                self.refuse(where, raw, f"signal_id {signal_id} belongs to another signal")
                return
            self._report.signals_known += 1
        else:
            self._signals[signal_id] = item.get("legacy_sha256")
            self._batch.append((where, raw, item))
        for fact in _facts(_merged(line, row)):
            key = (str(fact["event"]), signal_id)
            if key in self._facts:
                self._report.facts_known += 1
            else:
                self._facts.add(key)
                self._batch.append((where, raw, fact))
        if len(self._batch) >= BATCH_ITEMS_MAX:
            self.flush()

    def flush(self) -> None:
        """Appends the batch. Raises EventLogError if the log cannot be written."""
        batch, self._batch = self._batch, []
        results = self._log.append_each([item for _, _, item in batch])
        for (where, raw, item), result in zip(batch, results, strict=True):
            if isinstance(result, InvalidSignal):  # a fact: the signals were validated before
                self.refuse(where, raw, f"{item.get('event')}: {result}")
            elif isinstance(result, EventLogError):
                raise result
            elif "event" in item:
                self._report.facts_imported += 1
            else:
                self._report.signals_imported += 1

    def refuse(self, where: str, raw: bytes, reason: str) -> None:
        """Counts and lists a refused line or row, and writes it to the rejects file unchanged."""
        self._report.refused_count += 1
        if len(self._report.refused) < REFUSED_LISTED_MAX:
            self._report.refused.append(RejectedRecord(where=where, reason=reason))
        if self._rejects is not None:
            self._rejects.write(raw.rstrip(b"\n") + b"\n")


def _merged(line: Record, row: Record) -> Record:
    """The line, completed by the fields that only the row has."""
    return {**row, **{key: value for key, value in line.items() if value is not None}}


def _signal_item(line: Record, row: Record) -> Record:
    """The signal to append. Raises InvalidSignal if its old hash does not match."""
    merged = _merged(line, row)
    legacy_sha256 = merged.get("sha256")
    is_row = not line or line.keys() >= ROW_ONLY_KEYS  # or a rejected row that was corrected
    if legacy_sha256 is not None and not _hash_matches(line or row, legacy_sha256, is_row=is_row):
        raise InvalidSignal(
            "does not match the nine fields as received", field="sha256", value=legacy_sha256
        )
    item = {key: value for key, value in merged.items() if key not in NON_SIGNAL_KEYS}
    if not isinstance(item.get("signal_id"), str):
        raise InvalidSignal("is missing", field="signal_id")
    for key in [key for key, value in item.items() if value is None]:
        del item[key]
    timestamp = item.get("timestamp")
    if isinstance(timestamp, str):
        item["timestamp"] = parsed_time(timestamp) or timestamp
    if legacy_sha256 is not None:
        item["legacy_sha256"] = legacy_sha256
    recorded_at = _recorded_at(merged)
    if recorded_at is not None:
        item["legacy_recorded_at"] = recorded_at
        moment = parsed_time(recorded_at)
        if moment is not None:
            item.setdefault("timestamp", moment)  # the default would be the time of the import
    return item


def _hash_matches(fields: Mapping[str, object], legacy_sha256: object, *, is_row: bool) -> bool:
    """Whether the fields have this hash by the old rule.

    SQLite stored ints as floats, so for a row every combination of both is tried.
    """
    present = {key: fields[key] for key in HASHED_KEYS if key in fields}
    whole_numbers = [
        key
        for key in NUMBER_KEYS
        if is_row and isinstance(value := present.get(key), float) and value.is_integer()
    ]
    for count in range(len(whole_numbers) + 1):
        for chosen in itertools.combinations(whole_numbers, count):
            candidate = {
                key: int(str(value).partition(".")[0]) if key in chosen else value
                for key, value in present.items()
            }
            if sha256(_json(candidate, sort_keys=True)).hexdigest() == legacy_sha256:
                return True
    return False


def _json(record: Record, *, sort_keys: bool = False) -> bytes:
    # A column may hold bytes, for example of a stored numpy number: they become text, and the row
    # is refused.
    return json.dumps(record, sort_keys=sort_keys, default=repr).encode()


def _facts(record: Mapping[str, object]) -> Iterator[Record]:
    """The facts about a signal. An incomplete outcome is refused later, without the signal."""
    signal_id = record.get("signal_id")
    if record.get("order_id"):
        yield {
            "event": "executed",
            "signal_id": signal_id,
            "order_id": str(record["order_id"]),
        }
    if record.get("outcome"):
        fact: Record = {
            "event": "closed",
            "signal_id": signal_id,
            "outcome": str(record["outcome"]).lower(),
        }
        for key in ("exit_price", "profit_loss_pct"):
            if record.get(key) is not None:
                fact[key] = record[key]
        yield fact


def _with_offset(text: str) -> str:
    """The timestamp with an offset: without one it was UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.replace(tzinfo=UTC).isoformat() if moment.tzinfo is None else text


def _recorded_at(record: Mapping[str, object]) -> str | None:
    """When the old tracker received it, UTC: its server_timestamp (seconds), else created_at."""
    if record.get("legacy_recorded_at") is not None:
        return str(record["legacy_recorded_at"])
    seconds, created_at = record.get("server_timestamp"), record.get("created_at")
    if isinstance(seconds, int | float):
        try:
            return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
        except (OverflowError, ValueError, OSError):
            pass
    if isinstance(created_at, str):
        return _with_offset(created_at)
    return None


def _lines(
    path: Path | None, progress: Callable[[int, int], object] | None
) -> Iterator[tuple[str, bytes, Record | None]]:
    if path is None:
        return
    total, done = path.stat().st_size, 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            done += len(raw)
            if progress is not None:
                progress(done, total)
            if raw.strip():
                yield f"line {number}", raw, _parsed(raw)


def _parsed(raw: bytes) -> Record | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


_SQLITE_PATH_BYTES_MAX = 500  # SQLite's limit is 512, with a suffix such as -journal


def _open_rows(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return sqlite3.connect(":memory:")
    if not path.is_file():
        raise ProjectionError(
            "the database does not exist", where=str(path), do="name its signals.db with --db"
        )
    wal = Path(f"{path}-wal")
    # `immutable` keeps SQLite from creating files beside a database that has no WAL.
    mode = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
    try:
        rows = _connect(path, mode)
    except (OSError, sqlite3.Error) as error:
        raise _foreign_rows_error(path, error) from error
    rows.row_factory = sqlite3.Row
    try:
        rows.execute("SELECT signal_id, sha256, outcome, order_id FROM signals LIMIT 1").fetchone()
    except sqlite3.Error as error:
        rows.close()
        raise _foreign_rows_error(path, error) from error
    return rows


def _foreign_rows_error(path: Path, error: Exception) -> ProjectionError:
    return ProjectionError(
        f"this is not a database of the old tracker: {error}",
        where=str(path),
        do="name its signals.db with --db",
    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Opens a database. SQLite takes no long path, so that one behind such a path is copied."""
    if len(os.fsencode(path.resolve())) <= _SQLITE_PATH_BYTES_MAX:
        return sqlite3.connect(database_uri(path, mode), uri=True)
    with tempfile.TemporaryDirectory() as directory:
        near = Path(directory, "signals.db")
        shutil.copyfile(path, near)
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}-wal", f"{near}-wal")
        rows = sqlite3.connect(":memory:")
        with closing(sqlite3.connect(database_uri(near, "mode=rw"), uri=True)) as source:
            source.backup(rows)
    return rows


def _row(rows: sqlite3.Connection, signal_id: str) -> Record:
    if rows.row_factory is None:
        return {}
    found = rows.execute("SELECT * FROM signals WHERE signal_id = ?", (signal_id,)).fetchone()
    return dict(found) if found is not None else {}


def _rows(rows: sqlite3.Connection) -> Iterator[tuple[str, Record]]:
    if rows.row_factory is not None:
        for row in rows.execute("SELECT * FROM signals ORDER BY id"):
            yield f"row {row['id']}", dict(row)
