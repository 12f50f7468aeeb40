"""Rows as Parquet or as a pyarrow.Table; the only module that imports pyarrow (extra `parquet`).

Invariant: a closed file, or a table, holds every row that was written, and the metadata in its
schema.
"""

from collections.abc import Iterable, Sequence
from typing import IO

import pyarrow  # type: ignore[import-untyped]  # it ships no type information
import pyarrow.parquet  # type: ignore[import-untyped]

from projections.errors import ProjectionError
from projections.export.column_kinds import BOOLEAN, FLOAT, INTEGER, TEXT, as_kind

Table = pyarrow.Table
METADATA_KEY = b"eventlog"
FLOAT_COLUMNS = frozenset(
    {
        *("entry_price", "target_price", "stop_price", "confidence"),
        *("exit_price", "profit_loss_pct", "fill_price"),
    }
)
TIME_COLUMNS = frozenset(
    {
        *("timestamp", "created_at", "recorded_at", "order_recorded_at", "outcome_recorded_at"),
        *("executed_at", "closed_at"),
    }
)
_TYPES = {
    BOOLEAN: pyarrow.bool_(),
    INTEGER: pyarrow.int64(),
    FLOAT: pyarrow.float64(),
    TEXT: pyarrow.string(),
}


class ParquetRowWriter:
    """Writes rows of `columns` to `file`, one row group per call.

    `further` has the kinds of the last columns, which are further keys of the signals.
    """

    def __init__(
        self,
        file: IO[bytes],
        columns: Sequence[str],
        further: Sequence[str],
        metadata: bytes,
    ) -> None:
        self._kinds = _kinds(columns, further)
        self._schema = _schema(columns, self._kinds, metadata)
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, rows: Sequence[Sequence[object]]) -> None:
        """Writes one row group. Raises ProjectionError where a value does not fit its column."""
        self._writer.write_batch(_batch(self._schema, self._kinds, rows))

    def close(self) -> None:
        """Writes the file's footer."""
        self._writer.close()


def arrow_table(
    pages: Iterable[Sequence[Sequence[object]]],
    columns: Sequence[str],
    further: Sequence[str],
    metadata: bytes,
) -> pyarrow.Table:
    """The rows as one table. Raises ProjectionError where a value does not fit its column."""
    kinds = _kinds(columns, further)
    schema = _schema(columns, kinds, metadata)
    return pyarrow.Table.from_batches([_batch(schema, kinds, rows) for rows in pages], schema)


def _kinds(columns: Sequence[str], further: Sequence[str]) -> Sequence[str | None]:
    """The kind of each further column; None for the others."""
    return [*[None] * (len(columns) - len(further)), *further]


def _schema(columns: Sequence[str], kinds: Sequence[str | None], metadata: bytes) -> pyarrow.Schema:
    fields = [
        (name, _type(name) if kind is None else _TYPES[kind])
        for name, kind in zip(columns, kinds, strict=True)
    ]
    return pyarrow.schema(fields, metadata={METADATA_KEY: metadata})


def _batch(
    schema: pyarrow.Schema, kinds: Sequence[str | None], rows: Sequence[Sequence[object]]
) -> pyarrow.RecordBatch:
    try:
        arrays = [
            _array(field.name, values)
            if kind is None
            else pyarrow.array([as_kind(kind, value) for value in values], field.type)
            for field, kind, values in zip(schema, kinds, zip(*rows, strict=True), strict=True)
        ]
    except pyarrow.ArrowException as error:
        raise ProjectionError(
            f"a value in the table does not have its column's type: {error}",
            do="another program has changed the database: run `eventlog rebuild-database`",
        ) from error
    return pyarrow.record_batch(arrays, schema=schema)


def _type(name: str) -> pyarrow.DataType:
    if name in TIME_COLUMNS:
        return pyarrow.timestamp("us", tz="UTC")
    if name in FLOAT_COLUMNS:
        return pyarrow.float64()
    return pyarrow.int64() if name == "id" else pyarrow.string()


def _array(name: str, values: Sequence[object]) -> pyarrow.Array:
    if name not in TIME_COLUMNS:
        return pyarrow.array(values, _type(name))
    # `created_at` has SQLite's own form, without an offset; it is UTC like the other times.
    texts = [f"{text}Z" if isinstance(text, str) and len(text) == 19 else text for text in values]
    return pyarrow.array(texts, pyarrow.string()).cast(_type(name))
