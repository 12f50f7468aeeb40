"""A log of 10,000 signals with early facts, parts, corrections, crossings and retries.

Signals do not depend on each other, so the model folds the entries of each signal alone.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise

import pytest

from eventlog import Entry
from tests.harness import model
from tests.harness.folding import (
    Apply,
    apply_as_projection,
    apply_as_rebuild,
    database,
    tables_of,
)
from tests.harness.histories import Item, entries_of, with_sha256

SIGNALS = 10_000
BATCH_MAX = 700
EARLY_SHARE = 0.15  # of the signals arrive after some of their facts
RETRY_SHARE = 0.1


def a_life(number: int, rng: random.Random) -> list[Item]:
    """The items of one signal, in order; a `voided` names a fact by its place among them."""
    signal_id = f"s-{number}"
    price: Callable[[], float] = lambda: round(rng.uniform(-20.0, 220.0), rng.randrange(5))  # noqa: E731
    signal = with_sha256(
        {
            "signal_id": signal_id,
            "symbol": rng.choice(["AAPL", "MSFT", "TSLA"]),
            "action": rng.choice(["BUY", "SELL"]),
            "entry_price": round(rng.uniform(1.0, 200.0), 2),
            "target_price": 110.0,
            "stop_price": 90.0,
            "confidence": 85.5,
            "strategy": "s",
            "timestamp": "2025-11-18T02:00:00.000000+00:00",
            "asset_type": "stock",
            "data_source": "weighted_consensus",
        }
    )
    facts: list[Item] = []
    for _ in range(rng.choice([0, 1, 2, 2, 3, 6])):
        event = rng.choice(["executed", "closed", "reduced", "reduced", "cancelled", "expired"])
        keys: dict[str, dict[str, object]] = {
            "executed": {"order_id": f"o-{rng.randrange(9)}"},
            "reduced": {
                "part": rng.randrange(1, 4),
                "exit_price": price(),
                "fraction": rng.choice([0.1, 0.25, 1 / 3, 0.5]),
            },
            "closed": {"exit_price": price()},
        }
        facts.append((event, {"signal_id": signal_id, **keys.get(event, {})}))
        if rng.random() < 0.3:
            voids = len(facts) - (rng.random() < 0.1)  # now and then the wrong one
            facts.append(("voided", {"signal_id": signal_id, "voids": voids}))
    life: list[Item] = [("signal", signal), *facts]
    if rng.random() < RETRY_SHARE:
        life.append(("signal", signal))
    if rng.random() < EARLY_SHARE:
        life.insert(rng.randrange(len(life)), life.pop(0))
    return life


def a_log(rng: random.Random) -> list[Entry]:
    """All lives, interleaved; each keeps its order."""
    lives = [a_life(number, rng) for number in range(SIGNALS)]
    order = [number for number, life in enumerate(lives) for _ in life]
    # Near each other, so that facts and signals fall into one batch or into two.
    order = sorted(order, key=lambda number: number + rng.gauss(0.0, 200.0))
    history: list[Item] = []
    seqs: dict[int, list[int]] = defaultdict(list)  # of the facts of each signal
    for number in order:
        event, payload = lives[number].pop(0)
        if event == "voided":
            payload = {**payload, "voids": seqs[number][int(payload["voids"]) - 1]}
        history.append((event, payload))
        if event != "signal":
            seqs[number].append(len(history))
    return entries_of(history)


def expected(entries: list[Entry]) -> model.Tables:
    """The union of the model's tables of each signal."""
    of_signal: dict[object, list[Entry]] = defaultdict(list)
    for entry in entries:
        of_signal[entry.payload["signal_id"]].append(entry)
    whole = model.Tables()
    for own in of_signal.values():
        part = model.fold(own)
        whole.signals += part.signals
        whole.lifecycle += part.lifecycle
        whole.held += part.held
        whole.conflicts += [row for row in part.conflicts if row[1] is not None]  # no gaps
    for rows in (whole.signals, whole.lifecycle, whole.held, whole.conflicts):
        rows.sort()
    return whole


@pytest.mark.slow
def test_a_long_history_in_any_batches_is_the_models_fold_live_and_rebuilt() -> None:
    rng = random.Random(1)
    entries = a_log(rng)
    tables = expected(entries)
    reasons = {str(reason).partition(" ")[0] for *_, reason in tables.conflicts}
    assert {"illegal", "voids", "part", "the", "duplicate"} <= reasons
    assert any(row[0] < row[5] for row in tables.lifecycle), "no fact came before its signal"
    appliers: tuple[Apply, Apply] = (apply_as_projection, apply_as_rebuild)
    for apply in appliers:
        cuts = [0]
        while cuts[-1] < len(entries):
            cuts.append(min(len(entries), cuts[-1] + rng.randrange(1, BATCH_MAX)))
        with closing(database()) as db:
            for start, end in pairwise(cuts):
                apply(db, entries[start:end], start)
            assert tables_of(db) == tables
