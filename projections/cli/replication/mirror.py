"""The command `mirror create`.

Invariant: an existing stream is never changed.
"""

import click

from eventlog.plumbing import (
    REPLICAS_MAX,
    REPLICAS_MIN,
    CommandContext,
    WrongUsage,
    print_line,
    stream_settings,
)


@click.group()
def mirror() -> None:
    """Prepare the stream of a mirror.

    `eventlog project mirror` copies the log to it. EVENTLOG_STREAM names it, and EVENTLOG_NATS_URL
    gives its servers.

    \b
    Example:
      export EVENTLOG_STREAM=main EVENTLOG_NATS_URL=nats://10.0.0.1:4222
      eventlog mirror create
    """


@mirror.command()
@click.option(
    "--replicas",
    metavar="N",
    type=click.IntRange(1, REPLICAS_MAX),
    default=REPLICAS_MIN,
    show_default=True,
    help="How many servers hold each line.",
)
@click.option(
    "--allow-single",
    is_flag=True,
    help=f"Allow fewer than {REPLICAS_MIN} replicas; no line then counts as replicated.",
)
@click.pass_obj
def create(_obj: CommandContext, replicas: int, allow_single: bool) -> None:
    """Create the stream by the rules that a mirror demands.

    A stream of that name that meets the rules is left as it is; another one is an error. With fewer
    than three replicas the loss of a server can lose lines that the stream has acknowledged.

    \b
    Example:
      export EVENTLOG_STREAM=main EVENTLOG_NATS_URL=nats://10.0.0.1:4222,nats://10.0.0.2:4222
      eventlog mirror create
    """
    import asyncio

    from eventlog.plumbing import create_stream

    if replicas < REPLICAS_MIN and not allow_single:
        raise WrongUsage(
            f"--replicas {replicas} cannot survive the loss of a server",
            do=f"use {REPLICAS_MIN} or more, or add --allow-single",
        )
    settings = stream_settings()
    is_new = asyncio.run(create_stream(settings, replicas=replicas))
    done = "created" if is_new else "exists and meets the rules"
    print_line(f"{settings.where}: {done}, replicas {replicas}")
