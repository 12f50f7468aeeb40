"""Where figures are shown: drawn on a terminal, as lines elsewhere.

Invariant: without a terminal rich is not needed, and nothing is written but whole lines.
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
    """`show` figures as often as you like; more often than every `interval_s` is not seen."""

    show: Callable[[HomeSample], object]
    interval_s: float


@contextmanager
def open_output(
    *, full_screen: bool, line_interval_s: float, write_line: Callable[[str], object]
) -> Iterator[Output]:
    """A terminal's screen, the `full_screen` of it or as much as it takes; else a line each `line_interval_s`.

    Raises ProjectionError for a terminal without rich.
    """
    if sys.stdout.isatty():
        try:
            from projections.top.terminal import Screen
        except ModuleNotFoundError as error:
            raise _rich_missing_error(error) from None
        screen = Screen(full_screen=full_screen)
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
        do="install the extra `top` (`pip install '.[top]'` in the checkout); without it there is"
        " `eventlog top --once`",
    )
