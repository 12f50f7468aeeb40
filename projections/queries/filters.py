"""Filters of signals: which ones a query selects, and the SQL condition for them. Pure.

`open` as an outcome selects signals without one. `since` is inclusive, `until` exclusive, and both
compare the signal's `timestamp`. `limit` keeps the newest.

Invariant: every command and every function that selects signals does so by a SignalFilter.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TypedDict

from projections.errors import ProjectionError
from projections.queries.times import as_timestamp, parse_moment
from projections.signals.transitions import ACTIONS, OPEN, OUTCOMES

OUTCOME_CHOICES = (*OUTCOMES, OPEN)


class FilterArguments(TypedDict, total=False):
    """The filters that queries take by keyword, beside `symbol`. None: no filter."""

    strategy: str | None
    action: str | None  # BUY or SELL, in any case
    outcome: str | None  # one of OUTCOME_CHOICES, in any case
    since: str | datetime | None  # RFC 3339 text or an aware datetime; inclusive
    until: str | datetime | None  # the same, exclusive


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalFilter:
    """Which signals a query selects, in stored form; None selects all."""

    symbol: str | None = None
    strategy: str | None = None
    action: str | None = None
    outcome: str | None = None
    since: str | None = None  # in the form of `timestamp`
    until: str | None = None
    limit: int | None = None

    def conditions(self, outcome: str) -> Iterator[str]:
        """The SQL conditions; `outcome` is the SQL expression for a signal's outcome.

        The values are those of `parameters`. A plus sign keeps SQLite from using an index whose
        rows it would have to sort.
        """
        if self.symbol is not None:
            yield "s.symbol = :symbol"
        if self.strategy is not None:
            yield "s.strategy = :strategy"
        if self.action is not None:
            yield "s.action = :action"
        if self.outcome is not None:
            yield f"+{outcome} IS NULL" if self.outcome == OPEN else f"+{outcome} = :outcome"
        if self.since is not None:
            yield "s.timestamp >= :since"
        if self.until is not None:
            yield "s.timestamp < :until"

    def parameters(self) -> dict[str, object]:
        """The values of the conditions, by name."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def signal_filter(
    *,
    symbol: str | None = None,
    strategy: str | None = None,
    action: str | None = None,
    outcome: str | None = None,
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    limit: int | None = None,
) -> SignalFilter:
    """The filter that the given values describe. Raises ProjectionError for an invalid one."""
    return SignalFilter(
        symbol=None if symbol is None else _text("symbol", symbol).strip().upper(),
        strategy=None if strategy is None else _text("strategy", strategy),
        action=None
        if action is None
        else _choice("action", _text("action", action).upper(), ACTIONS),
        outcome=(
            None
            if outcome is None
            else _choice("outcome", _text("outcome", outcome).lower(), OUTCOME_CHOICES)
        ),
        since=None if since is None else as_timestamp(parse_moment("since", since)),
        until=None if until is None else as_timestamp(parse_moment("until", until)),
        limit=None if limit is None else whole_limit(limit),
    )


def whole_limit(limit: object) -> int:
    """A limit that a caller gave. Raises ProjectionError unless it is a whole number."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise ProjectionError(f"limit cannot be {limit!r:.80}", do="give a whole number")
    return limit


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ProjectionError(f"{name} cannot be {value!r:.80}", do="give text")
    return value


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ProjectionError(
            f"{name} cannot be {value[:80]!r}", do=f"give one of {', '.join(choices)}"
        )
    return value
