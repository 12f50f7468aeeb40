"""A model of the SQLite tables, as simple as possible: one loop, no batches.

It shares no code with the packages, so that a comparison misses only a mistake made twice.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

LEGAL = {
    ("signal", "executed"),
    ("signal", "skipped"),
    ("signal", "expired"),
    ("signal", "cancelled"),
    ("signal", "closed"),
    ("executed", "closed"),
}
FACTS = {after for _, after in LEGAL}
TEXTS_THAT_MAY_BE_EMPTY = ("asset_type", "data_source")


@dataclass
class Tables:
    """The rows of each table as SELECT * ORDER BY its number gives them; extras by signal_id."""

    signals: list[list[Any]] = field(default_factory=list)
    extras: dict[str, str] = field(default_factory=dict)
    lifecycle: list[tuple[Any, ...]] = field(default_factory=list)
    conflicts: list[tuple[Any, ...]] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 over the lines of `signals`, as `eventlog digest` prints it."""
        text = ""
        for row in self.signals:
            zeros = [0.0 if value == 0 and isinstance(value, float) else value for value in row]
            text += json.dumps(zeros, separators=(",", ":")) + "\n"
        return hashlib.sha256(text.encode()).hexdigest()


class Refused(Exception):
    """The entry does not fit; its text is the reason."""


def fold(entries: Iterable[Any], *, into: Tables | None = None, after: int = 0) -> Tables:
    """The tables after these entries (seq, batch, recorded_at, event, payload, chain).

    `into` holds the tables up to seq `after`, from which they continue.
    """
    tables = Tables() if into is None else into
    last_seq = after
    for seq, _batch, recorded_at, event, payload, _chain in entries:
        if seq > last_seq + 1:
            reason = f"entries {last_seq + 1} to {seq - 1} are damaged in the log"
            tables.conflicts.append((last_seq + 1, None, reason))
        last_seq = seq
        try:
            if event == "signal":
                add_signal(tables, seq, recorded_at, payload)
            elif event in FACTS:
                add_fact(tables, seq, recorded_at, event, payload)
        except Refused as refusal:
            tables.conflicts.append((seq, id_or_none(payload), str(refusal)))
    return tables


def add_signal(tables: Tables, seq: int, recorded_at: str, payload: dict[str, Any]) -> None:
    signal_id = need_id(payload)
    symbol = need_text(payload, "symbol")
    need(payload, "action", payload.get("action") in ("BUY", "SELL"), "is not BUY or SELL")
    prices = [need_price(payload, f"{which}_price") for which in ("entry", "target", "stop")]
    confidence = need_number(
        payload,
        "confidence",
        lambda x: x == 0 or 1 < x <= 100,
        "is not a percent: 0, or above 1 up to 100",
    )
    strategy = need_text(payload, "strategy")
    for key in TEXTS_THAT_MAY_BE_EMPTY:
        need(payload, key, isinstance(payload.get(key), str), "is not text")
    need(payload, "timestamp", is_time(payload.get("timestamp")), "is not a time in stored form")
    sha256 = need_text(payload, "sha256")
    columns = "signal_id symbol action entry_price target_price stop_price confidence strategy"
    known = {*columns.split(), *TEXTS_THAT_MAY_BE_EMPTY, "timestamp", "sha256"}
    extra = other_keys(payload, known)

    first = [row for row in tables.signals if row[1] == signal_id]
    if first:
        same = first[0][15] == sha256
        raise Refused(f"duplicate signal_id with {'the same' if same else 'other'} content")
    second = datetime.fromisoformat(recorded_at).strftime("%Y-%m-%d %H:%M:%S")
    row = [seq, signal_id, symbol, payload["action"], *prices, confidence, strategy]
    row += [payload["asset_type"], payload["data_source"], payload["timestamp"]]
    row += [None, None, None, sha256, None, second]
    tables.signals.append(row)
    if extra is not None:
        tables.extras[signal_id] = extra
    tables.lifecycle.append((seq, signal_id, "signal", recorded_at, None))


