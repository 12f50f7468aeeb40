"""An append-only, hash-chained log of trading signals: the write side.

    from eventlog import EventLog

    with EventLog("home") as log:
        receipt = log.append({"symbol": "AAPL", "action": "BUY", ...})

The names below are for users of a log; `eventlog.plumbing` has those for authors of projections
and tools. Each is imported when it is first used (PEP 562), so that `eventlog --help` is fast.

Invariant: these names and those of `eventlog.plumbing` are the public surface; all others may
change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.append.batch import Receipt
    from eventlog.archive.backup import BackedUp, back_up
    from eventlog.archive.compress import compress_log
    from eventlog.archive.restore import RestoredHome, restore_home
    from eventlog.errors import (
        AppendFailed,
        AppendTimeout,
        BackupUnusable,
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
        LogFenced,
        LogIsReplica,
        LogLocked,
        LogNotFound,
        LogPoisoned,
        SignalConflict,
        ThreadUnavailable,
        UnsafePath,
        Unsupported,
    )
    from eventlog.format.line import Entry
    from eventlog.format.segment import Position
    from eventlog.log import Batch, EventLog
    from eventlog.remote import RemoteLog, connect
    from eventlog.replica.engine import StreamRefused, StreamUnavailable
    from eventlog.schema.signal import Signal

_MODULES = {
    "AppendFailed": "errors",
    "AppendTimeout": "errors",
    "BackedUp": "archive.backup",
    "BackupUnusable": "errors",
    "Batch": "log",
    "DiskFull": "errors",
    "Entry": "format.line",
    "EntryTooLarge": "errors",
    "EventLog": "log",
    "EventLogError": "errors",
    "ForeignHome": "errors",
    "HashMismatch": "errors",
    "InvalidSignal": "errors",
    "LogBusy": "errors",
    "LogClosed": "errors",
    "LogCorrupt": "errors",
    "LogDiverged": "errors",
    "LogFenced": "errors",
    "LogIsReplica": "errors",
    "LogLocked": "errors",
    "LogNotFound": "errors",
    "LogPoisoned": "errors",
    "Position": "format.segment",
    "Receipt": "append.batch",
    "RemoteLog": "remote",
    "RestoredHome": "archive.restore",
    "Signal": "schema.signal",
    "SignalConflict": "errors",
    "StreamRefused": "replica.engine",
    "StreamUnavailable": "replica.engine",
    "ThreadUnavailable": "errors",
    "UnsafePath": "errors",
    "Unsupported": "errors",
    "back_up": "archive.backup",
    "compress_log": "archive.compress",
    "connect": "remote",
    "restore_home": "archive.restore",
}

__all__ = [
    "AppendFailed",
    "AppendTimeout",
    "BackedUp",
    "BackupUnusable",
    "Batch",
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
    "LogFenced",
    "LogIsReplica",
    "LogLocked",
    "LogNotFound",
    "LogPoisoned",
    "Position",
    "Receipt",
    "RemoteLog",
    "RestoredHome",
    "Signal",
    "SignalConflict",
    "StreamRefused",
    "StreamUnavailable",
    "ThreadUnavailable",
    "UnsafePath",
    "Unsupported",
    "back_up",
    "compress_log",
    "connect",
    "restore_home",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"eventlog.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
