"""Writes rows as Parquet; the only module that imports pyarrow (the extra `parquet`).

Invariant: a closed file holds every row that was written, and the metadata in its schema.
"""

from collections.abc import Sequence
from typing import IO

import pyarrow  # type: ignore[import-untyped]  # it ships no type information
import pyarrow.parquet  # type: ignore[import-untyped]

from projections.errors import ProjectionError

METADATA_KEY = b"eventlog"
INTEGER_COLUMNS = frozenset({"id"})
FLOAT_COLUMNS = frozenset(
    {"entry_price", "target_price", "stop_price", "confidence", "exit_price", "profit_loss_pct"}
)
TIME_COLUMNS = frozenset(
    {"timestamp", "created_at", "recorded_at", "order_recorded_at", "outcome_recorded_at"}
)


class ParquetRowWriter:
    """Writes rows of `columns` to `file`, one row group per call."""

    def __init__(self, file: IO[bytes], columns: Sequence[str], metadata: bytes) -> None:
        fields = [(name, _type(name)) for name in columns]
        self._schema = pyarrow.schema(fields, metadata={METADATA_KEY: metadata})
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, rows: Sequence[Sequence[object]]) -> None:
        """Writes one row group. Raises ProjectionError where a value does not fit its column."""
        try:
            arrays = [
                _array(field.name, column)
                for field, column in zip(self._schema, zip(*rows, strict=True), strict=True)
            ]
        except pyarrow.ArrowException as error:
            raise ProjectionError(
                f"a value in the table does not have its column's type: {error}",
                do="another program has changed the database: run `eventlog rebuild-database`",
            ) from error
        self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        """Writes the file's footer."""
        self._writer.close()


def _type(name: str) -> pyarrow.DataType:
    if name in TIME_COLUMNS:
        return pyarrow.timestamp("us", tz="UTC")
    if name in FLOAT_COLUMNS:
        return pyarrow.float64()
    return pyarrow.int64() if name in INTEGER_COLUMNS else pyarrow.string()


def _array(name: str, values: Sequence[object]) -> pyarrow.Array:
    if name not in TIME_COLUMNS:
        return pyarrow.array(values, _type(name))
    # `created_at` has SQLite's own form, without an offset; it is UTC like the other times.
    texts = [f"{text}Z" if isinstance(text, str) and len(text) == 19 else text for text in values]
    return pyarrow.array(texts, pyarrow.string()).cast(_type(name))
