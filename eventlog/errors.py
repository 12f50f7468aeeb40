"""Exceptions: the tree of all errors that this package raises on purpose.

    EventLogError
    ├── InvalidSignal          validation refused the item; nothing was written
    │   ├── HashMismatch       the given sha256 is not that of its nine fields
    │   └── EntryTooLarge      its line would be over the limit
    ├── SignalConflict         the signal_id is taken by a signal with other content
    ├── LogNotFound            there is no log at this home
    ├── ForeignHome            the home belongs to the old tracker
    ├── UnsafePath             a link or a foreign kind of file is where ours should be
    ├── LogCorrupt             acknowledged data is damaged
    ├── LogDiverged            the log does not continue the one that was read before
    ├── LogIsReplica           the home follows a stream, and takes no appends
    ├── LogFenced              another home was promoted: this one takes no appends
    ├── LogPoisoned            a sync failed: this handle is disabled
    ├── LogLocked              another process holds the writer's lock too long
    ├── LogBusy                too many appends are waiting
    ├── LogClosed              the handle is closed, or belongs to the parent of this process
    ├── BackupUnusable         a backup is damaged, of another log, or no backup
    ├── AppendTimeout          the outcome is unknown: retry with the same signal_id
    ├── AppendFailed           the disk refused the write; nothing of it remains
    │   └── DiskFull           ... because it, or a quota or a limit, is full
    ├── ThreadUnavailable      the system refuses another thread
    └── Unsupported            this platform, file system or format version

Invariant: each carries what happened, where, and what to do about it.
"""

from reprlib import Repr

VALUE_CHARS_MAX = 80  # a message must stay readable when a value is very long


def printable(text: str) -> str:
    """`text` with unprintable characters escaped, since these could control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class EventLogError(Exception):
    """Base of all our errors: `what` happened, `where`, and what to `do`."""

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        # A file name or an external response may hold control characters.
        what, where, do = printable(what), printable(where), printable(do)
        super().__init__(what, where, do)
        self.what = what
        self.where = where
        self.do = do

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses take keywords, which neither pickle nor copy would pass.
        return _restore_error, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}; {self.do}" if self.do else text


def _restore_error(
    kind: type[EventLogError], args: tuple[object, ...], state: dict[str, object]
) -> EventLogError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class _NoValue:
    """Marks an error without a value to show."""


_NO_VALUE = _NoValue()


_bounded_repr = Repr()  # lists that share lists many times over must not hang an error
_bounded_repr.maxlevel, _bounded_repr.maxlist, _bounded_repr.maxdict, _bounded_repr.maxtuple = (
    4,
    8,
    8,
    8,
)
_bounded_repr.maxstring = _bounded_repr.maxother = _bounded_repr.maxlong = 2 * VALUE_CHARS_MAX


def _repr(value: object) -> str:
    return (
        repr(value) if isinstance(value, float | int | bool | None) else _bounded_repr.repr(value)
    )


def type_name(value: object) -> str:
    """The name of the type of `value`, with its module unless it is built in: `numpy.bool`."""
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def printable_value(value: object) -> str:
    """`value` for a message: text as it is, other values by repr; cut, and printable."""
    try:
        text = value if isinstance(value, str) else _repr(value)
    except Exception as error:  # noqa: BLE001  # a foreign __repr__ may raise anything
        text = f"a {type_name(value)} whose repr raises {type(error).__name__}"
    if len(text) > VALUE_CHARS_MAX:
        text = text[: VALUE_CHARS_MAX - 3] + "..."
    escaped = printable(text)
    return escaped if len(escaped) <= VALUE_CHARS_MAX else escaped[: VALUE_CHARS_MAX - 3] + "..."


class InvalidSignal(EventLogError):
    """An item that validation refuses: `field`, what is wrong with it, and the value."""

    def __init__(self, what: str, *, field: str, value: object = _NO_VALUE, do: str = "") -> None:
        text = f"{printable_value(field)} {what}" if field else what
        if value is not _NO_VALUE:
            text += f" (got {printable_value(value)})"
        super().__init__(text, do=do)
        self.field = field


class HashMismatch(InvalidSignal):
    """The sha256 that came with the signal is not the hash of its nine fields."""


class EntryTooLarge(InvalidSignal):
    """The line would be longer than a line may be."""


class SignalConflict(EventLogError):
    """The signal_id is taken, within the dedupe window, by a signal with other content."""

    def __init__(self, what: str, *, signal_id: str, where: str = "", do: str = "") -> None:
        super().__init__(what, where=where, do=do)
        self.field = "signal_id"
        self.signal_id = signal_id


class LogNotFound(EventLogError):
    """There is no log at this home."""


class ForeignHome(EventLogError):
    """The home belongs to the old tracker; nothing in it is touched."""


class UnsafePath(EventLogError):
    """A symbolic link, or something that is no regular file, is where a file of ours should be."""


class LogCorrupt(EventLogError):
    """Acknowledged data is damaged, at `byte_offset` of `segment`, where entry `seq` should be."""

    def __init__(
        self,
        what: str,
        *,
        segment: str,
        byte_offset: int,
        seq: int,
        do: str = "run `eventlog verify` to see all of it, then restore the segment from a backup",
    ) -> None:
        super().__init__(what, where=f"{segment} at byte {byte_offset}, seq {seq}", do=do)
        self.problem = what
        self.segment = segment
        self.byte_offset = byte_offset
        self.seq = seq


class LogDiverged(EventLogError):
    """The log does not continue the one read before: rewritten, shortened, or another log."""


class LogIsReplica(EventLogError):
    """The home is a replica: its lines come from a stream. Nothing was written."""


class LogFenced(EventLogError):
    """Another home continues the stream of this one. Nothing was written."""


class BackupUnusable(EventLogError):
    """The backup is damaged, of another log, ahead of the log, or no backup at all."""


class LogPoisoned(EventLogError):
    """A sync failed. The last write of this handle may be lost, and the handle is disabled."""


class LogLocked(EventLogError):
    """Another process has held the writer's lock for longer than the caller's timeout."""


class LogBusy(EventLogError):
    """The queue of waiting appends is full."""


class LogClosed(EventLogError):
    """The handle is closed, or was opened by the parent of this process."""


class AppendTimeout(EventLogError):
    """The append did not end in time. Its outcome is unknown: retry with the same signal_id."""


class AppendFailed(EventLogError):
    """The disk refused the write. Nothing of it remains in the log; appends may be retried."""


class DiskFull(AppendFailed):
    """The disk, a quota or the file size limit is exhausted. Nothing of the append remains."""


class ThreadUnavailable(EventLogError):
    """The system refuses another thread: a limit of the account or of the machine is reached."""


class Unsupported(EventLogError):
    """This platform, file system or format version is not supported."""
