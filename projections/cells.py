"""Cells of CSV: text that no spreadsheet runs, numbers that read back as the same. Pure.

A spreadsheet takes a cell for a formula by its first character, in quotes or not. Such text gets a
`'` before it, and so does text that begins with `'`: whoever takes one `'` from the front of each
text that has one has the text again.

Invariant: `text_of` of a cell's text gives what `csv_line` was given.
"""

from collections.abc import Sequence

# What OWASP lists for "CSV injection", with the full-width forms that some spreadsheets read alike.
RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
MARK = "'"
_MARKED = (*RUN_BY_SPREADSHEETS, MARK)


def csv_line(row: Sequence[object]) -> str:
    """A line of CSV: text in quotes, numbers without, nothing for None."""
    return ",".join(map(_cell, row)) + "\n"


def text_of(cell: str) -> str:
    """The way back, for a cell of text as a CSV reader gives it."""
    return cell.removeprefix(MARK)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if text.startswith(_MARKED):
        text = MARK + text
    return '"' + text.replace('"', '""') + '"'
