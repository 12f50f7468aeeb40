"""Compares the log with Alpine by hash: missing, different and extra signals.

Both sides go into a private temporary database on disk, so that neither needs to fit into memory.
Alpine's list is fetched page by page, one request at a time and a limited number a second. The next
page is requested before the rows of the one before are stored. Signals that reached Alpine while
the log was read are fetched at the end, so that a delivering daemon makes nothing look missing.

Alpine's ids grow from signal to signal, and the number of pages is limited, so that no list keeps
the comparison from its end.

Invariant: nothing is sent, and neither the log nor the delivery state changes.
"""

import asyncio
import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from eventlog import EventLog, UnsafePath
from projections.alpine.client import (
    LIST_PATH,
    PAGE_SIGNALS,
    PAGE_SIGNALS_MAX,
    AlpineClient,
    NoResponse,
    Response,
    ResponseTooLarge,
    parse_page,
)
from projections.alpine.contract import retry_after_seconds
from projections.delivery.outbox import outbox_path, read_outbox, read_seq
from projections.errors import ProjectionError

PAGE_TRIES_MAX = 5
INSERT_ROWS = 1_000
UNSUPPORTED_STATUSES = frozenset({404, 405, 501})
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
OVERLOADED_STATUSES = frozenset({429, 503})  # each doubles the time from page to page
PAGE_S_MAX = 1.0
SENDING_S = 0.001  # for a request, before the rows of the page before it occupy the loop
PAGE_REFUSED_STATUSES = frozenset({400, 413, 422})  # perhaps because the page is too large
CACHE_KIB = 64 << 10  # of the temporary database: hashes come in no order

