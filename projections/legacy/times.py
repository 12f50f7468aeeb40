"""Times of the old tracker: any text that `datetime.fromisoformat` accepts.

Invariant: text in stored form is returned unchanged.
"""

from datetime import UTC, datetime


def parsed_time(text: str) -> str | None:
    """The time in stored form; None where the text is no time, which validation then reports.

    A time without an offset is UTC. Digits of a second after the sixth are cut off, as
    `datetime.fromisoformat` does.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        return None
