"""Every error that this package raises on purpose.

    EventLogError
    ├── InvalidSignal          the item is refused at the door; nothing was written
    │   ├── HashMismatch       the sha256 that it brings is not that of its nine fields
    │   └── EntryTooLarge      its line would be over the limit
    ├── SignalConflict         the signal_id is taken by a signal with other content
    ├── LogNotFound            there is no log at this home
    ├── ForeignHome            the home belongs to the old tracker
    ├── UnsafePath             a link or a foreign kind of file stands where ours should be
    ├── LogCorrupt             acknowledged data is damaged
    ├── LogDiverged            the log is not the one that was known
    ├── LogPoisoned            a sync failed: this handle writes no more
    ├── LogLocked              another process holds the writer's lock for too long
    ├── LogBusy                too many appends are waiting
    ├── LogClosed              the handle is closed, or belongs to the parent of this process
    ├── BackupUnusable         a backup is damaged, of another log, or none at all
    ├── AppendTimeout          the outcome is unknown: retry with the same signal_id
    ├── AppendFailed           the disk refused the write; nothing of it stays
    │   └── DiskFull           ... because it, or a quota or a limit, is full
    └── Unsupported            this platform, file system or format version

Invariant: each carries what happened, where, and what to do about it.
"""

from reprlib import Repr

VALUE_CHARS_MAX = 80  # a message must stay readable when somebody sends a novel as a price


def printable(text: str) -> str:
    """`text` with what is not printable as escapes: control characters could repaint a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class EventLogError(Exception):
    """Base of all our errors: `what` happened, `where`, and what to `do`."""

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        # A file name or an answer from outside may hold what repaints a terminal.
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
    """Marks a refusal that has no value to show."""


_NO_VALUE = _NoValue()


_bounded_repr = Repr()  # lists that hold one another many times over must not hang a refusal
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


def printable_value(value: object) -> str:
    """`value` for a message: text as it is, others as Python writes them, cut, all printable."""
    try:
        text = value if isinstance(value, str) else _repr(value)
    except Exception as error:  # noqa: BLE001  # a foreign __repr__ may raise anything
        text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    if len(text) > VALUE_CHARS_MAX:
        text = text[: VALUE_CHARS_MAX - 3] + "..."
    escaped = printable(text)
    return escaped if len(escaped) <= VALUE_CHARS_MAX else escaped[: VALUE_CHARS_MAX - 3] + "..."


class InvalidSignal(EventLogError):
    """An item that the door refuses: `field`, what is wrong with it, and the value."""

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
    """The home belongs to the old tracker; we touch nothing in it."""


class UnsafePath(EventLogError):
    """A symbolic link, or something that is no regular file, stands where a file of ours should."""


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
    """The log does not continue the one that was known: rewritten, shortened, or another log."""


class BackupUnusable(EventLogError):
    """A backup that is damaged, that is of another log or of a better one, or that is none."""


class LogPoisoned(EventLogError):
    """A sync failed. What this handle wrote last may be lost; it writes nothing more."""


class LogLocked(EventLogError):
    """Another process has held the writer's lock for longer than the caller wanted to wait."""


class LogBusy(EventLogError):
    """As many appends are waiting as are allowed to."""


class LogClosed(EventLogError):
    """The handle is closed, or was opened by the parent of this process."""


class AppendTimeout(EventLogError):
    """The append did not end in time. Its outcome is unknown: retry with the same signal_id."""


class AppendFailed(EventLogError):
    """The disk refused the write. Nothing of it stays in the log, and appends may be retried."""


class DiskFull(AppendFailed):
    """The disk, a quota or the file size limit is exhausted. Nothing of the append stays."""


class Unsupported(EventLogError):
    """This platform, file system or format version is not supported."""
