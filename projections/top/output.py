"""Shows samples of a home: as a live view on a terminal, as lines of text elsewhere.

Invariant: without a terminal, rich is not needed and only whole lines are written.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from projections.errors import ProjectionError
from projections.top.sampler import INTERVAL_S
from projections.top.view import HomeSample, build_view, format_line


class Output(NamedTuple):
    """`show` displays a sample; calls more frequent than every `interval_s` have no effect."""

    show: Callable[[HomeSample], object]
    interval_s: float


@contextmanager
def open_output(
    *,
    full_screen: bool,
    line_interval_s: float,
    write_line: Callable[[str], object],
    signals_max: int | None = None,
) -> Iterator[Output]:
    """Opens a view on the terminal, or, without one, prints a line every `line_interval_s`.

    With `full_screen` the view takes the whole terminal and has at most `signals_max` signals,
    otherwise it takes only the lines it needs. Raises ProjectionError on a terminal if rich is not
    installed.
    """
    if sys.stdout.isatty():
        try:
            from projections.top.terminal import Screen
        except ModuleNotFoundError as error:
            raise _rich_missing_error(error) from None
        screen = Screen(full_screen=full_screen, signals_max=signals_max)
        if screen.can_draw:
            with screen:
                yield Output(lambda sample: screen.show(build_view(sample)), INTERVAL_S)
            return
    written_s = float("-inf")

    def show(sample: HomeSample) -> None:
        nonlocal written_s
        if time.monotonic() - written_s >= line_interval_s:
            written_s = time.monotonic()
            write_line(format_line(sample))

    yield Output(show, line_interval_s)


def _rich_missing_error(error: ModuleNotFoundError) -> ProjectionError:
    return ProjectionError(
        f"the live view needs a package that is not installed: {error.name}",
        do="run `pip install 'signal-eventlog[top]'`, or `pip install '.[top]'` in a checkout;"
        " `eventlog top --once` works without it",
    )
