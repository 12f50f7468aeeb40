"""Draws the live view on a terminal. The only module that uses rich (the extra `top`).

Invariant: leaving `Screen` restores the terminal, also after an exception; no text is interpreted
as markup.
"""

import sys
from typing import Self

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from projections.top.view import GAP, Table, View, column_widths, fit_to_width

_STYLES = {"win": "green", "loss": "red", "problem": "bold red"}
_LINES_AROUND = 6  # title, log, two empty lines, two lines of headings
_SIGNALS_INLINE_MAX = 10  # without full screen, where other text stays visible


class Screen:
    """Draws each view over the one before, on the full screen or in a part of it."""

    def __init__(self, *, full_screen: bool, signals_max: int | None = None) -> None:
        self._console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
        self._signals_max = signals_max if full_screen else _SIGNALS_INLINE_MAX
        self._live = Live(
            console=self._console,
            screen=full_screen,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    @property
    def can_draw(self) -> bool:
        """Whether stdout is a terminal that can move the cursor."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, view: View) -> None:
        """Draws the view in place of the previous one."""
        self._live.update(self._render(view), refresh=True)

    def _render(self, view: View) -> Group:
        width, height = self._console.size
        lines = _LINES_AROUND + len(view.projections.rows) + 2 * bool(view.problem)
        signals = fit_to_width(view.signals, width, cell_len)
        rows = signals.rows[: self._signals_max][: max(0, height - lines)]
        signals = signals._replace(rows=rows)
        parts: list[Text | Grid | str] = [
            _line(view.title, "bold"),
            _line(view.log),
            "",
            _grid(view.projections),
        ]
        if signals.rows:
            parts += ["", _grid(signals)]
        if view.problem:
            parts += ["", _line(view.problem, _STYLES["problem"])]
        return Group(*parts)


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="dim")
    for heading, width in zip(table.headings, column_widths(table, cell_len), strict=True):
        is_last = heading == table.headings[-1]  # only this column is shortened if there is no room
        grid.add_column(
            heading,
            justify="right" if heading in table.numbers else "left",
            min_width=None if is_last else width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for cells in table.rows:
        grid.add_row(*(Text(cell, _STYLES.get(cell.partition(" ")[0], "")) for cell in cells))
    return grid


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