def add_fact(
    tables: Tables, seq: int, recorded_at: str, event: str, payload: dict[str, Any]
) -> None:
    signal_id = need_id(payload)
    end: dict[str, Any] = {}
    if event == "executed":
        need(payload, "order_id", isinstance(payload.get("order_id"), str), "is not text")
    elif event == "skipped":
        need(payload, "reason", isinstance(payload.get("reason"), str), "is not text")
    elif event == "closed":
        end = need_end(payload)
    detail = other_keys(payload, {"signal_id"})

    found = [row for row in tables.signals if row[1] == signal_id]
    if not found:
        raise Refused("unknown signal")
    before = [fact[2] for fact in tables.lifecycle if fact[1] == signal_id][-1]
    if (before, event) not in LEGAL:
        raise Refused(f"illegal move {before} -> {event}")
    if event == "executed":
        found[0][16] = payload["order_id"]
    elif event == "closed":
        end_trade(found[0], **end)
    tables.lifecycle.append((seq, signal_id, event, recorded_at, detail))


def need_end(payload: dict[str, Any]) -> dict[str, Any]:
    exit_price = need_price(payload, "exit_price")
    outcome = payload.get("outcome")
    if outcome is not None and outcome not in ["win", "loss", "expired"]:
        raise Refused("outcome is not win, loss or expired")
    pct = None
    if payload.get("profit_loss_pct") is not None:
        pct = need_number(payload, "profit_loss_pct", lambda x: True, "is not a finite number")
    return {"exit_price": exit_price, "outcome": outcome, "pct": pct}


def end_trade(row: list[Any], exit_price: float, outcome: str | None, pct: float | None) -> None:
    action, entry, target, stop = row[3:7]
    if outcome is None:
        outcome = outcome_from_price(action, target, stop, exit_price)
    if pct is None:
        pct = (exit_price - entry) / entry * 100 * (-1 if action == "SELL" else 1)
    if not math.isfinite(pct):
        raise Refused("profit_loss_pct is not finite")
    row[12:15] = [outcome, exit_price, pct + 0.0]


def outcome_from_price(action: str, target: float, stop: float, exit_price: float) -> str:
    if action == "BUY":
        if exit_price >= target:
            return "win"
        return "loss" if exit_price <= stop else "expired"
    if exit_price <= target:
        return "win"
    return "loss" if exit_price >= stop else "expired"


def need(payload: dict[str, Any], key: str, fits: bool, problem: str) -> None:
    if payload.get(key) is None:
        raise Refused(f"{key} is missing")
    if not fits:
        raise Refused(f"{key} {problem}")


def need_id(payload: dict[str, Any]) -> str:
    valid = id_or_none(payload)
    need(payload, "signal_id", valid is not None, "is not 1 to 128 printable characters")
    return str(valid)


def id_or_none(payload: dict[str, Any]) -> str | None:
    given = payload.get("signal_id")
    if isinstance(given, str) and given.isprintable() and 1 <= len(given) <= 128:
        return given
    return None


def need_text(payload: dict[str, Any], key: str) -> str:
    given = payload.get(key)
    need(
        payload,
        key,
        isinstance(given, str) and given != "",
        "is not text of at least one character",
    )
    return str(given)


def need_number(payload: dict[str, Any], key: str, check: Any, problem: str) -> float:
    given: Any = payload.get(key)
    is_number = type(given) in (int, float) and math.isfinite(given)
    need(payload, key, is_number and check(given), problem)
    return 0.0 if given == 0 else float(given)


def need_price(payload: dict[str, Any], key: str) -> float:
    return need_number(payload, key, lambda x: x > 0, "is not a finite number above 0")


def is_time(given: object) -> bool:
    if not isinstance(given, str):
        return False
    try:
        datetime.strptime(given, "%Y-%m-%dT%H:%M:%S.%f%z")
    except ValueError:
        return False
    return re.sub(r"[0-9]", "0", given) == "0000-00-00T00:00:00.000000+00:00"


def other_keys(payload: dict[str, Any], known: set[str]) -> str | None:
    others = {key: value for key, value in payload.items() if key not in known}
    if depth(others) > 32:
        raise Refused("the payload is nested deeper than 32")
    return json.dumps(others, ensure_ascii=False, separators=(",", ":")) if others else None


def depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0
