"""An append-only, hash-chained log of trading signals: the write side.

    from eventlog import EventLog

    with EventLog("home") as log:
        receipt = log.append({"symbol": "AAPL", "action": "BUY", ...})

Invariant: the names below are the public surface; everything else may change.
"""

from eventlog.errors import (
    AppendFailed,
    AppendTimeout,
    DiskFull,
    EntryTooLarge,
    EventLogError,
    ForeignHome,
    HashMismatch,
    InvalidSignal,
    LogBusy,
    LogClosed,
    LogCorrupt,
    LogDiverged,
    LogLocked,
    LogNotFound,
    LogPoisoned,
    SignalConflict,
    UnsafePath,
    Unsupported,
)
from eventlog.line import Entry
from eventlog.log import EventLog
from eventlog.plan import Receipt
from eventlog.signal import Signal

__all__ = [
    "AppendFailed",
    "AppendTimeout",
    "DiskFull",
    "Entry",
    "EntryTooLarge",
    "EventLog",
    "EventLogError",
    "ForeignHome",
    "HashMismatch",
    "InvalidSignal",
    "LogBusy",
    "LogClosed",
    "LogCorrupt",
    "LogDiverged",
    "LogLocked",
    "LogNotFound",
    "LogPoisoned",
    "Receipt",
    "Signal",
    "SignalConflict",
    "UnsafePath",
    "Unsupported",
]
