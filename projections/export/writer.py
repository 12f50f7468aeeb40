"""Exports signals to a CSV or Parquet file, with the log position that they were read at.

Invariant: an export that returns has written every selected row, and names exactly the data that it
holds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, Protocol, cast

import orjson

from eventlog.plumbing import output_file
from projections.errors import ProjectionError
from projections.export.column_kinds import ColumnKinds
from projections.export.csv_lines import csv_line
from projections.export.pages import COLUMNS, PAGE_ROWS, LogPosition, position_of, read_pages
from projections.queries.filters import SignalFilter
from projections.queries.selection import further_columns

CSV = "csv"  # the other formats are parquet, and arrow in memory
NO_FILTER = SignalFilter()

Row = Sequence[object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportMetadata:
    """Which data an export holds; rows, bytes and sha256 once it is complete."""

    format: str
    rows: int = 0
    position: LogPosition
    as_of: str | None
    filter: SignalFilter
    columns: tuple[str, ...] = COLUMNS
    raw: bool = False  # CSV without the escape of text that a spreadsheet would execute
    bytes: int = 0
    sha256: str = ""

    def to_json(self, *, is_done: bool = True) -> dict[str, object]:
        """The object that `eventlog export --json` prints; without _FINAL_KEYS until it is done."""
        found: dict[str, object] = {"format": self.format, "rows": self.rows}
        found |= asdict(self.position) | {"as_of": self.as_of} | asdict(self.filter)
        found |= {"columns": self.columns, "raw": self.raw}
        found |= {"bytes": self.bytes, "sha256": self.sha256}
        return found if is_done else {k: found[k] for k in found if k not in _FINAL_KEYS}


_FINAL_KEYS = ("rows", "bytes", "sha256")


class _RowWriter(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def start_metadata(
    home: Path,
    *,
    format: str,  # noqa: A002  # the option's name
    as_of: str | None,
    chosen: SignalFilter,
    columns: Sequence[str],
) -> ExportMetadata:
    """Which data an export that begins now will hold. Raises ProjectionError, LogNotFound."""
    further = further_columns(columns, COLUMNS)
    return ExportMetadata(
        format=format,
        position=position_of(home, as_of),
        as_of=as_of,
        filter=chosen,
        columns=(*COLUMNS, *further),
    )


def export(
    home: Path,
    file: IO[bytes],
    *,
    format: str = CSV,  # noqa: A002  # the option's name
    as_of: str | None = None,
    chosen: SignalFilter = NO_FILTER,
    columns: Sequence[str] = (),
    raw: bool = False,
    page_rows: int = PAGE_ROWS,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> ExportMetadata:
    """Writes the signals to `file` and returns which they are.

    `as_of` is in the form that `parse_as_of` returns; `columns` are further keys of the signals.
    `raw` writes CSV without the escape. Raises ProjectionError, LogNotFound, OSError.
    """
    metadata = start_metadata(home, format=format, as_of=as_of, chosen=chosen, columns=columns)
    metadata = replace(metadata, raw=raw and format == CSV)
    pages = partial(
        read_pages, home, metadata.position, chosen, columns=columns, page_rows=page_rows
    )
    output = _HashingFile(file)
    rows, last_seq = 0, metadata.position.seq
    try:
        writer = _writer(metadata, cast(IO[bytes], output), pages)
        for page in pages():
            writer.write(page)
            rows += len(page)
            last_id = page[-1][0]
            assert isinstance(last_id, int)
            progress(output.bytes, output.bytes * last_seq // last_id)
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


def missing_pyarrow(error: ImportError, otherwise: str = "") -> ProjectionError:
    """The error where the extra `parquet` is not installed."""
    return ProjectionError(
        f"it needs pyarrow: {error}",
        do="run `pip install 'signal-eventlog[parquet]'`, or `pip install '.[parquet]'` in a"
        f" checkout{otherwise}",
    )


def _writer(
    metadata: ExportMetadata, file: IO[bytes], pages: Callable[[], Iterator[list[Row]]]
) -> _RowWriter:
    if metadata.format == CSV:
        return _CsvRowWriter(file, metadata)
    try:
        from projections.export.parquet import ParquetRowWriter  # pyarrow loads slowly
    except ImportError as error:
        raise missing_pyarrow(error, "; or export CSV") from error
    kinds = further_kinds(metadata, pages)
    text = orjson.dumps(metadata.to_json(is_done=False))
    return ParquetRowWriter(file, metadata.columns, kinds, text)


def further_kinds(
    metadata: ExportMetadata, pages: Callable[[], Iterator[list[Row]]]
) -> Sequence[str]:
    """The kinds of the further columns. They take all rows to know, so the rows are read twice."""
    kinds = ColumnKinds(len(metadata.columns) - len(COLUMNS))
    if kinds.count:
        for page in pages():
            kinds.add(row[len(COLUMNS) :] for row in page)
    return kinds.found()


class _CsvRowWriter:
    def __init__(self, file: IO[bytes], metadata: ExportMetadata) -> None:
        self._file = file
        self._line = partial(csv_line, is_raw=metadata.raw)
        further = metadata.columns[len(COLUMNS) :]
        names = ",".join([*COLUMNS, *(self._line([name])[:-1] for name in further)])
        file.write(f"{names}\n".encode())

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write("".join(map(self._line, rows)).encode())

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
