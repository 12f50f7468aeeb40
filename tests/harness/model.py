"""A model of the SQLite tables, as simple as possible: one loop, no batches.

It shares no code with the packages, so that a comparison misses only a mistake made twice.
"""

import bisect
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

LEGAL = {
    ("open", "executed"),
    ("open", "skipped"),
    ("open", "expired"),
    ("open", "cancelled"),
    ("open", "reduced"),
    ("open", "closed"),
    ("executed", "reduced"),
    ("executed", "closed"),
    ("executed", "cancelled"),
    ("executed", "expired"),
    ("cancelled", "executed"),
    ("expired", "executed"),
    ("reduced", "reduced"),
    ("reduced", "closed"),
}
FACTS = {after for _, after in LEGAL} | {"voided"}
TEXTS_THAT_MAY_BE_EMPTY = ("asset_type", "data_source")


@dataclass
class Tables:
    """The rows of each table as SELECT * ORDER BY its number gives them; extras by signal_id."""

    signals: list[list[Any]] = field(default_factory=list)
    extras: dict[str, str] = field(default_factory=dict)
    lifecycle: list[tuple[Any, ...]] = field(default_factory=list)
    conflicts: list[tuple[Any, ...]] = field(default_factory=list)
    held: list[tuple[Any, ...]] = field(default_factory=list)

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
    for seq, _batch, recorded_at, event, payload, _chain, _line in entries:
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
            add_conflict(tables, seq, payload, refusal)
    return tables


def add_conflict(tables: Tables, seq: int, payload: dict[str, Any], refusal: Refused) -> None:
    bisect.insort(tables.conflicts, (seq, id_or_none(payload), str(refusal)))


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
    bisect.insort(
        tables.lifecycle,
        (seq, signal_id, "signal", recorded_at, None, seq, "open", *[None] * 6),
    )
    # The facts that came before it, one by one, as if they came now.
    for fact in [fact for fact in tables.held if fact[1] == signal_id]:
        early, _, event, recorded_at, other_keys_text = fact
        tables.held.remove(fact)
        tables.conflicts.remove((early, signal_id, "no such signal yet"))
        early_payload = {"signal_id": signal_id, **json.loads(other_keys_text)}
        try:
            add_fact(tables, early, recorded_at, event, early_payload)
        except Refused as refusal:
            add_conflict(tables, early, early_payload, refusal)


def add_fact(
    tables: Tables, seq: int, recorded_at: str, event: str, payload: dict[str, Any]
) -> None:
    signal_id = need_id(payload)
    check_fact(event, payload)
    detail = other_keys(payload, {"signal_id"})

    found = [row for row in tables.signals if row[1] == signal_id]
    if not found:
        tables.held.append((seq, signal_id, event, recorded_at, detail or "{}"))
        raise Refused("no such signal yet")
    facts = facts_in_force(tables, signal_id)
    if event == "voided":
        if not facts:
            raise Refused("no applied fact of this signal is left to void")
        last, voids = facts[-1][0], payload["voids"]
        if last != voids:
            raise Refused(
                f"voids entry {voids}, but the last applied fact of this signal is entry {last}"
            )
        facts = facts[:-1]
    else:
        before = facts[-1][1] if facts else "open"
        if (before, event) not in LEGAL:
            raise Refused(f"illegal move {before} -> {event}")
        facts = [*facts, (seq, event, payload)]
    values = values_after(found[0], facts)
    found[0][16], found[0][12], found[0][13], found[0][14] = values[:4]
    known_seq, state = max(seq, found[0][0]), facts[-1][1] if facts else "open"
    bisect.insort(
        tables.lifecycle,
        (seq, signal_id, event, recorded_at, detail, known_seq, state, *values),
    )


