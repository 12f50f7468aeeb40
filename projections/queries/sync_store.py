"""SyncSignalStore: the queries of SignalStore without asyncio, for scripts and notebooks.

Each query opens the database, reads one snapshot and closes it, in about a millisecond. So it may
be used from any thread, beside a running event loop, and after a fork. It caches nothing.

Invariant: for equal arguments it returns what SignalStore returns.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Self, Unpack, overload

from projections.queries.as_of import parse_as_of
from projections.queries.filters import FilterArguments, signal_filter, whole_limit
from projections.queries.selection import (
    ROW_COLUMNS,
    Selection,
    by_signal_id,
    count_of,
    dict_with_extra,
    further_columns,
    latest,
    row_dict,
)
from projections.queries.stats import Stats, read_stats, read_stats_by, require_group
from projections.queries.table import read_as_of

ROWS_MAX = 100_000  # per result: a read must not pin the WAL for minutes


class SyncSignalStore:
    """Reads the signals of a home, as SignalStore does, which documents the arguments."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._home = home

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing: no resource is held between two queries."""

    def latest(
        self,
        symbol: str | None = None,
        limit: int = 10,
        *,
        as_of: str | datetime | None = None,
        columns: Sequence[str] = (),
        **filters: Unpack[FilterArguments],
    ) -> list[dict[str, object]]:
        """The signals that the filters select, newest timestamp first."""
        further = further_columns(columns, ROW_COLUMNS)
        chosen = signal_filter(symbol=symbol, **filters)
        count = max(0, min(whole_limit(limit), ROWS_MAX))
        return read_as_of(
            self._home,
            _moment(as_of),
            lambda database, seq: [
                row_dict(row, further)
                for row in database.execute(
                    *latest(Selection(chosen, seq), count, with_extra=bool(further))
                )
            ],
        )

    def get(
        self, signal_id: str, *, as_of: str | datetime | None = None
    ) -> dict[str, object] | None:
        """One signal, with its other keys under `extra`; None where there is, or was, none."""
        rows = read_as_of(
            self._home,
            _moment(as_of),
            lambda database, seq: [
                dict_with_extra(row) for row in database.execute(*by_signal_id(signal_id, seq))
            ],
        )
        return rows[0] if rows else None

    def count(
        self,
        symbol: str | None = None,
        *,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> int:
        """The number of signals that the filters select, now or as of a past time."""
        chosen = signal_filter(symbol=symbol, **filters)
        return read_as_of(
            self._home,
            _moment(as_of),
            lambda database, seq: int(
                database.execute(*count_of(Selection(chosen, seq))).fetchone()[0]
            ),
        )

    @overload
    def stats(
        self,
        symbol: str | None = None,
        *,
        by: None = None,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> Stats: ...

    @overload
    def stats(
        self,
        symbol: str | None = None,
        *,
        by: str,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> list[Stats]: ...

    def stats(
        self,
        symbol: str | None = None,
        *,
        by: str | None = None,
        as_of: str | datetime | None = None,
        **filters: Unpack[FilterArguments],
    ) -> Stats | list[Stats]:
        """The figures of the signals that the filters select; with `by`, those of each group."""
        require_group(by)
        chosen = signal_filter(symbol=symbol, **filters)
        return read_as_of(
            self._home,
            _moment(as_of),
            lambda database, seq: (
                read_stats(database, Selection(chosen, seq))
                if by is None
                else read_stats_by(database, Selection(chosen, seq), by)
            ),
        )


def _moment(as_of: str | datetime | None) -> str | None:
    return None if as_of is None else parse_as_of(as_of)
