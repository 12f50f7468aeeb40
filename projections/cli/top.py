"""The command `top`: a live view of a home.

Invariant: the view goes to stdout, and Ctrl-C or SIGTERM leaves the terminal as it was.
"""

import logging
import signal
import time
from pathlib import Path

import click

from eventlog.plumbing import CommandContext, print_line, print_lines

LINE_INTERVAL_S = 5.0  # without a terminal: a file of such lines stays short enough to read


@click.command()
@click.option("--once", is_flag=True, help="Print the view once, as plain text, then exit.")
@click.pass_obj
def top(obj: CommandContext, once: bool) -> None:
    """Show a live view of the home.

    The view has the append rate of the log, the lag of each projection, and the newest signals with
    their outcomes. On a terminal it is redrawn twice a second (this needs the extra `top`);
    elsewhere one line is printed every five seconds. It only reads, and needs no daemon. Ctrl-C
    ends it. For scripts, use `eventlog status --json` and `eventlog signals --json`.

    \b
    Example:
      eventlog top
      eventlog top --once
    """
    from projections.top.output import open_output
    from projections.top.sampler import INTERVAL_S, Sampler, StopRequest, pause_s
    from projections.top.view import build_view, format_page

    stop, sampler = StopRequest(), Sampler(Path(obj.home))
    sample = stop.sample(sampler)  # a home without a log is reported before the screen is cleared
    if once:
        if stop.sleep(INTERVAL_S) and (sample := stop.sample(sampler)):  # a rate needs two samples
            print_line(format_page(build_view(sample)))
    elif sample:
        with open_output(
            full_screen=True,
            line_interval_s=LINE_INTERVAL_S,
            write_line=lambda line: print_lines([line]),
        ) as output:
            if output.interval_s == INTERVAL_S:
                logging.disable()  # a warning would overwrite the view, which shows it anyway
            took_s = 0.0
            output.show(sample)
            while stop.sleep(pause_s(took_s, output.interval_s)):
                started_s = time.monotonic()
                if sample := stop.sample(sampler):
                    output.show(sample)
                took_s = time.monotonic() - started_s
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt  # gives the exit code of an interrupted command