# Python and PostgreSQL divide and print the same floats; another Alpine may round.
_CLOSE = (
    "(ours.{0} = theirs.{0}"
    " OR abs(ours.{0} - theirs.{0}) <= 1e-9 * max(abs(ours.{0}), abs(theirs.{0})))"
)
_NUMBERS = ("price", "target", "stop", "confidence")
_FIELDS = ("symbol", "action", *_NUMBERS)
_SCHEMA = """
CREATE TABLE ours(hash TEXT, seq INTEGER, signal_id TEXT, symbol TEXT, action TEXT,
    price REAL, target REAL, stop REAL, confidence REAL);
CREATE TABLE theirs(hash TEXT, id INTEGER, symbol TEXT, action TEXT,
    price REAL, target REAL, stop REAL, confidence REAL);
"""
_DIFFERENT = "NOT (ours.symbol IS theirs.symbol AND ours.action IS theirs.action AND {})".format(
    " AND ".join(f"ifnull({_CLOSE.format(name)}, 0)" for name in _NUMBERS)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileLimits:
    """The rate of requests to Alpine, and the size of a report."""

    pages_per_s: float = 50.0  # of 1,000 signals, where the backend lists so many at once
    retry_s: float = 0.5  # pause after a page that failed; it doubles
    pages_max: int = 100_000  # at least 20 million signals: one with more is taken for endless
    listed_max: int = 1_000  # signals listed of each kind; the counts include all


class ComparisonUnsupported(ProjectionError):
    """This Alpine cannot list its signals with their hashes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A signal that Alpine does not have, and the reason as far as it is known."""

    seq: int
    signal_id: str
    sha256: str
    why: str  # undelivered; refused, failing or discarded; lost: it was delivered


@dataclass(frozen=True, slots=True, kw_only=True)
class Different:
    """A signal that Alpine has with other values: (ours, theirs) by field."""

    seq: int
    signal_id: str
    sha256: str
    fields: dict[str, tuple[object, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileReport:
    """The differences. Counts include all; `ReconcileLimits.listed_max` of each kind are listed."""

    in_log: int
    at_alpine: int
    missing_count: int
    different_count: int
    extra_count: int
    missing: tuple[Missing, ...]
    different: tuple[Different, ...]
    extra: tuple[dict[str, object], ...]
    missing_seqs: tuple[int, ...]


async def compare_with_alpine(
    home: Path, client: AlpineClient, *, limits: ReconcileLimits | None = None
) -> ReconcileReport:
    """Compares the log up to its present end with Alpine's list.

    Raises ComparisonUnsupported, NoResponse, KeyUnavailable, LogCorrupt.
    """
    limits = limits or ReconcileLimits()
    with closing(sqlite3.connect("", isolation_level=None)) as db:
        db.executescript(f"PRAGMA cache_size = -{CACHE_KIB};{_SCHEMA}")
        db.execute("BEGIN")
        with EventLog(home) as log:
            end_seq = log.last_seq
            listing = _Listing(client, db, limits)
            await listing.read_to_end()
            for rows in _ours(log):
                db.executemany("INSERT INTO ours VALUES (?,?,?,?,?,?,?,?,?)", rows)
            await listing.read_to_end()
        for table in ("ours", "theirs"):
            _index(db, table)
        return _build_report(db, home, end_seq, listing.count, limits.listed_max)


class _Listing:
    """Reads Alpine's list page by page, and goes on where it stopped.

    Invariant: `_after` grows with each page but the last, and `_pages` is at most `pages_max`.
    """

    def __init__(
        self, client: AlpineClient, db: sqlite3.Connection, limits: ReconcileLimits
    ) -> None:
        self._client = client
        self._limits = limits
        self._db = db
        self._after = 0
        self._pages = 0
        self._page_signals = PAGE_SIGNALS_MAX
        self._page_s = 1 / limits.pages_per_s  # from page to page, at least
        self._requested_s = -math.inf
        self.count = 0

    async def read_to_end(self) -> None:
        """Reads to the present end of the list. Raises NoResponse if it has none."""
        coming = asyncio.ensure_future(self._next_rows())
        try:
            while True:
                rows, following = await coming
                if following is not None:
                    coming = asyncio.ensure_future(self._next_rows())
                    await asyncio.wait({coming}, timeout=SENDING_S)
                self.count += len(rows)
                self._db.executemany(
                    "INSERT INTO theirs VALUES (?,?,?,?,?,?,?,?)", map(_their_row, rows)
                )
                if following is None:
                    return
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _next_rows(self) -> tuple[list[dict[str, object]], int | None]:
        """The rows of the next page, and where the one after it starts, if there is one."""
        if self._pages == self._limits.pages_max:
            raise self._unusable(f"it has more than {self._pages:,} pages")
        self._pages += 1
        await asyncio.sleep(max(0.0, self._requested_s + self._page_s - time.monotonic()))
        self._requested_s = time.monotonic()
        response = await self._page()
        if response.status in UNSUPPORTED_STATUSES:
            raise _unsupported(f"it answers {response.status} to the request for its list")
        rows, following = parse_page(response, self._client.url)
        if rows and not any("verification_hash" in row for row in rows):
            raise _unsupported("its list has no verification_hash")
        if following is not None and not rows:
            raise self._unusable("a page without signals names a next page")
        ids = [id_ for row in rows if isinstance(id_ := row.get("id"), int)]
        self._advance(ids, following)
        return rows, following

    def _advance(self, ids: list[int], following: int | None) -> None:
        """Moves on behind a page with these ids. Raises NoResponse unless they grow."""
        for id_ in ids:
            if id_ <= self._after:
                raise self._unusable(f"id {id_} follows {self._after}")
            self._after = id_
        if following is not None:
            if following < self._after or (not ids and following == self._after):
                raise self._unusable(f"`next` is {following} after {self._after}")
            self._after = following

    def _unusable(self, why: str) -> NoResponse:
        return NoResponse(
            f"Alpine's list cannot be read to an end: {why}",
            where=self._client.url + LIST_PATH,
            do="nothing was sent: check ALPINE_API_URL, and report this to Alpine's operators",
        )

    async def _page(self) -> Response:
        pause_s = self._limits.retry_s
        for number in range(1, PAGE_TRIES_MAX + 1):
            is_last = number == PAGE_TRIES_MAX
            try:
                response = await self._page_that_fits()
                if response.status not in RETRYABLE_STATUSES or is_last:
                    return response
                if response.status in OVERLOADED_STATUSES:
                    self._page_s = min(2 * self._page_s, PAGE_S_MAX)
                else:  # perhaps a time limit, of its query or of a proxy
                    self._page_signals = PAGE_SIGNALS
                retry_after_s = retry_after_seconds(response.retry_after, now_s=time.time())
            except NoResponse:
                if is_last:
                    raise
                self._page_signals = PAGE_SIGNALS  # perhaps too many for our own time limit
                retry_after_s = 0.0
            await asyncio.sleep(max(pause_s, retry_after_s))
            pause_s *= 2
        raise AssertionError("the last try returns or raises")

    async def _page_that_fits(self) -> Response:
        """A page of PAGE_SIGNALS_MAX signals, or of PAGE_SIGNALS where those are too many."""
        if self._page_signals > PAGE_SIGNALS:
            with suppress(ResponseTooLarge):
                response = await self._client.page(self._after, self._page_signals)
                if response.status not in PAGE_REFUSED_STATUSES:
                    return response
            self._page_signals = PAGE_SIGNALS
        return await self._client.page(self._after, self._page_signals)


def _unsupported(why: str) -> ComparisonUnsupported:
    return ComparisonUnsupported(
        f"this Alpine cannot be compared with the log: {why}",
        do="check ALPINE_API_URL; if it is right, `eventlog reconcile --replay` sends all signals"
        " again, and Alpine answers duplicate to those that it has",
    )


def all_signal_seqs(home: Path) -> list[int]:
    """The seqs of all signals in the log."""
    with EventLog(home) as log:
        return [entry.seq for entry in log.read() if entry.event == "signal"]


def _ours(log: EventLog) -> Iterator[list[tuple[object, ...]]]:
    rows: list[tuple[object, ...]] = []
    for entry in log.read():
        if entry.event != "signal":
            continue
        get = entry.payload.get
        confidence = get("confidence")
        fraction = confidence / 100 if isinstance(confidence, int | float) else None
        values = get("signal_id"), get("symbol"), get("action")
        prices = get("entry_price"), get("target_price"), get("stop_price")
        rows.append((get("sha256"), entry.seq, *values, *prices, fraction))
        if len(rows) == INSERT_ROWS:
            yield rows
            rows = []
    yield rows


def _index(db: sqlite3.Connection, table: str) -> None:
    """Makes the index on `hash`, and removes all rows of a hash but the first."""
    unique = f"CREATE UNIQUE INDEX {table}_hash ON {table}(hash)"
    try:
        db.execute(unique)
    except sqlite3.IntegrityError:
        first = f"SELECT min(rowid) FROM {table} GROUP BY hash"
        db.execute(f"DELETE FROM {table} WHERE rowid NOT IN ({first})")
        db.execute(unique)


def _their_row(row: dict[str, object]) -> tuple[object, ...]:
    get = row.get
    name, symbol, action = get("verification_hash"), get("symbol"), get("action")
    price, target = get("price"), get("target_price")
    stop, confidence = get("stop_loss"), get("confidence")
    return (
        # A signal without a hash came from another source; its id identifies it.
        name if name and type(name) is str else f"id {get('id')}",
        get("id"),
        symbol if type(symbol) is str else None,
        action if type(action) is str else None,
        # JSON knows no infinity, so a float is finite; a call for each would take most of the time.
        price if type(price) is float else _number(price),
        target if type(target) is float else _number(target),
        stop if type(stop) is float else _number(stop),
        confidence if type(confidence) is float else _number(confidence),
    )


def _number(value: object) -> float | None:
    """A finite number, also if it is written as text, as some services write decimals."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _build_report(
    db: sqlite3.Connection, home: Path, end_seq: int, count: int, listed_max: int
) -> ReconcileReport:
    pairs = ", ".join(f"ours.{name}, theirs.{name}" for name in _FIELDS)
    found = db.execute(
        f"SELECT theirs.hash IS NULL, seq, signal_id, ours.hash, {pairs}"
        f" FROM ours LEFT JOIN theirs USING (hash) WHERE theirs.hash IS NULL OR {_DIFFERENT}"
        " ORDER BY seq"
    )
    absent: list[tuple[int, str, str]] = []
    different: list[Different] = []
    different_count = 0
    for is_absent, *row in found:
        if is_absent:
            absent.append((row[0], row[1], row[2]))
        else:
            different_count += 1
            if len(different) < listed_max:
                different.append(_difference(row))
    # What came later may be on its way; a line of another program without a hash is never sent.
    missing = [row for row in absent if row[0] <= end_seq and row[2] is not None]
    in_log = _count(db, "FROM ours")
    extra_count = _count(db, "FROM theirs") - (in_log - len(absent))
    extra = db.execute(
        "SELECT id, hash, symbol, action, price FROM theirs"
        " WHERE NOT EXISTS (SELECT 1 FROM ours WHERE ours.hash = theirs.hash)"
        " ORDER BY id LIMIT ?",
        (min(listed_max, extra_count),),
    )
    why = _MissingReason(home)
    return ReconcileReport(
        in_log=in_log,
        at_alpine=count,
        missing_count=len(missing),
        different_count=different_count,
        extra_count=extra_count,
        missing=tuple(
            Missing(seq=seq, signal_id=signal_id, sha256=sha256, why=why.of(seq))
            for seq, signal_id, sha256 in missing[:listed_max]
        ),
        different=tuple(different),
        extra=tuple(
            dict(zip(("id", "verification_hash", "symbol", "action", "price"), row, strict=True))
            for row in extra
        ),
        missing_seqs=tuple(seq for seq, _, _ in missing),
    )


def _difference(row: list[object]) -> Different:
    seq, signal_id, sha256, *values = row
    pairs = zip(_FIELDS, values[::2], values[1::2], strict=True)
    assert isinstance(seq, int), "a column of integers"
    return Different(
        seq=seq,
        signal_id=str(signal_id),
        sha256=str(sha256),
        fields={name: (mine, theirs) for name, mine, theirs in pairs if mine != theirs},
    )


def _count(db: sqlite3.Connection, of: str) -> int:
    (count,) = db.execute(f"SELECT count(*) {of}").fetchone()
    return int(count)


class _MissingReason:
    """Finds out from the outbox why Alpine does not have a signal."""

    def __init__(self, home: Path) -> None:
        self._path = outbox_path(home)
        self._is_known = read_outbox(self._path) is not None

    def of(self, seq: int) -> str:
        if not self._is_known:
            return "undelivered"
        try:
            is_done, parked = read_seq(self._path, seq)
        except (OSError, sqlite3.Error, UnsafePath):
            return "unknown"
        if parked is not None:
            return parked.kind
        return "lost" if is_done else "undelivered"
