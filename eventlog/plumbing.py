"""Names for authors of projections, plug-in commands and tools.

Verified bulk reading, log status, work in threads and processes, plug-ins, progress and printable
text. Each name is imported when it is first used (PEP 562).

Invariant: other packages enter `eventlog` through its front and through this module only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.cli.progress import Progress
    from eventlog.errors import printable, shown
    from eventlog.format.line import decode
    from eventlog.plugins import COMMANDS, PROJECTIONS, load_plugin, plugin_names
    from eventlog.processes import can_fork
    from eventlog.read.bulk import Stretch, log_bytes, read_verified
    from eventlog.read.columns import SignalColumns
    from eventlog.read.inspect import log_status, read_entries
    from eventlog.storage.filesystem import file_system_of, is_network_file_system
    from eventlog.threads import in_thread, to_the_end

_MODULES = {
    "COMMANDS": "plugins",
    "PROJECTIONS": "plugins",
    "Progress": "cli.progress",
    "SignalColumns": "read.columns",
    "Stretch": "read.bulk",
    "can_fork": "processes",
    "decode": "format.line",
    "file_system_of": "storage.filesystem",
    "in_thread": "threads",
    "is_network_file_system": "storage.filesystem",
    "load_plugin": "plugins",
    "log_bytes": "read.bulk",
    "log_status": "read.inspect",
    "plugin_names": "plugins",
    "printable": "errors",
    "read_entries": "read.inspect",
    "read_verified": "read.bulk",
    "shown": "errors",
    "to_the_end": "threads",
}

__all__ = [
    "COMMANDS",
    "PROJECTIONS",
    "Progress",
    "SignalColumns",
    "Stretch",
    "can_fork",
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
    "shown",
    "to_the_end",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"eventlog.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
