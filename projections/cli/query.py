"""The commands that only read: status, wait, digest.

Invariant: they change nothing.
"""

import sys
from pathlib import Path

import click

from eventlog.plumbing import (
    EXIT_PROBLEM,
    JSON_OPTION,
    SECONDS,
    CommandContext,
    bad_news,
    figure_text,
    print_line,
    print_note,
    print_problem,
)
from projections.cli.common import print_json


@click.command()
@JSON_OPTION
@click.pass_obj
def status(obj: CommandContext, as_json: bool) -> None:
    """Show the size of the log and the lag of each projection.

    `lag_entries` is the number of entries not applied yet; `lag_seconds` is the age of the oldest
    of them. Both are measured against the real end of the log, whether a daemon runs or not.
    `backup` describes the last backup that passed `eventlog backup --verify`, and how long ago
    that was; `evidence` what was signed, and when.

    \b
    Example:
      eventlog status
      eventlog status --json | jq .projections.sqlite.lag_entries
    """
    from projections.monitoring.status import status as read_status

    found = read_status(obj.home)
    if as_json:
        print_json(found)
        return
    backup = found["backup"] or {"proven_seq": None}
    replica = {"replica": found["replica"]} if "replica" in found else {}
    evidence = found["evidence"] or {"size": None}
    sections = {
        "log": found["log"],
        **replica,
        **_as_dict(found["projections"]),
        "evidence": evidence,
        "backup": backup,
    }
    for name, figures in sections.items():
        print_line(f"{name}:")
        for key, value in _as_dict(figures).items():
            text = _daemon_text(_as_dict(value)) if key == "daemon" else figure_text(key, value)
            shown = bad_news(text) if _is_bad_news(key, value) else text
            print_line(f"  {key.removesuffix('_seconds'):<18} {shown}")


# Of delivery and of the mirror.
_BAD_STATES = ("refused", "rejecting", "waiting", "unfit", "fenced", "short")


def _is_bad_news(key: str, value: object) -> bool:
    """Whether a figure reports a failure or an outage."""
    match key:
        case "daemon":
            return _as_dict(value)["state"] == "failed"
        case "state":
            return value in _BAD_STATES
        case "failing" | "lost_acked" | "is_restored":
            return bool(value)
    return key == "problem"


def _daemon_text(daemon: dict[str, object]) -> str:
    """The state of the daemon that runs a projection, as text."""
    process = None if daemon["pid"] is None else f"process {daemon['pid']}, since {daemon['since']}"
    details = "; ".join(str(part) for part in (process, daemon["reason"]) if part is not None)
    return f"{daemon['state']} ({details})" if details else str(daemon["state"])


@click.command()
@click.argument("seq", type=click.IntRange(min=0))
@click.option(
    "--for",
    "stage",
    type=click.Choice(["projected", "delivered", "replicated"]),
    default="projected",
    show_default=True,
    help="projected: in the signals table; delivered: at Alpine; replicated: on most servers of "
    "the stream.",
)
@click.option(
    "--timeout", "timeout_s", type=SECONDS, help="Give up after this time. Default: wait for ever."
)
@JSON_OPTION
@click.pass_obj
def wait(obj: CommandContext, seq: int, stage: str, timeout_s: float | None, as_json: bool) -> None:
    """Wait until entry SEQ is projected, delivered or replicated.

    Where the log ends before SEQ, no daemon runs, or its projection has failed, a message on stderr
    says so at once, and the command goes on waiting. Exit code 1 if the time is over first, if the
    signal is parked, or if the stream has too few replicas for an entry to count as replicated.
    --json prints an object with `seq`, `for`, `result` (`reached`, `timeout`, `parked` or `single`)
    and `problem`.

    \b
    Example:
      eventlog wait 42 --for projected --timeout 5
      eventlog wait 42 --for delivered
      eventlog wait 42 --for replicated --timeout 5
    """
    from eventlog import NotReplicated, WaitTimeout
    from eventlog.plumbing import require_home
    from projections.queries.wait import SignalParked

    require_home(obj.home)  # without a log, no entry would ever arrive
    results = {WaitTimeout: "timeout", SignalParked: "parked", NotReplicated: "single"}
    home, result, problem = Path(obj.home), "reached", None
    try:
        _wait(home, seq, stage, timeout_s)
    except (WaitTimeout, SignalParked, NotReplicated) as error:
        result, problem = results[type(error)], str(error)
        print_problem(problem)
    if as_json:
        print_json({"seq": seq, "for": stage, "result": result, "problem": problem})
    if problem is not None:
        sys.exit(EXIT_PROBLEM)


def _wait(home: Path, seq: int, stage: str, timeout_s: float | None) -> None:
    """Waits. If the entry has not arrived yet, it first prints what keeps it from arriving."""
    import asyncio

    from eventlog.plumbing import run_in_thread
    from projections.queries.wait import obstacles, stage_check, wait_async

    async def run() -> None:
        if not await run_in_thread(stage_check(home, seq, stage)):
            for obstacle in await run_in_thread(lambda: obstacles(home, seq, stage)):
                print_note(f"waiting: {obstacle}")
            await wait_async(home, seq, stage, timeout_s)

    asyncio.run(run())


@click.command()
@JSON_OPTION
@click.pass_obj
def digest(obj: CommandContext, as_json: bool) -> None:
    """Print the SHA-256 of the signals table.

    Equal tables have equal digests, on any machine. The hash is taken over the rows in id order,
    each encoded as one line of compact JSON.

    \b
    Example:
      test "$(eventlog digest --home a)" = "$(eventlog digest --home b)"
      eventlog digest --json | jq -r .digest
    """
    from eventlog.plumbing import require_home
    from projections.rebuild.rebuild import digest_of

    require_home(obj.home)
    found = digest_of(Path(obj.home))
    if as_json:
        print_json({"digest": found})
    else:
        print_line(found)


def _as_dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict), "status returns nested objects"
    return value
