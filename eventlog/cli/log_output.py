"""Log messages on stderr: their level, and their form as text or JSON.

Invariant: each record but a note is one line that has its time in RFC 3339 with offset.
"""

import logging

from eventlog.cli.streams import NOTE

_QUIET_LOGGERS = ("httpx", "httpcore", "watchfiles", "aiosqlite", "asyncio")


class _TextFormatter(logging.Formatter):
    """Formats each record as a line of text that begins with its time. A note is its text."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        if getattr(record, NOTE, False):
            return record.getMessage()
        return f"{_time_text(record.created)} {super().format(record)}"


class _JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON. An error of ours adds `where` and `do`."""

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        fields = {
            "time": _time_text(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= getattr(record, "fields", {})
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


def _time_text(created_s: float) -> str:
    """The time of a record as RFC 3339 text with offset."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds")


def configure_logging(level: int, log_format: str) -> None:
    """Writes the messages of `level` and above to stderr; `log_format` is `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def logs_json() -> bool:
    """Whether the format JSON is configured."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    return any(isinstance(formatter, _JsonFormatter) for formatter in formatters)
