"""Lines of CSV that a spreadsheet shows and never executes. Pure.

Text that a spreadsheet would take for a formula gets a leading apostrophe, and so does text that
begins with one, so that removing one apostrophe restores any text.

Invariant: a CSV reader and `unescape_cell` return the text that was written.
"""

from collections.abc import Sequence

from projections.queries.selection import json_text

# The list of OWASP's "CSV injection", with the full-width forms that some spreadsheets treat alike.
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
ESCAPE_PREFIX = "'"
_ESCAPED_PREFIXES = (*FORMULA_PREFIXES, ESCAPE_PREFIX)


def csv_line(row: Sequence[object], *, is_raw: bool = False) -> str:
    """A line of CSV: text in quotes, numbers without, nothing for None.

    Lists and objects are JSON text. `is_raw` leaves text as it is.
    """
    return ",".join(map(_raw_cell if is_raw else _escaped_cell, row)) + "\n"


def unescape_cell(cell: str) -> str:
    """Removes the escape from a text cell, as a CSV reader returns it."""
    return cell.removeprefix(ESCAPE_PREFIX)


def _escaped_cell(value: object) -> str:
    if not isinstance(value, str):
        if value is None or isinstance(value, int | float):
            return _unquoted(value)
        value = json_text(value)
    if value.startswith(_ESCAPED_PREFIXES):
        value = ESCAPE_PREFIX + value
    return '"' + value.replace('"', '""') + '"'


def _raw_cell(value: object) -> str:
    if value is None or isinstance(value, int | float):
        return _unquoted(value)
    return '"' + json_text(value).replace('"', '""') + '"'


def _unquoted(value: float | None) -> str:
    if value is None:
        return ""
    return ("false", "true")[value] if isinstance(value, bool) else repr(value)
