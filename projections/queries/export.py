"""Exports the signals table to a CSV or Parquet file, with the log position it was read at.

The table is read in pages, each in a short transaction, as of one seq. Effects of later facts are
left out, so all pages show one state of the table, and no long reader pins the WAL.

Invariant: the rows are the fold of the log up to `seq`, and `chain` is the chain of entry `seq`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from sqlite3 import Connection, Error
from typing import IO, Protocol, TypeVar, cast

import orjson

from eventlog.plumbing import output_file, read_entries, require_home
from projections.errors import ProjectionError
from projections.projection import CHAIN_START, Checkpoint
from projections.queries.as_of import AS_OF_BOUNDS, COLUMNS_AS_OF, FROM_AS_OF, AsOfBounds
from projections.queries.store import require_settled
from projections.signals import schema
from projections.sqlite.database import (
    database_path,
    missing_error,
    read_checkpoint,
    read_table,
    unreadable_error,
)

PAGE_ROWS = 20_000  # about 20 MB of Python objects, read in a tenth of a second
CSV = "csv"  # the other format is parquet

COLUMNS = (*schema.COLUMNS, "extra", "recorded_at", "order_recorded_at", "outcome_recorded_at")
_SELECT = f"""SELECT {COLUMNS_AS_OF}, x.extra, r.recorded_at, o.recorded_at, c.recorded_at
    {FROM_AS_OF}
    LEFT JOIN signal_extras AS x ON x.signal_id = s.signal_id
    LEFT JOIN lifecycle AS r ON r.seq = s.id
    LEFT JOIN lifecycle AS o ON o.seq = f.executed_seq
    LEFT JOIN lifecycle AS c ON c.seq = f.closed_seq
    WHERE s.id > ?2 AND s.id <= ?1"""
_PAGE = f"{_SELECT} ORDER BY s.id LIMIT ?3"
_PAGE_OF_SYMBOL = f"{_SELECT} AND s.symbol = ?4 ORDER BY s.id LIMIT ?3"

T = TypeVar("T")
Row = Sequence[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMetadata:
    """Which data an export holds; rows, bytes and sha256 once it is complete."""

    format: str
    rows: int = 0
    seq: int  # of the last entry that the export covers; 0 for none
    chain: str  # of that entry
    recorded_at: str | None  # of that entry
    as_of: str | None
    symbol: str | None
    columns: tuple[str, ...] = COLUMNS
    bytes: int = 0
    sha256: str = ""

    def to_json(self, *, is_done: bool = True) -> dict[str, object]:
        """The object that `eventlog export --json` prints; without _FINAL_KEYS until it is done."""
        found = asdict(self)
        return found if is_done else {k: found[k] for k in found if k not in _FINAL_KEYS}


_FINAL_KEYS = ("rows", "bytes", "sha256")


class _RowWriter(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def export(
    home: Path,
    file: IO[bytes],
    *,
    format: str = CSV,  # noqa: A002  # the option's name
    as_of: str | None = None,
    symbol: str | None = None,
    page_rows: int = PAGE_ROWS,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> ExportMetadata:
    """Writes the signals to `file` and returns which they are.

    `as_of` is in the form that `parse_as_of` returns. Raises ProjectionError, LogNotFound, OSError.
    """
    metadata = _start_metadata(
        home, format, as_of, None if symbol is None else symbol.strip().upper()
    )
    output = _HashingFile(file)
    rows = 0
    try:
        writer = _writer(metadata, cast(IO[bytes], output))
        for page in _pages(home, metadata, page_rows):
            writer.write(page)
            rows += len(page)
            last_id = page[-1][0]
            assert isinstance(last_id, int)
            progress(output.bytes, output.bytes * metadata.seq // last_id)
        writer.close()
    except BaseException:
        output.discard_writes()
        raise
    return replace(metadata, rows=rows, bytes=output.bytes, sha256=output.sha256.hexdigest())


def write_metadata(path: Path, metadata: ExportMetadata, *, home: Path) -> Path:
    """Writes `FILE.meta.json` beside the file; returns its path."""
    metadata_path = path.with_name(f"{path.name}.meta.json")
    with output_file(metadata_path, home=home) as file:
        file.write(orjson.dumps(metadata.to_json(), option=orjson.OPT_APPEND_NEWLINE))
    return metadata_path


def _start_metadata(
    home: Path, format_: str, as_of: str | None, symbol: str | None
) -> ExportMetadata:
    """Which data the export will hold."""
    require_home(home)
    bounds, checkpoint = _read_table(
        home, lambda database: _bounds_and_checkpoint(database, as_of or "")
    )
    if as_of is not None:
        require_settled(os.fspath(home), bounds, as_of)
    first_seq = bounds.seq if as_of is not None else checkpoint.seq
    seq, chain, recorded_at = 0, CHAIN_START, None
    for entry in read_entries(os.fspath(home), after=max(0, first_seq - 1)):
        if entry.seq > checkpoint.seq or (as_of is not None and entry.recorded_at > as_of):
            break
        seq, chain, recorded_at = entry.seq, entry.chain, entry.recorded_at
    if seq < first_seq or (seq == checkpoint.seq and chain != checkpoint.chain):
        raise ProjectionError(
            f"the table does not belong to this log: they differ at entry {first_seq}",
            where=os.fspath(home),
            do="run `eventlog verify`, then `eventlog rebuild-database`",
        )
    return ExportMetadata(
        format=format_, seq=seq, chain=chain, recorded_at=recorded_at, as_of=as_of, symbol=symbol
    )


def _bounds_and_checkpoint(database: Connection, moment: str) -> tuple[AsOfBounds, Checkpoint]:
    bounds = AsOfBounds._make(database.execute(AS_OF_BOUNDS, (moment,)).fetchone())
    return bounds, read_checkpoint(database) or Checkpoint(projection=schema.SQLITE)


def _pages(home: Path, metadata: ExportMetadata, page_rows: int) -> Iterator[list[Row]]:
    last_id = 0
    statement, symbols = (
        (_PAGE, ()) if metadata.symbol is None else (_PAGE_OF_SYMBOL, (metadata.symbol,))
    )

    def read(database: Connection) -> list[Row]:
        checkpoint = read_checkpoint(database)
        if checkpoint is None or checkpoint.seq < metadata.seq:
            raise ProjectionError(
                "the database was replaced during the export, and is behind the log",
                where=str(database_path(home)),
                do="export again once `eventlog status` shows no lag",
            )
        return database.execute(statement, (metadata.seq, last_id, page_rows, *symbols)).fetchall()

    while page := _read_table(home, read):
        yield page
        last_id = cast(int, page[-1][0])


def _read_table(home: Path, read: Callable[[Connection], T]) -> T:
    path = database_path(home)
    try:
        return read_table(path, read)
    except FileNotFoundError:
        raise missing_error(path) from None
    except Error as error:
        raise unreadable_error(path, error) from error


def _writer(metadata: ExportMetadata, file: IO[bytes]) -> _RowWriter:
    if metadata.format == CSV:
        return _CsvRowWriter(file)
    try:
        from projections.queries.parquet import ParquetRowWriter  # pyarrow loads slowly
    except ImportError as error:
        raise ProjectionError(
            f"Parquet needs pyarrow: {error}",
            do="run `pip install 'signal-eventlog[parquet]'`, or `pip install '.[parquet]'` in a"
            " checkout; or export CSV",
        ) from error
    return ParquetRowWriter(file, COLUMNS, orjson.dumps(metadata.to_json(is_done=False)))


class _CsvRowWriter:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        file.write((",".join(COLUMNS) + "\n").encode())

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write("".join(map(csv_line, rows)).encode())

    def close(self) -> None:
        """Does nothing: a CSV file has no footer."""


class _HashingFile:
    """A write-only file that counts and hashes what is written to it."""

    closed = False  # pyarrow reads it

    def __init__(self, file: IO[bytes]) -> None:
        self._file: IO[bytes] | None = file
        self.bytes = 0
        self.sha256 = sha256()

    def discard_writes(self) -> None:
        """Discards all later writes.

        A Parquet writer writes its footer even when it is garbage-collected, and an incomplete file
        would then look complete.
        """
        self._file = None

    def write(self, data: bytes) -> int:
        if self._file is None:
            return len(data)
        self._file.write(data)
        self.bytes += len(data)
        self.sha256.update(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Does nothing: the caller of `export` closes the file."""


# The list of OWASP's "CSV injection", with the full-width forms that some spreadsheets treat alike.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
ESCAPE_PREFIX = "'"
_ESCAPED_PREFIXES = (*FORMULA_PREFIXES, ESCAPE_PREFIX)


def csv_line(row: Sequence[object]) -> str:
    """A line of CSV: text in quotes, numbers without, nothing for None."""
    return ",".join(map(_csv_cell, row)) + "\n"


def unescape_cell(cell: str) -> str:
    """Removes the escape from a text cell, as a CSV reader returns it."""
    return cell.removeprefix(ESCAPE_PREFIX)


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if text.startswith(_ESCAPED_PREFIXES):
        text = ESCAPE_PREFIX + text
    return '"' + text.replace('"', '""') + '"'
