"""`stats` against pandas: 1,000 random lives with shorts, parts, corrections and early facts."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]  # its types are a package of their own
import pytest

from projections import ProjectionError, SignalStore
from projections.queries.stats import GROUPS
from tests.harness.command import eventlog
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed
from tests.harness.tables import raw_entries

SIGNALS = 1_000
START = datetime(2025, 8, 1, tzinfo=UTC)
Z = 1.959963984540054
Fact = dict[str, Any]


def random_signal(chance: random.Random, number: int) -> Fact:
    at = START + timedelta(microseconds=chance.randrange(110 * 86_400 * 10**6))
    return a_signal(
        number,
        symbol=chance.choice(["AAPL", "MSFT", "NA", "BTC-USD", "ES=F"]),
        strategy=chance.choice(["momentum", "mean reversion", "ü"]),
        action=chance.choice(["BUY", "SELL"]),
        entry_price=round(chance.uniform(1, 300), 2),
        confidence=chance.choice([0.0, 10.0, 70.0, 99.99, 100.0, round(chance.uniform(2, 99), 1)]),
        timestamp=at.isoformat(),
    )


def random_close(chance: random.Random, signal: Fact) -> Fact:
    fact: Fact = {"event": "closed", "signal_id": signal["signal_id"]}
    fact["exit_price"] = round(signal["entry_price"] * chance.uniform(0.5, 1.6), 2)
    if chance.random() < 0.1:
        fact["exit_price"] = signal["entry_price"]
    if chance.random() < 0.15:
        fact["profit_loss_pct"] = round(chance.gauss(0, 9), 3)
    if chance.random() < 0.15:
        fact["outcome"] = chance.choice(["win", "loss", "breakeven", "expired"])
    if chance.random() < 0.7:
        held = timedelta(seconds=chance.uniform(1, 10**6))
        fact["closed_at"] = (datetime.fromisoformat(signal["timestamp"]) + held).isoformat()
    return fact


def random_facts(chance: random.Random, signal: Fact) -> Iterator[Fact]:
    """Facts about a signal that all apply; a `voided` has the fact itself under `voids`."""
    about = {"signal_id": signal["signal_id"]}
    if chance.random() < 0.7:
        executed = {"event": "executed", **about, "order_id": f"o-{chance.random()}"}
        yield executed
        if chance.random() < 0.1:
            yield {"event": "voided", **about, "voids": executed}
    for part in range(1, chance.choice([1, 1, 1, 2, 4])):
        price = round(signal["entry_price"] * chance.uniform(0.8, 1.3), 2)
        reduced = {"event": "reduced", **about, "part": part, "exit_price": price, "fraction": 0.3}
        yield reduced
        if chance.random() < 0.2:
            yield {"event": "voided", **about, "voids": reduced}
            yield {**reduced, "exit_price": price + 1}
    while chance.random() < 0.7:
        close = random_close(chance, signal)
        yield close
        if chance.random() < 0.8:
            return
        yield {"event": "voided", **about, "voids": close}


def random_log(chance: random.Random) -> tuple[list[Fact], list[list[Fact]]]:
    """The items of a log in order, and the same for each signal, its signal first."""
    lives = []
    for number in range(SIGNALS):
        signal = random_signal(chance, number)
        lives.append([signal, *random_facts(chance, signal)])
    queues = [list(life) for life in lives]
    for queue in queues:
        if chance.random() < 0.2:  # facts before their signal
            queue.insert(chance.randrange(len(queue)), queue.pop(0))
    order = [index for index, queue in enumerate(queues) for _ in queue]
    chance.shuffle(order)
    items = [queues[index].pop(0) for index in order]
    seqs = {id(item): seq for seq, item in enumerate(items, 1)}
    for item in items:
        if item.get("event") == "voided":
            item["voids"] = seqs[id(item["voids"])]
    return items, lives


def in_force(life: list[Fact]) -> list[Fact]:
    facts: list[Fact] = []
    for fact in life[1:]:
        if fact["event"] == "voided":
            facts.pop()
        else:
            facts.append(fact)
    return facts


def end_of(life: list[Fact]) -> dict[str, Any]:
    """Outcome, return and the `closed` of a signal, by decimal arithmetic."""
    signal, facts = life[0], in_force(life)
    if not facts or facts[-1]["event"] != "closed":
        return {"outcome": None, "pct": None, "close": None}
    close, entry = facts[-1], Decimal(str(signal["entry_price"]))
    exit_price, rest = Decimal(0), Decimal(1)
    for fact in facts:
        if fact["event"] == "reduced":
            rest -= Decimal(str(fact["fraction"]))
            exit_price += Decimal(str(fact["fraction"])) * Decimal(str(fact["exit_price"]))
    exit_price += rest * Decimal(str(close["exit_price"]))
    sign = -1 if signal["action"] == "SELL" else 1
    pct = close.get("profit_loss_pct", float(sign * (exit_price - entry) / entry * 100))
    computed = "win" if pct > 0 else "loss" if pct < 0 else "breakeven"
    return {"outcome": close.get("outcome", computed), "pct": pct, "close": close}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A home with 1,000 random lives, and what a quant knows about each signal."""
    home = tmp_path_factory.mktemp("stats") / "home"
    items, lives = random_log(random.Random(20251118))
    append(home, *items)
    project(home)
    recorded = {
        id(item): raw.recorded_at for item, raw in zip(items, raw_entries(home), strict=True)
    }
    rows = []
    for life in lives:
        end = end_of(life)
        close = end.pop("close")
        closed_at = None if close is None else close.get("closed_at", recorded[id(close)])
        rows.append({**life[0], **end, "closed_at": closed_at})
    frame = pd.DataFrame(rows)
    for column in ("timestamp", "closed_at"):
        frame[column] = pd.to_datetime(frame[column], utc=True, format="ISO8601")
    return home, frame


