"""The check of the daemons of a home: which projections run, and which have failed.

Invariant: nothing is changed or created.
"""

from collections.abc import Iterator
from pathlib import Path

from projections.doctor.finding import NOTE, OK, PROBLEM, DoctorFinding
from projections.run_directory import FAILED, RUNNING, UNKNOWN, RunState, read_run_state
from projections.runtime.registry import names_in_all, projection_names

START = "start `eventlog project all`, or the unit eventlog-project@ of tools/ops for this home"


def check_daemon(home: Path, *, has_stream: bool) -> Iterator[DoctorFinding]:
    """Reports each projection that has failed, whether any runs, and which of `all` do not."""
    states = {name: read_run_state(home, name) for name in projection_names()}
    for name, state in states.items():
        if state.state == FAILED:
            yield DoctorFinding(
                check="daemon",
                level=PROBLEM,
                found=f"{name} has failed since {state.since}: {state.reason}",
                do="remove the cause: the daemon restarts it by itself, within five minutes",
            )
    running = {name: state for name, state in states.items() if state.state == RUNNING}
    in_all = names_in_all(home, has_stream=has_stream)
    stopped = [name for name in in_all if states[name].state not in (RUNNING, FAILED)]
    if running:
        yield DoctorFinding(check="daemon", level=OK, found=_running_text(running))
    if any(state.state == UNKNOWN for state in states.values()):
        yield DoctorFinding(
            check="daemon",
            level=NOTE,
            found="this account cannot see whether a daemon runs for this home",
            do="run doctor under the account of the daemons",
        )
    elif not any(state.state in (RUNNING, FAILED) for state in states.values()):
        found = "no daemon runs for this home, or it waits for the first entry"
        yield DoctorFinding(check="daemon", level=NOTE, found=found, do=START)
    elif stopped:
        found = f"no daemon runs {', '.join(stopped)} for this home"
        yield DoctorFinding(check="daemon", level=NOTE, found=found, do=START)


def _running_text(running: dict[str, RunState]) -> str:
    texts = [
        f"{name} (process {state.pid}, since {state.since})" if state.pid is not None else name
        for name, state in running.items()
    ]
    return f"a daemon runs {', '.join(texts)}"
