"""An append-only, hash-chained log of trading signals: the write side.

    from eventlog import EventLog

    with EventLog("home") as log:
        receipt = log.append({"symbol": "AAPL", "action": "BUY", ...})

The names below are imported when they are first used (PEP 562), because `eventlog --help` needs
none of what they pull in and must not wait for it.

Invariant: the names below are the public surface; everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.backup import BackedUp, back_up
    from eventlog.columns import SignalColumns
    from eventlog.compress import compress_log
    from eventlog.disk import file_system_of, is_network_file_system
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
        LogLocked,
        LogNotFound,
        LogPoisoned,
        SignalConflict,
        UnsafePath,
        Unsupported,
        printable,
        shown,
    )
    from eventlog.line import Entry, decode
    from eventlog.log import Batch, EventLog
    from eventlog.new_home import RestoredHome, restore_home
    from eventlog.plan import Receipt
    from eventlog.plugins import COMMANDS, PROJECTIONS, load_plugin, plugin_names
    from eventlog.progress import Progress
    from eventlog.segments import Position
    from eventlog.signal import Signal
    from eventlog.threads import in_thread, to_the_end
    from eventlog.verified import Stretch, log_bytes, read_verified
    from eventlog.views import log_status, read_entries
    from eventlog.workers import can_fork

_MODULES = {
    "COMMANDS": "plugins",
    "PROJECTIONS": "plugins",
    "BackedUp": "backup",
    "Batch": "log",
    "Entry": "line",
    "EventLog": "log",
    "Position": "segments",
    "Progress": "progress",
    "Receipt": "plan",
    "RestoredHome": "new_home",
    "Signal": "signal",
    "SignalColumns": "columns",
    "Stretch": "verified",
    "back_up": "backup",
    "can_fork": "workers",
    "compress_log": "compress",
    "decode": "line",
    "file_system_of": "disk",
    "in_thread": "threads",
    "is_network_file_system": "disk",
    "load_plugin": "plugins",
    "log_bytes": "verified",
    "log_status": "views",
    "plugin_names": "plugins",
    "read_entries": "views",
    "read_verified": "verified",
    "restore_home": "new_home",
    "to_the_end": "threads",
}

__all__ = [
    "COMMANDS",
    "PROJECTIONS",
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
    "LogLocked",
    "LogNotFound",
    "LogPoisoned",
    "Position",
    "Progress",
    "Receipt",
    "RestoredHome",
    "Signal",
    "SignalColumns",
    "SignalConflict",
    "Stretch",
    "UnsafePath",
    "Unsupported",
    "back_up",
    "can_fork",
    "compress_log",
    "decode",
    "file_system_of",
    "in_thread",
    "is_network_file_system",
    "load_plugin",
    "log_bytes",
    "log_status",
    "plugin_names",
    "printable",
    "read_entries",
    "read_verified",
    "restore_home",
    "shown",
    "to_the_end",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"eventlog.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found
