"""The command `top`: a live view of a home, for people who would rather look than read.

What a command needs is imported when it runs, so that `eventlog --help` stays fast.

Invariant: the view goes to stdout, and Ctrl-C or SIGTERM leaves the terminal as it was.
"""

import logging
import signal
import time
from pathlib import Path

import click

from projections.cli.common import GlobalOptions

LINE_S = 5.0  # between two lines where there is no terminal: a file of them stays readable


@click.command()
@click.option("--once", is_flag=True, help="Show it once, as plain text, and end.")
@click.pass_obj
def top(obj: GlobalOptions, once: bool) -> None:
    """Watch a home live: the log's rate, each projection's lag, and the last signals.

    On a terminal it is drawn anew twice a second; elsewhere it is a line every five seconds. It
    reads from outside, beside whatever runs, and changes nothing. Ctrl-C ends it. For machines
    there are `eventlog status --json` and `eventlog signals --json`.

    \b
    Example:
      eventlog top
      eventlog top --once
    """
    from projections.top.output import open_output
    from projections.top.sampler import INTERVAL_S, Sampler, StopRequest, pause_s
    from projections.top.view import build_view, format_page

    stop, sampler = StopRequest(), Sampler(Path(obj.home))
    sample = sampler.sample()  # says what is wrong with the home before a screen is taken
    if once:
        if stop.sleep(INTERVAL_S):  # a rate takes two looks
            click.echo(format_page(build_view(sampler.sample())))
    else:
        with open_output(full_screen=True, line_interval_s=LINE_S, write_line=click.echo) as output:
            if output.interval_s == INTERVAL_S:
                logging.disable()  # a warning would be written into the view, which has it anyway
            took_s = 0.0
            output.show(sample)
            while stop.sleep(pause_s(took_s, output.interval_s)):
                started_s = time.monotonic()
                output.show(sampler.sample())
                took_s = time.monotonic() - started_s
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt  # the exit code is then that of every command
