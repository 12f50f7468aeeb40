"""Homes and consoles that the tests of this folder share."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from tests.harness.console import WebConsole, console
from tests.harness.read_side import project

HOSTILE = "<img src=x onerror=alert(1)>\u202e\u0007"
SIGNALS = 60


def history() -> Iterator[dict[str, Any]]:
    """Signals with every kind of fact: closed in parts, voided, closed again, before the signal."""
    chance = random.Random(15)
    for number in range(SIGNALS):
        entry_price = round(chance.uniform(10, 200), 2)
        signal: dict[str, Any] = {
            "signal_id": f"s-{number}",
            "symbol": chance.choice(["AAPL", "MSFT", "TSLA"]),
            "action": chance.choice(["BUY", "SELL"]),
            "entry_price": entry_price,
            "target_price": round(entry_price * 1.05, 2),
            "stop_price": round(entry_price * 0.95, 2),
            "confidence": round(chance.uniform(50, 100), 1),
            "strategy": chance.choice(["momentum", "gap", HOSTILE[:-1]]),
            "timestamp": f"2025-{1 + number % 11:02d}-03T0{number % 9}:00:00.123456Z",
            "note": HOSTILE,
        }
        facts = list(facts_of(number, entry_price, chance))
        early = facts[: chance.choice([0, 0, 0, 1, len(facts)])]  # held until the signal arrives
        yield from early
        yield signal
        yield from facts[len(early) :]


def facts_of(number: int, price: float, chance: random.Random) -> Iterator[dict[str, Any]]:
    """The facts of one signal; `voids` of None is filled in with the seq of the one before."""

    def fact(event: str, **more: object) -> dict[str, Any]:
        return {"event": event, "signal_id": f"s-{number}", **more}

    match number % 6:
        case 0:
            yield fact("skipped", reason=HOSTILE)
        case 1:
            yield fact("executed", order_id=f"o-{number}", fill_price=price)
            yield fact("closed", exit_price=round(price * chance.uniform(0.9, 1.1), 2))
        case 2:
            yield fact("reduced", part=1, exit_price=round(price * 1.02, 2), fraction=0.25)
            yield fact(
                "closed", exit_price=round(price * 0.97, 2), closed_at="2025-12-01T00:00:00Z"
            )
        case 3:
            yield fact("closed", exit_price=round(price * 1.5, 2))
            yield fact("voided", voids=None)
            yield fact("closed", exit_price=round(price * chance.uniform(0.9, 1.1), 2))
        case 4:
            yield fact("closed", exit_price=price, outcome="expired")
            if number % 4 == 0:
                yield fact("voided", voids=None)
        case 5:
            yield fact("closed", exit_price=price)
            yield fact("closed", exit_price=round(price * 2, 2), note="a conflict")


def fill(home: Path) -> None:
    """Appends the history, a few entries in each durable write."""
    with EventLog(home) as log:
        receipt = None
        for item in history():
            if item.get("event") == "voided":
                assert receipt is not None
                item["voids"] = receipt.seq
            receipt = log.append(item)
        log.append({"event": "note.taken", "text": HOSTILE})


@pytest.fixture(scope="session")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with every kind of fact, whose table is up to date. Tests do not change it."""
    home = tmp_path_factory.mktemp("console") / "home"
    fill(home)
    project(home)
    return home


@pytest.fixture(scope="session")
def web(full_home: Path) -> Iterator[WebConsole]:
    """A console of that home without a login. Tests do not stop it."""
    with console(full_home, "--no-login") as found:
        yield found
