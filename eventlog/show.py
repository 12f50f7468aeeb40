"""Entries as a person reads them: one line each, safe for a terminal.

Invariant: what comes out has no control character that was in the log.
"""

from eventlog.errors import shown
from eventlog.line import Entry

_FACT_KEYS_MAX = 6  # a fact with more is cut: `--json` shows all


def entry_line(entry: Entry) -> str:
    """`42  2025-11-18 02:00:00.123Z  signal    AAPL BUY 150.5 ...`, without a newline."""
    when = entry.recorded_at[:23].replace("T", " ") + "Z"
    return f"{entry.seq:>8}  {when}  {shown(entry.event):<9}  {_details(entry)}"


def _details(entry: Entry) -> str:
    get = entry.payload.get
    signal_id = shown(get("signal_id", "-"))
    if entry.event == "signal":
        return (
            f"{shown(get('symbol'))} {shown(get('action'))} at {shown(get('entry_price'))}"
            f" target {shown(get('target_price'))} stop {shown(get('stop_price'))}"
            f" confidence {shown(get('confidence'))} {shown(get('strategy'))}  {signal_id}"
        )
    pairs = [(key, value) for key, value in entry.payload.items() if key != "signal_id"]
    said = " ".join(f"{shown(key)}={shown(value)}" for key, value in pairs[:_FACT_KEYS_MAX])
    return f"{said}  {signal_id}" if said else signal_id
