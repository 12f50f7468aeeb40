"""The progress bar of a command: on stderr, on a terminal only, and not with -q.

Invariant: a failed write to the terminal never fails the command.
"""

import itertools
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from eventlog.figures import count_text

PROGRESS_STEPS = 200  # drawings of one bar: more are not seen, and each costs
DRAW_EVERY_S = 0.1  # where the total is not known
_WIDTH = 30
_WIDTH_BESIDE_COUNT = 16  # the line fits a terminal of 80 columns
_ERASE_LINE = "\r\x1b[K"


class ProgressBar:
    """A bar that is drawn as its caller reports work.

    `noun` names what the caller counts beside the work, such as `line`: its rate is shown.
    """

    def __init__(self, label: str, noun: str | None) -> None:
        self._noun = noun
        self._started_s = time.monotonic()
        self._drawn_s: float | None = None  # None until the first drawing
        self._is_erased = False
        self._bar = click.progressbar(
            iterable=itertools.repeat(0),
            length=0,
            label=label,
            file=sys.stderr,
            hidden=not _shows_progress(),
            bar_template="%(label)s [%(bar)s] %(info)s",
            width=_WIDTH if noun is None else _WIDTH_BESIDE_COUNT,
            item_show_func=self._count_text,
        )

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal to draw on."""
        return not self._bar.hidden

    def __call__(self, done: int, total: int | None, count: int = 0) -> None:
        """Reports the work done so far, and in total where it is known; `count` of the noun."""
        bar = self._bar
        if bar.hidden or not self._is_due(done, total):
            return
        bar.length = total
        self._drawn_s, self._is_erased = time.monotonic(), False
        with suppress(OSError):  # the terminal is gone: the work goes on
            bar.update(done - bar.pos, count)

    def erase(self) -> None:
        """Removes the bar, since other text follows on the terminal. The next report draws it."""
        if self._drawn_s is not None and not self._is_erased:
            self._is_erased = True
            with suppress(OSError):
                sys.stderr.write(_ERASE_LINE)
                sys.stderr.flush()

    def finish(self) -> None:
        """Ends the line of the bar."""
        if self._drawn_s is not None:
            with suppress(OSError):
                self._bar.render_finish()

    def _is_due(self, done: int, total: int | None) -> bool:
        if self._drawn_s is None or self._is_erased:
            return True
        if total is None:
            return time.monotonic() - self._drawn_s >= DRAW_EVERY_S
        return done >= total or done - self._bar.pos > total // PROGRESS_STEPS

    def _count_text(self, count: int | None) -> str | None:
        if self._noun is None or count is None:
            return None
        rate = count / max(time.monotonic() - self._started_s, 1e-3)
        return f"{count_text(count, self._noun)}  {rate:,.0f}/s"


def _shows_progress() -> bool:
    is_quiet = not logging.getLogger().isEnabledFor(logging.WARNING)
    return sys.stderr.isatty() and not is_quiet and os.environ.get("TERM") != "dumb"


@contextmanager
def progress_bar(label: str, noun: str | None = None) -> Iterator[ProgressBar]:
    """Shows a progress bar on stderr during a block. Draws nothing where stderr is no terminal.

    The block calls the bar with the work done, and with the total where it is known.
    """
    bar = ProgressBar(label, noun)
    try:
        yield bar
    finally:
        bar.finish()
