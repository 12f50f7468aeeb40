"""signals_table: the signals of a home as a typed pyarrow.Table, for notebooks.

Invariant: the table holds what `eventlog export` writes for the same arguments.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import orjson

from projections.export.pages import read_pages
from projections.export.writer import further_kinds, missing_pyarrow, start_metadata
from projections.queries.as_of import parse_as_of
from projections.queries.filters import FilterArguments, signal_filter

if TYPE_CHECKING:
    from projections.export.parquet import Table


def signals_table(
    home: str | os.PathLike[str],
    as_of: str | datetime | None = None,
    symbol: str | None = None,
    *,
    limit: int | None = None,
    columns: Sequence[str] = (),
    **filters: Unpack[FilterArguments],
) -> "Table":
    """The signals that the filters select, by id, now or as of a past time.

    The columns are those of `eventlog export`, with times in UTC, and then the further keys that
    `columns` names. `limit` keeps the newest by timestamp. The metadata of its schema has the log
    position and the filters as JSON, under `eventlog`. Raises ProjectionError where pyarrow (the
    extra `parquet`) is missing, and as SignalStore does.
    """
    try:
        from projections.export.parquet import arrow_table  # pyarrow loads slowly
    except ImportError as error:
        raise missing_pyarrow(error) from error
    chosen = signal_filter(symbol=symbol, limit=limit, **filters)
    moment = None if as_of is None else parse_as_of(as_of)
    metadata = start_metadata(
        Path(home), format="arrow", as_of=moment, chosen=chosen, columns=columns
    )
    pages = partial(read_pages, Path(home), metadata.position, chosen, columns=columns)
    kinds = further_kinds(metadata, pages)
    text = orjson.dumps(metadata.to_json(is_done=False))
    return arrow_table(pages(), metadata.columns, kinds, text)
