"""The commands that print the log: cat, tail.

Invariant: `cat` and `tail --json` print the stored lines byte for byte.
"""

import signal

import click

from eventlog.cli.command import CommandContext
from eventlog.cli.streams import print_lines, write_stdout
from eventlog.errors import printable_value
from eventlog.figures import time_text
from eventlog.format.line import Entry


@click.command()
@click.option(
    "--after",
    metavar="SEQ",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Start with the entry after SEQ.",
)
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=0), help="At most N lines. Default: all."
)
@click.pass_obj
def cat(obj: CommandContext, after: int, limit: int | None) -> None:
    """Print the lines of the log as they are stored.

    \b
    Example:
      eventlog cat --after 100 --limit 10 | jq -r .symbol
    """
    from eventlog.read.inspect import raw_lines

    for lines in raw_lines(obj.home, after=after, limit=limit):
        write_stdout(b"".join(lines))


@click.command()
@click.option(
    "-n",
    "--lines",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Number of entries.",
)
@click.option("-f", "--follow", is_flag=True, help="Then print new entries, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the stored lines, not a summary.")
@click.pass_obj
def tail(obj: CommandContext, lines: int, follow: bool, as_json: bool) -> None:
    """Print the newest entries, and new ones with -f.

    \b
    Example:
      eventlog tail -n 3
      eventlog tail -f --json | jq .confidence
    """
    from eventlog.format.line import decode
    from eventlog.read.inspect import end_seq, raw_lines, tail_raw_lines

    def show(found: list[bytes]) -> None:
        if as_json:
            write_stdout(b"".join(found))
        else:
            print_lines(entry_line(decode(line)) for line in found)

    if follow:  # before the first line is printed, after which a reader may send a signal
        # In the background of a script SIGINT is ignored, and asyncio would leave it so.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    end = end_seq(obj.home)
    for found in raw_lines(obj.home, after=max(0, end - lines)):
        show(found)
        end = decode(found[-1]).seq
    if follow:
        tail_raw_lines(obj.home, end, show)


_FACT_KEYS_MAX = 6  # further keys are left out; `--json` shows all


def entry_line(entry: Entry) -> str:
    """`42  2025-11-18T02:00:00.123+00:00  signal    AAPL BUY 150.5 ...`, without a newline."""
    when = time_text(entry.recorded_at, places=3)
    return f"{entry.seq:>8}  {when}  {printable_value(entry.event):<9}  {_details(entry)}"


def _details(entry: Entry) -> str:
    def text(name: str) -> str:
        return printable_value(entry.payload.get(name))

    signal_id = printable_value(entry.payload.get("signal_id", "-"))
    if entry.event == "signal":
        return (
            f"{text('symbol')} {text('action')} at {text('entry_price')}"
            f" target {text('target_price')} stop {text('stop_price')}"
            f" confidence {text('confidence')} {text('strategy')}  {signal_id}"
        )
    pairs = [(key, value) for key, value in entry.payload.items() if key != "signal_id"]
    details = " ".join(
        f"{printable_value(key)}={printable_value(value)}" for key, value in pairs[:_FACT_KEYS_MAX]
    )
    return f"{details}  {signal_id}" if details else signal_id