def known_or_none(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def is_rounded(key: str) -> bool:
    """Whether a figure has two digits, as that of the old tracker."""
    return key in ("win_rate", "average_return")


def expected(frame: pd.DataFrame) -> dict[str, Any]:
    """The figures by pandas."""
    ended = frame[frame.outcome.notna()]
    decided = frame[frame.outcome.isin(["win", "loss"])]
    wins, n = int((decided.outcome == "win").sum()), len(decided)
    p = wins / n if n else float("nan")
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n) if n else p
    margin = Z / (1 + Z**2 / n) * (p * (1 - p) / n + Z**2 / (4 * n * n)) ** 0.5 if n else p
    returns = ended.pct.astype(float)
    losses = -returns[returns < 0].sum()
    band = (decided.confidence // 10).clip(upper=9).astype(int) * 10
    return {
        "total_signals": len(frame),
        "open": int(frame.outcome.isna().sum()),
        "wins": wins,
        "losses": int((frame.outcome == "loss").sum()),
        "breakevens": int((frame.outcome == "breakeven").sum()),
        "expired": int((frame.outcome == "expired").sum()),
        "win_rate": known_or_none(100 * p),
        "win_rate_low": known_or_none(100 * (centre - margin)),
        "win_rate_high": known_or_none(100 * (centre + margin)),
        "average_return": known_or_none(returns.mean()),
        "median_return": known_or_none(returns.median()),
        "profit_factor": known_or_none(returns[returns > 0].sum() / losses) if losses else None,
        "best": known_or_none(returns.max()),
        "worst": known_or_none(returns.min()),
        "mean_holding_s": known_or_none(
            (ended.closed_at - ended.timestamp).dt.total_seconds().mean()
        ),
        "calibration": [
            {
                "from": int(low),
                "to": int(low) + 10,
                "count": len(group),
                "mean_confidence": known_or_none(group.confidence.mean()),
                "win_rate": known_or_none(100 * (group.outcome == "win").mean()),
            }
            for low, group in decided.groupby(band)
        ],
    }


def assert_figures(found: dict[str, Any], frame: pd.DataFrame) -> None:
    """Equal, but for the order in which floats are added."""
    wanted = expected(frame)
    assert list(found) == [*wanted, "last_updated"]
    assert {key: found[key] for key in wanted} == {
        key: pytest.approx(value, rel=1e-9, abs=0.00501 if is_rounded(key) else 1e-9)
        if isinstance(value, float)
        else value
        for key, value in wanted.items()
        if key != "calibration"
    } | {"calibration": found["calibration"]}
    assert all(
        found[key] == round(found[key], 2) for key in found if is_rounded(key) and found[key]
    )
    assert [list(band.items()) for band in found["calibration"]] == [
        [(key, pytest.approx(value, rel=1e-9)) for key, value in band.items()]
        for band in wanted["calibration"]
    ]


def test_the_lives_have_everything_that_the_figures_depend_on(
    known: tuple[Path, pd.DataFrame],
) -> None:
    home, frame = known
    events = {entry.event for entry in raw_entries(home)}
    assert events == {"signal", "executed", "reduced", "closed", "voided"}
    assert set(frame.outcome.dropna()) == {"win", "loss", "breakeven", "expired"}
    assert json.loads(eventlog("conflicts", "--json", home=home).out) == []
    with SignalStore.open(home) as store:
        rows = {row["signal_id"]: row for row in store.latest(limit=SIGNALS)}
    for row in frame.itertuples():
        found = rows[str(row.signal_id)]
        assert found["outcome"] == (None if pd.isna(row.outcome) else row.outcome)
        if not pd.isna(row.pct):
            assert found["profit_loss_pct"] == pytest.approx(row.pct, abs=1e-9)


def test_every_figure_of_stats_equals_pandas(known: tuple[Path, pd.DataFrame]) -> None:
    home, frame = known
    with SignalStore.open(home) as store:
        assert_figures(store.stats(), frame)
    assert_figures(json.loads(eventlog("stats", "--json", home=home).out), frame)


@pytest.mark.parametrize("by", GROUPS)
def test_every_figure_of_each_group_equals_pandas(
    known: tuple[Path, pd.DataFrame], by: str
) -> None:
    home, frame = known
    band = (frame.confidence // 10).clip(upper=9).astype(int)
    keys = {
        "month": frame.timestamp.dt.strftime("%Y-%m"),
        "confidence": band.map(lambda n: f"{10 * n}-{10 * n + 10}"),
    }
    groups = dict(iter(frame.groupby(keys.get(by, frame.get(by)))))
    with SignalStore.open(home) as store:
        found = store.stats(by=by)
    assert all(next(iter(group)) == by for group in found)
    order = sorted(groups, key=lambda key: int(key.split("-")[0]) if by == "confidence" else key)
    assert [group[by] for group in found] == order
    for group in found:
        assert_figures(group, groups[str(group.pop(by))])
    assert sum(int(str(group["total_signals"])) for group in found) == SIGNALS


def test_every_figure_of_a_selection_equals_pandas(known: tuple[Path, pd.DataFrame]) -> None:
    home, frame = known
    since, until = "2025-09-01T02:00:00+02:00", datetime(2025, 10, 1, tzinfo=UTC)
    chosen = frame[
        (frame.symbol == "NA")
        & (frame.action == "SELL")
        & (frame.timestamp >= pd.Timestamp(since))
        & (frame.timestamp < pd.Timestamp(until))
    ]
    assert len(chosen) > 20
    with SignalStore.open(home) as store:
        assert_figures(store.stats("na", action="sell", since=since, until=until), chosen)
        assert_figures(store.stats(outcome="open"), frame[frame.outcome.isna()])
        assert_figures(store.stats(outcome="expired"), frame[frame.outcome == "expired"])
        (one,) = store.stats("na", by="symbol", strategy="ü")
        of_one = frame[(frame.symbol == "NA") & (frame.strategy == "ü")]
        assert one.pop("symbol") == "NA"
        assert_figures(one, of_one)


def test_a_holding_time_ends_at_closed_at_or_else_when_the_close_was_recorded(home: Path) -> None:
    append(home, a_signal(1), closed(1, closed_at="2025-11-18T03:00:00.5Z"))
    append(home, a_signal(2), closed(2, closed_at="2025-11-18T00:00:00+01:00"))
    project(home)
    with SignalStore.open(home) as store:
        assert store.stats()["mean_holding_s"] == (3600.5 - 3 * 3600) / 2
        append(home, a_signal(3, symbol="MSFT"), closed(3))
        project(home)
        at = datetime.fromisoformat(raw_entries(home)[-1].recorded_at)
        held_s = (at - datetime(2025, 11, 18, 2, tzinfo=UTC)).total_seconds()
        assert store.stats("MSFT")["mean_holding_s"] == pytest.approx(held_s, abs=1e-6)


def test_groups_are_shown_as_a_table_with_a_dash_for_no_figure(home: Path) -> None:
    append(home, a_signal(1), a_signal(2, symbol="MSFT"), closed(1))
    project(home)
    lines = eventlog("stats", "--by", "symbol", home=home).out.decode().splitlines()
    heading, aapl, msft = (line.split() for line in lines)
    assert heading[:3] == ["symbol", "total_signals", "open"]
    assert (aapl[0], aapl[heading.index("win_rate")]) == ("AAPL", "100")
    assert (msft[0], msft[heading.index("win_rate")]) == ("MSFT", "-")
    assert (
        len({line.index(cell[1], 6) for line, cell in zip(lines[1:], (aapl, msft), strict=True)})
        == 1
    )
    groups = json.loads(eventlog("stats", "--by", "symbol", "--json", home=home).out)
    assert [group["win_rate"] for group in groups] == [100.0, None]


def test_an_unknown_group_is_refused(home: Path) -> None:
    append(home, a_signal(1))
    project(home)
    done = eventlog("stats", "--by", "colour", home=home)
    assert (done.code, done.out) == (2, b"")
    with SignalStore.open(home) as store, pytest.raises(ProjectionError, match="one of strategy"):
        store.stats(by="colour")
