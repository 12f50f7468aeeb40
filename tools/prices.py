"""Daily prices, day by day: from files, or from a simulated market.

A price file is what the yfinance tool writes for one symbol: three heading lines, of which the
first names the columns and the second the symbol, then one row a day, oldest first:

    Price,Close,High,Low,Open,Volume
    Ticker,AAPL,AAPL,AAPL,AAPL,AAPL
    Date,,,,,
    2005-11-17,1.9350224733352661,1.9758100269792869,1.926924705815381,1.967112625040125,676205600

Prices must be adjusted for splits, as yfinance does by default: an unadjusted split would look like
a crash. Irregular rows are handled as follows:
- a row without any price is a day on which the symbol did not trade: left out, with a warning;
- a day whose high and low miss its open or close by rounding: they are widened to them;
- a volume of zero stays: currencies and indices have no other;
- everything else that is impossible (text, NaN, a price of zero, days out of order, a high below
  the low) is refused with file and line, because signals would be based on a guess.

Invariant: days ascend, every bar has 0 < low <= open, close <= high, and the same files or the same
seed give the same bars to the last digit on every machine.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from math import fsum, isfinite, sqrt
from pathlib import Path
from random import Random

logger = logging.getLogger(__name__)

# Adjusted prices are products of doubles: beyond eight digits they hold noise, which has put a
# close one bit above its day's high. Eight digits are a cent in a million.
PRICE_DIGITS = 8
# How far a high or low may miss its open or close and still count as rounding.
ROUNDING_MAX = 1e-6

HEADING_LINES = 3
PRICE_COLUMNS = ("Open", "High", "Low", "Close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One symbol's prices of one day; `volume` is in shares or coins."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: float


Day = tuple[date, Mapping[str, Bar]]  # the bars of all symbols that traded on that day


class PriceFileError(ValueError):
    """A price file that cannot be used: what is wrong, where, and what to do."""

    def __init__(self, what: str, *, where: str, do: str) -> None:
        super().__init__(f"{what} ({where}); {do}")


def rounded(price: float) -> float:
    """`price` to the digits that mean something."""
    return float(f"{price:.{PRICE_DIGITS}g}")


def is_crypto(symbol: str) -> bool:
    """Whether it trades day and night: yfinance calls such symbols BTC-USD."""
    return symbol.endswith("-USD")


def opens_at(symbol: str, day: date) -> str:
    """New York opens at 14:30 UTC in winter; a day of crypto begins at midnight UTC."""
    return _utc(day, timedelta() if is_crypto(symbol) else timedelta(hours=14, minutes=30))


def closes_at(symbol: str, day: date) -> str:
    """New York closes at 21:00 UTC in winter; in summer this is an hour late, and never early."""
    return _utc(day, timedelta(hours=24 if is_crypto(symbol) else 21))


def _utc(day: date, clock: timedelta) -> str:
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) + clock
    return at.isoformat(timespec="microseconds")


# Files


def read_days(directory: Path, symbols: Sequence[str] = ()) -> Iterator[Day]:
    """The days of all price files `*.csv` in `directory`, or of the named `symbols`, oldest first.

    All files are read before the first day is given: a bad one stops a run before it starts.
    """
    paths = sorted(directory.glob("*.csv"))
    if not paths:
        raise PriceFileError(
            "no price files", where=str(directory), do="name a directory that holds *.csv files"
        )
    series: dict[str, tuple[Bar, ...]] = {}
    for path in paths:
        symbol, bars = read_file(path)
        if symbol in series:
            raise PriceFileError(
                f"a second file for {symbol}", where=str(path), do="keep one file a symbol"
            )
        series[symbol] = bars
    if missing := sorted(set(symbols) - set(series)):
        raise PriceFileError(
            f"no prices of {', '.join(missing)}",
            where=str(directory),
            do=f"choose from {', '.join(sorted(series))}",
        )
    return merge({name: series[name] for name in symbols or series})


def merge(series: Mapping[str, Sequence[Bar]]) -> Iterator[Day]:
    """Bars by symbol -> bars by day. Crypto trades on days on which shares do not."""
    days: dict[date, dict[str, Bar]] = {}
    for symbol in sorted(series):
        for bar in series[symbol]:
            days.setdefault(bar.day, {})[symbol] = bar
    yield from sorted(days.items())


def read_file(path: Path) -> tuple[str, tuple[Bar, ...]]:
    """The symbol of one price file and its bars, oldest first."""
    bars: list[Bar] = []
    rows_empty = 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            columns, symbol = _heading(path, list(islice(rows, HEADING_LINES)))
            for row in rows:
                where = f"{path} line {rows.line_num}"
                bar = _bar(row, columns, where)
                if bar is None:
                    rows_empty += 1
                elif bars and bar.day <= bars[-1].day:
                    raise _refused(f"{bar.day} does not follow {bars[-1].day}", where)
                else:
                    bars.append(bar)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PriceFileError(
            f"cannot be read: {error}", where=str(path), do="check the file, or download it again"
        ) from error
    if rows_empty:
        logger.warning("rows_without_price symbol=%s rows=%d file=%s", symbol, rows_empty, path)
    return symbol, tuple(bars)


def _heading(path: Path, rows: list[list[str]]) -> tuple[dict[str, int], str]:
    """The place of each column, by name, and the symbol."""
    if len(rows) == HEADING_LINES and rows[0][:1] == ["Price"] and rows[1][:1] == ["Ticker"]:
        columns = {name: index for index, name in enumerate(rows[0])}
        tickers = set(rows[1][1:])
        wanted = {*PRICE_COLUMNS, "Volume"}
        if wanted <= columns.keys() and len(tickers) == 1 and len(columns) == len(rows[0]):
            return columns, tickers.pop().strip().upper()
    raise PriceFileError(
        "not a price file of one symbol",
        where=str(path),
        do="it begins with the lines Price,Close,High,Low,Open,Volume and Ticker,... and Date,...",
    )


def _bar(row: list[str], columns: Mapping[str, int], where: str) -> Bar | None:
    """One row as a bar; None when it holds no price at all."""
    if len(row) != len(columns):
        raise _refused(f"{len(row)} columns instead of {len(columns)}", where)
    texts = [row[columns[name]] for name in PRICE_COLUMNS]
    if not any(texts):
        return None
    try:
        day = date.fromisoformat(row[0])
        opened, high, low, close = (rounded(float(text)) for text in texts)
        volume = float(row[columns["Volume"]])
    except ValueError as error:
        raise _refused(str(error), where) from error
    if not all(map(isfinite, (opened, high, low, close, volume))) or volume < 0:
        raise _refused("a value is not finite, or the volume is negative", where)
    top, bottom = max(opened, high, close), min(opened, low, close)
    if (
        not (0 < low <= high)
        or top > high * (1 + ROUNDING_MAX)
        or bottom < low * (1 - ROUNDING_MAX)
    ):
        raise _refused("open and close are not within low and high above zero", where)
    return Bar(day=day, open=opened, high=top, low=bottom, close=close, volume=volume)


def _refused(what: str, where: str) -> PriceFileError:
    return PriceFileError(
        what, where=where, do="correct or remove the row, or download the file again"
    )


# The simulated market
#
# The market as a whole is in one of three regimes and stays for a number of days that is geometric
# with the given mean, then moves to one of the others. Each day has an overnight step and six steps
# of trading. In each step the market moves by the regime's drift and volatility, and a symbol by
#
#     price *= 1 + beta * market + own_volatility * sqrt(variance * share of the day) * shock
#
# (geometric Brownian motion in steps). `beta` (0.5 to 1.5) and `own_volatility` (0.8 to 2.5 % a
# day) are drawn once a symbol. `variance` wanders around 1 as in Heston's model, once a day:
#
#     variance += 0.06 * (1 - variance) + 0.25 * sqrt(variance) * shock
#
# so quiet and wild weeks come in clusters. A shock is the sum of twelve uniform numbers less six
# (mean 0, variance 1, after Irwin and Hall): Python promises to keep the sequence of random() for a
# seed, but not that of gauss(); and sums and square roots are the same on every machine, but exp()
# and log() are not. Sums are fsum(), because the plain sum() adds differently since Python 3.12.

SIMULATED_SYMBOLS = ("ALFA", "BRAVO", "DELTA", "ECHO", "GOLF", "KILO", "OSCAR", "ZULU")
SIMULATED_FROM = date(2006, 1, 2)
SIMULATED_DAYS = (
    5_040  # twenty years of 252 days; a bound, so that nothing runs for ever by default
)

STEPS_A_DAY = 6
OVERNIGHT_SHARE = 0.3  # of a day's variance; the steps of trading share the rest
SHARES = (OVERNIGHT_SHARE,) + ((1 - OVERNIGHT_SHARE) / STEPS_A_DAY,) * STEPS_A_DAY

VARIANCE_PULL, VARIANCE_NOISE = 0.06, 0.25
VARIANCE_MIN, VARIANCE_MAX = 0.1, 6.0  # keeps a step far from -100 %
PRICE_MIN = 0.01  # a cent; nothing is delisted
SATURDAY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """Drift and volatility of the whole market, a day, and how many days it lasts on average."""

    drift: float
    volatility: float
    days_mean: int


REGIMES = (
    Regime(drift=0.0009, volatility=0.008, days_mean=120),  # rising, calm
    Regime(drift=0.0000, volatility=0.011, days_mean=60),  # sideways
    Regime(drift=-0.0014, volatility=0.021, days_mean=40),  # falling, wild
)


def simulate(seed: int, symbols: Sequence[str] = (), *, days: int | None = None) -> Iterator[Day]:
    """`days` weekdays (default SIMULATED_DAYS) from SIMULATED_FROM on, each made when asked for.

    `symbols` may be any names; default SIMULATED_SYMBOLS. Each has a random stream of its own: its
    prices do not depend on the others, and a longer run begins with the days of a shorter one.
    """
    symbols, days = symbols or SIMULATED_SYMBOLS, days or SIMULATED_DAYS
    market = Random(f"{seed}/market")
    stocks = {symbol: _Stock(Random(f"{seed}/{symbol}")) for symbol in sorted(symbols)}
    regime = REGIMES[0]
    day = SIMULATED_FROM
    for _ in range(days):
        if market.random() * regime.days_mean < 1:
            others = [other for other in REGIMES if other is not regime]
            regime = others[int(market.random() * len(others))]
        moves = [
            regime.drift * share + regime.volatility * sqrt(share) * _shock(market)
            for share in SHARES
        ]
        yield day, {symbol: stock.bar(day, moves) for symbol, stock in stocks.items()}
        day += timedelta(days=1)
        while day.weekday() >= SATURDAY:
            day += timedelta(days=1)


class _Stock:
    """One simulated symbol: its stream, its character, and where it stands."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._beta = 0.5 + random.random()
        self._volatility = 0.008 + 0.017 * random.random()
        self._price = rounded(20 + 180 * random.random())
        self._turnover = 1e6 * (1 + 49 * random.random())
        self._variance = 1.0

    def bar(self, day: date, moves: Sequence[float]) -> Bar:
        """The bar of the next day, in which the market makes `moves`."""
        noise = VARIANCE_NOISE * sqrt(self._variance) * _shock(self._random)
        variance = self._variance + VARIANCE_PULL * (1 - self._variance) + noise
        self._variance = min(max(variance, VARIANCE_MIN), VARIANCE_MAX)
        path: list[float] = []  # the open, then the price after each step of trading
        for share, move in zip(SHARES, moves, strict=True):
            own = self._volatility * sqrt(self._variance * share) * _shock(self._random)
            # Rounded at every step, so that a difference in the last bit could not grow.
            self._price = max(rounded(self._price * (1 + self._beta * move + own)), PRICE_MIN)
            path.append(self._price)
        high, low = max(path), min(path)
        volume = float(int(self._turnover * self._variance * (0.5 + self._random.random())))
        return Bar(day=day, open=path[0], high=high, low=low, close=path[-1], volume=volume)


def _shock(random: Random) -> float:
    return fsum(random.random() for _ in range(12)) - 6
