"""The command `top`: a live view of a home.

Invariant: the view goes to stdout, and Ctrl-C or SIGTERM leaves the terminal as it was.
"""

import logging
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eventlog.plumbing import CommandContext, print_line, print_lines

if TYPE_CHECKING:
    from projections.top.view import View

LINES_WITHOUT_TERMINAL = 24  # of `--once`, as on the usual terminal
LINE_INTERVAL_S = 5.0  # without a terminal: a file of such lines stays short enough to read


@click.command()
@click.option("--once", is_flag=True, help="Print the view once, as plain text, then exit.")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    help="At most N signals. Default: as many as fit the terminal.",
)
@click.pass_obj
def top(obj: CommandContext, once: bool, limit: int | None) -> None:
    """Show a live view of the home.

    The view has the append rate of the log, the lag of each projection, and the newest signals with
    their outcomes. On a terminal it is redrawn twice a second (this needs the extra `top`);
    elsewhere one line is printed every five seconds. It only reads, and needs no daemon. `q` and
    Ctrl-C end it. With --once and no terminal, the view has 24 lines unless --limit is given. For
    scripts, use `eventlog status --json` and `eventlog signals --json`.

    \b
    Example:
      eventlog top
      eventlog top --once --limit 50
    """
    from projections.top.keys import open_keys
    from projections.top.output import open_output
    from projections.top.sampler import INTERVAL_S, Sampler, StopRequest, pause_s
    from projections.top.view import build_view, format_page

    stop, sampler = StopRequest(), Sampler(Path(obj.home))
    sample = stop.sample(sampler)  # a home without a log is reported before the screen is cleared
    if once:
        if stop.sleep(INTERVAL_S) and (sample := stop.sample(sampler)):  # a rate needs two samples
            print_line(format_page(_fitted(build_view(sample), limit)))
    elif sample:
        with (
            open_keys() as keys,
            open_output(
                full_screen=True,
                line_interval_s=LINE_INTERVAL_S,
                write_line=lambda line: print_lines([line]),
                signals_max=limit,
            ) as output,
        ):
            if output.interval_s == INTERVAL_S:
                logging.disable()  # a warning would overwrite the view, which shows it anyway
            took_s = 0.0
            output.show(sample)
            while stop.sleep(pause_s(took_s, output.interval_s), keys):
                started_s = time.monotonic()
                if sample := stop.sample(sampler):
                    output.show(sample)
                took_s = time.monotonic() - started_s
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt  # gives the exit code of an interrupted command


def _fitted(view: "View", limit: int | None) -> "View":
    """The view with at most `limit` signals, or without a limit as many as fit the terminal."""
    from projections.top.view import fit_to_height, fit_to_width

    size = shutil.get_terminal_size(fallback=(0, LINES_WITHOUT_TERMINAL))
    if size.columns:
        view = view._replace(signals=fit_to_width(view.signals, size.columns))
    if limit is not None:
        return view._replace(signals=view.signals._replace(rows=view.signals.rows[:limit]))
    return fit_to_height(view, size.lines - 1)  # the last line is for the prompt