def check_fact(event: str, payload: dict[str, Any]) -> None:
    if event == "executed":
        need(payload, "order_id", isinstance(payload.get("order_id"), str), "is not text")
    elif event == "skipped":
        need(payload, "reason", isinstance(payload.get("reason"), str), "is not text")
    elif event == "reduced":
        need_count(payload, "part")
        need_finite(payload, "exit_price")
        need_number(payload, "fraction", lambda x: 0 < x < 1, "is not a number above 0 and below 1")
    elif event == "closed":
        need_finite(payload, "exit_price")
        outcomes = [None, "win", "loss", "breakeven", "expired"]
        if payload.get("outcome") not in outcomes:
            raise Refused("outcome is not win, loss, breakeven or expired")
        if payload.get("profit_loss_pct") is not None:
            need_finite(payload, "profit_loss_pct")
    elif event == "voided":
        need_count(payload, "voids")


def facts_in_force(tables: Tables, signal_id: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Seq, event and payload of each applied fact of a signal that is not voided."""
    facts: list[tuple[int, str, dict[str, Any]]] = []
    for seq, of, event, _, detail, *_ in tables.lifecycle:
        if of == signal_id and event == "voided":
            facts.pop()
        elif of == signal_id and event != "signal":
            facts.append((seq, event, json.loads(detail or "{}")))
    return facts


def values_after(row: list[Any], facts: list[tuple[int, str, dict[str, Any]]]) -> list[Any]:
    """order_id, outcome, exit_price, profit_loss_pct, and the seqs of executed and closed."""
    order_id = outcome = price = pct = executed_seq = closed_seq = None
    parts: dict[int, tuple[int, Fraction, Fraction]] = {}
    for seq, event, payload in facts:
        if event == "executed":
            order_id, executed_seq = payload["order_id"], seq
        elif event == "reduced":
            part, fraction = payload["part"], decimal(payload["fraction"])
            if part in parts:
                raise Refused(f"part {part} was already recorded by entry {parts[part][0]}")
            parts[part] = (seq, fraction, decimal(payload["exit_price"]))
            total = sum((fraction for _, fraction, _ in parts.values()), Fraction(0))
            if total > 1 - Fraction("1e-9"):
                raise Refused("the parts would be the whole position: send closed for the rest")
            exact = weighted(parts) / total
            price, pct = nearest(exact), exact_pct(row, exact)
        elif event == "closed":
            closed_seq = seq
            pct = payload.get("profit_loss_pct")
            if parts:
                rest = 1 - sum(fraction for _, fraction, _ in parts.values())
                exact = weighted(parts)
                exact += rest * decimal(payload["exit_price"])
                price = nearest(exact)
                pct = exact_pct(row, exact) if pct is None else float(pct) + 0.0
            else:
                price = float(payload["exit_price"]) + 0.0
                pct = float_pct(row, price) if pct is None else float(pct) + 0.0
            outcome = payload.get("outcome")
            if outcome is None:
                outcome = "win" if pct > 0 else "loss" if pct < 0 else "breakeven"
    if pct is not None and not math.isfinite(pct):
        raise Refused("profit_loss_pct is not finite")
    return [order_id, outcome, price, pct, executed_seq, closed_seq]


def weighted(parts: dict[int, tuple[int, Fraction, Fraction]]) -> Fraction:
    return sum((fraction * at for _, fraction, at in parts.values()), Fraction(0))


def decimal(number: float) -> Fraction:
    """The decimal number that Python shows for a number."""
    return Fraction(str(float(number)))


def nearest(exact: Fraction) -> float:
    try:
        quotient = exact.numerator / exact.denominator  # Python rounds it correctly
        return quotient + 0.0
    # Python divides integers exactly
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def exact_pct(row: list[Any], exit_price: Fraction) -> float:
    entry = decimal(row[4])
    return nearest((exit_price - entry) * (-100 if row[3] == "SELL" else 100) / entry)


def float_pct(row: list[Any], exit_price: float) -> float:
    entry: float = row[4]
    return (exit_price - entry) / entry * 100 * (-1 if row[3] == "SELL" else 1) + 0.0


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


def need_finite(payload: dict[str, Any], key: str) -> float:
    return need_number(payload, key, lambda x: True, "is not a finite number")


def need_count(payload: dict[str, Any], key: str) -> None:
    given = payload.get(key)
    fits = type(given) is int and given >= 1
    need(payload, key, fits, "is not a whole number above 0")


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
