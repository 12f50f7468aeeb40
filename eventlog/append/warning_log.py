"""Log lines for warnings about accepted items: at most one of each kind a minute.

Invariant: a line names kind, field and seq, and nothing of the item.
"""

import logging
from collections.abc import Iterable

from eventlog.schema.item_warnings import KINDS, ItemWarning

logger = logging.getLogger(__name__)

_MINUTE_CHARS = len("2025-11-18T02:00")  # of a time in stored form


class WarningLog:
    """Writes the log lines of one writer. Not thread-safe: used by the thread that commits."""

    def __init__(self) -> None:
        self._logged_minute: dict[str, str] = {}  # by kind

    def report(self, warned: Iterable[tuple[int, ItemWarning]], recorded_at: str) -> None:
        """Logs the first warning of each kind that has no line in the minute of `recorded_at`."""
        minute = recorded_at[:_MINUTE_CHARS]
        for seq, warning in warned:
            field = warning["field"]
            kind = KINDS[field]
            if self._logged_minute.get(kind) != minute:
                self._logged_minute[kind] = minute
                logger.warning("item_warning kind=%s field=%s seq=%d", kind, field, seq)
