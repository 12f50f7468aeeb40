"""The life of one signal: its decision, facts, row, state at Alpine, raw lines and conflicts.

A delay is the time from the decision, the signal's `timestamp`, to `recorded_at` of a fact.

Invariant: table and conflicts are of one state of the database; nothing is changed.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from eventlog import UnsafePath
from eventlog.plumbing import (
    figure_text,
    log_status,
    printable,
    printable_value,
    require_home,
    time_text,
)
from projections.delivery.outbox import outbox_path, read_seq
from projections.queries.log_lines import read_lines
from projections.queries.selection import (
    by_signal_id,
    dict_with_extra,
    json_text,
    parse_object,
)
from projections.queries.table import read_home
from projections.signals.transitions import VOIDED
from projections.sqlite.database import read_checkpoint

ENTRIES_MAX = 10_000  # shown of one signal: more is a mistake of a program, and fills a screen
DELIVERED, PARKED, PENDING, DISABLED, UNKNOWN = (
    *("delivered", "parked", "pending"),
    *("disabled", "unknown"),
)

_FACTS = """SELECT seq, event, recorded_at, state, detail FROM lifecycle
    WHERE signal_id = :signal_id AND event <> 'signal' AND seq <= :seq AND known_seq <= :seq
    ORDER BY seq LIMIT :count"""
_RECORDED_AT = "SELECT recorded_at FROM lifecycle WHERE seq = :seq"
_HELD = """SELECT seq, event, recorded_at, NULL, payload FROM held
    WHERE signal_id = :signal_id AND seq <= :seq ORDER BY seq LIMIT :count"""
_CONFLICTS = """SELECT seq, reason FROM conflicts
    WHERE signal_id = :signal_id AND seq <= :seq ORDER BY seq LIMIT :count"""
_END = 2**63 - 1  # no entry has a greater seq


class _TableState(NamedTuple):
    """What the database holds about the signal."""

    row: dict[str, object] | None
    recorded_at: str | None
    facts: Sequence[dict[str, object]]
    held: Sequence[dict[str, object]]
    conflicts: Sequence[dict[str, object]]
    checkpoint: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalLife:
    """Everything that a home knows about one signal."""

    signal_id: str
    row: Mapping[str, object] | None  # None: there is no such signal
    recorded_at: str | None
    facts: Sequence[Mapping[str, object]]  # in the order of the log, voided ones included
    held: Sequence[Mapping[str, object]]  # facts that wait for the signal
    conflicts: Sequence[Mapping[str, object]]
    alpine: Mapping[str, object] | None
    lines: Sequence[Mapping[str, object]]  # seq and line
    checkpoint: int  # of the table
    last_seq: int  # of the log

    def to_json(self) -> dict[str, object]:
        """The object that `eventlog show --json` prints."""
        return {
            "signal_id": self.signal_id,
            "decided_at": self._decided_at(),
            "recorded_at": self.recorded_at,
            "delay_s": _delay_s(self._decided_at(), self.recorded_at),
            "facts": self.facts,
            "held": self.held,
            "row": self.row,
            "alpine": self.alpine,
            "conflicts": self.conflicts,
            "lines": self.lines,
            "checkpoint": self.checkpoint,
            "last_seq": self.last_seq,
        }

    def to_text(self) -> list[str]:
        """The lines that `eventlog show` prints."""
        lines = [f"signal {printable_value(self.signal_id)}"]
        if self.row is not None:
            delay = _duration(_delay_s(self._decided_at(), self.recorded_at))
            lines += [
                f"  decided   {self._decided_at()}",
                f"  recorded  {time_text(str(self.recorded_at))}  {delay}",
            ]
        lines += _section("facts", map(_fact_text, self.facts))
        lines += _section("held until the signal arrives", map(_fact_text, self.held))
        lines += _section("row", map(_value_text, (self.row or {}).items()))
        lines += _section("alpine", map(_value_text, (self.alpine or {}).items()))
        lines += _section(
            "conflicts", (f"{found['seq']}  {_text(found['reason'])}" for found in self.conflicts)
        )
        lines += _section("lines", (_text(found["line"]) for found in self.lines))
        if self.checkpoint < self.last_seq:
            lines.append(
                f"the table is at entry {self.checkpoint} of {self.last_seq}: later entries are"
                " not shown"
            )
        return lines

    def missing_text(self) -> str:
        """What was searched, where there is no such signal."""
        behind = ""
        if self.checkpoint < self.last_seq:
            behind = (
                f"; the log has {self.last_seq - self.checkpoint} more, which"
                " `eventlog project sqlite --once` brings in"
            )
        return (
            f"there is no signal {printable_value(self.signal_id)} among the first"
            f" {self.checkpoint} entries{behind}"
        )

    def _decided_at(self) -> str | None:
        return None if self.row is None else str(self.row["timestamp"])


def show(
    home: str | os.PathLike[str],
    signal_id: str,
    *,
    disabled: str | None = None,
    seq: int | None = None,
) -> SignalLife:
    """The life of a signal. `disabled` says why this environment delivers nothing, if so.

    With `seq` it is the life as of that entry, which the table has; delivery has no history.
    Raises ProjectionError without a table, LogNotFound, LogCorrupt.
    """
    require_home(home)
    table = read_home(home, lambda database: _read_table(database, signal_id, seq))
    last_seq = log_status(os.fspath(home), count=False)["last_seq"] if seq is None else seq
    assert isinstance(last_seq, int)
    found = [*table.facts, *table.held, *table.conflicts]
    seqs = {entry["seq"] for entry in found}
    alpine = None
    if table.row is not None:
        seqs.add(table.row["id"])
        if seq is None:
            alpine = _alpine_state(Path(home), table.row["id"], disabled)
    ordered: list[Any] = sorted(seqs)
    lines = [{"seq": seq, "line": line} for seq, line in read_lines(home, ordered)]
    return SignalLife(
        signal_id=signal_id,
        row=table.row,
        recorded_at=table.recorded_at,
        facts=table.facts,
        held=table.held,
        conflicts=table.conflicts,
        alpine=alpine,
        lines=lines,
        checkpoint=table.checkpoint,
        last_seq=last_seq,
    )


def _read_table(database: Connection, signal_id: str, seq: int | None) -> _TableState:
    row = database.execute(*by_signal_id(signal_id, seq)).fetchone()
    found = None if row is None else dict_with_extra(row)
    recorded_at = None
    if found is not None:
        own = {"seq": found["id"]}
        recorded_at = next((at for (at,) in database.execute(_RECORDED_AT, own)), None)
    decided_at = None if found is None else found["timestamp"]
    values = {"signal_id": signal_id, "count": ENTRIES_MAX, "seq": _END if seq is None else seq}
    facts = [_fact(fact, decided_at) for fact in database.execute(_FACTS, values)]
    held = [_fact(fact, None) for fact in database.execute(_HELD, values)]
    conflicts: list[dict[str, object]] = [
        {"seq": seq, "reason": reason} for seq, reason in database.execute(_CONFLICTS, values)
    ]
    _mark_voided(facts)
    checkpoint = read_checkpoint(database)
    at = checkpoint.seq if checkpoint else 0
    return _TableState(found, recorded_at, facts, held, conflicts, at if seq is None else seq)


def _fact(row: Sequence[object], decided_at: object) -> dict[str, object]:
    seq, event, recorded_at, state, detail = row
    return {
        "seq": seq,
        "event": event,
        "recorded_at": recorded_at,
        "delay_s": _delay_s(decided_at, recorded_at),
        "state": state,  # of the signal after this fact
        "voided_by": None,
        "detail": parse_object(detail),
    }


def _mark_voided(facts: Sequence[dict[str, object]]) -> None:
    """Sets `voided_by` of each fact that a later one has withdrawn."""
    by_seq = {fact["seq"]: fact for fact in facts}
    for fact in facts:
        detail = fact["detail"]
        assert isinstance(detail, dict)
        if fact["event"] == VOIDED and detail.get("voids") in by_seq:
            by_seq[detail["voids"]]["voided_by"] = fact["seq"]


def _alpine_state(home: Path, seq: object, disabled: str | None) -> dict[str, object]:
    """Whether Alpine has the signal, and why not."""
    assert isinstance(seq, int)
    try:
        is_done, parked = read_seq(outbox_path(home), seq)
    except FileNotFoundError:  # no daemon has delivered from this home yet
        is_done, parked = False, None
    except (OSError, sqlite3.Error, UnsafePath) as error:
        return {"state": UNKNOWN, "reason": f"the delivery state cannot be read: {error}"}
    if parked is not None:
        answer = "" if parked.status is None else f"HTTP {parked.status}: "
        return {
            "state": PARKED,
            "reason": f"{parked.kind}: {answer}{parked.body}",
            "attempts": parked.attempts,
        }
    if is_done:
        return {"state": DELIVERED}
    return {"state": PENDING} if disabled is None else {"state": DISABLED, "reason": disabled}


def _delay_s(start: object, end: object) -> float | None:
    """Seconds from `start` to `end`, which may be negative; None without both."""
    if not isinstance(start, str) or not isinstance(end, str):
        return None
    try:
        delay = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    except (TypeError, ValueError):  # another program wrote it
        return None
    return delay.total_seconds()


_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def _duration(seconds: float | None) -> str:
    """A delay for a person: +12.345 s, +3 h 25 min."""
    if seconds is None:
        return ""
    sign, rest = ("-" if seconds < 0 else "+"), abs(seconds)
    for index, (unit, length) in enumerate(_UNITS):
        if rest >= length:
            smaller, smaller_length = (*_UNITS, ("s", 1))[index + 1]
            count, remainder = divmod(rest, length)
            return f"{sign}{count:.0f} {unit} {remainder // smaller_length:.0f} {smaller}"
    return f"{sign}{rest:.3f} s"


def _section(heading: str, lines: Any) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [heading, *found] if found else []


def _fact_text(fact: Mapping[str, object]) -> str:
    delay = fact["delay_s"]
    assert delay is None or isinstance(delay, float)
    voided = "" if fact["voided_by"] is None else f"  voided by {fact['voided_by']}"
    detail = fact["detail"]
    assert isinstance(detail, dict)
    values = "  ".join(f"{_text(key)}={_text(value)}" for key, value in detail.items())
    return (
        f"{fact['seq']}  {_text(time_text(str(fact['recorded_at'])))}  {_duration(delay):>12}"
        f"  {_text(fact['event']):<9}{voided}  {values}".rstrip()
    )


def _value_text(item: tuple[str, object]) -> str:
    key, value = item
    is_figure = value is None or isinstance(value, float)
    return f"{key:<16} {figure_text(key, value) if is_figure else _text(value)}"


def _text(value: object) -> str:
    return printable(json_text(value))
