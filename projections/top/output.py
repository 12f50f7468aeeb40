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
from projections.top.view import Figures, line_of, view_of


class Surface(NamedTuple):
    """`show` figures as often as you like; more often than every `interval_s` is not seen."""

    show: Callable[[Figures], object]
    interval_s: float


@contextmanager
def surface(*, whole: bool, line_s: float, say: Callable[[str], object]) -> Iterator[Surface]:
    """A terminal's screen, the `whole` of it or as much as it takes; else a line each `line_s`.

    Raises ProjectionError for a terminal without rich.
    """
    if sys.stdout.isatty():
        try:
            from projections.top.terminal import Screen
        except ModuleNotFoundError as error:
            raise _no_rich(error) from None
        screen = Screen(whole=whole)
        if screen.can_draw:
            with screen:
                yield Surface(lambda figures: screen.show(view_of(figures)), INTERVAL_S)
            return
    said_s = float("-inf")

    def show(figures: Figures) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= line_s:
            said_s = time.monotonic()
            say(line_of(figures))

    yield Surface(show, line_s)


def _no_rich(error: ModuleNotFoundError) -> ProjectionError:
    return ProjectionError(
        f"the live view needs a package that is not installed: {error.name}",
        do="install the extra `top` (`pip install '.[top]'` in the checkout); without it there is"
        " `eventlog top --once`",
    )
