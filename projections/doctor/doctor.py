"""Runs the checks of `eventlog doctor` on a home, from one table.

Invariant: a check that fails to run becomes a finding, and the other checks still run.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from eventlog import EventLogError, ForeignHome, LogNotFound
from eventlog.plumbing import StreamSettings, log_status
from projections.delivery.projection import AlpineConfig
from projections.doctor.alpine import check_alpine
from projections.doctor.daemon import check_daemon
from projections.doctor.evidence import check_evidence
from projections.doctor.finding import PROBLEM, WARNING, DoctorFinding
from projections.doctor.home import (
    check_file_system,
    check_log,
    check_permissions,
    check_space,
    check_sync,
    directories,
)
from projections.doctor.machine import check_clock, check_inotify, check_python, check_sqlite
from projections.doctor.stream import check_stream
from projections.doctor.table import check_table


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorContext:
    """The inputs of the checks."""

    home: Path
    log: Mapping[str, object] | None  # the `log` object of status; None without a log
    alpine: AlpineConfig
    now: datetime
    stream: Callable[[], StreamSettings] | None = None  # None: no stream is named


CHECKS: Mapping[str, Callable[[DoctorContext], Iterable[DoctorFinding]]] = MappingProxyType(
    {
        "python": lambda _: check_python(),
        "sqlite": lambda _: check_sqlite(),
        "log": lambda context: check_log(context.log),
        "table": lambda context: check_table(context.home),
        "daemon": lambda context: check_daemon(context.home, has_stream=context.stream is not None),
        "file system": lambda context: check_file_system(context.home),
        "sync": lambda context: check_sync(context.home),
        "inotify": lambda context: check_inotify(directories(context.home)["logs/"]),
        "permissions": lambda context: check_permissions(context.home),
        "clock": lambda context: check_clock(context.now, _last_recorded_at(context)),
        "space": lambda context: check_space(context.home),
        "alpine": lambda context: asyncio.run(check_alpine(context.alpine)),
        "evidence": lambda context: check_evidence(context.home) if context.log else (),
        "stream": lambda context: (
            check_stream(context.stream(), context.home) if context.stream else ()
        ),
    }
)


def examine_home(
    home: Path,
    alpine: AlpineConfig,
    *,
    now: datetime,
    stream: Callable[[], StreamSettings] | None = None,
) -> Iterator[DoctorFinding]:
    """Yields the findings of all checks. Raises ForeignHome for a home of the old tracker.

    `stream` returns the settings of the stream, or raises EventLogError; without it, nothing is
    mirrored or followed.
    """
    log, done = None, set[str]()
    try:
        log = log_status(os.fspath(home), count=False)
    except LogNotFound:
        pass
    except ForeignHome:
        raise
    except EventLogError as error:
        yield _finding_from_error("log", PROBLEM, error)
        done.add("log")
    except OSError as error:
        yield _unreadable_finding("log", PROBLEM, error)
        done.add("log")
    context = DoctorContext(home=home.absolute(), log=log, alpine=alpine, now=now, stream=stream)
    for name, check in CHECKS.items():
        if name in done:
            continue
        try:
            yield from check(context)
        except OSError as error:
            yield _unreadable_finding(name, WARNING, error)
        except EventLogError as error:
            yield _finding_from_error(name, PROBLEM, error)


def _finding_from_error(check: str, level: str, error: EventLogError) -> DoctorFinding:
    found = f"{error.what} ({error.where})" if error.where else error.what
    return DoctorFinding(
        check=check, level=level, found=found, do=error.do or "see `eventlog verify`"
    )


def _unreadable_finding(check: str, level: str, error: OSError) -> DoctorFinding:
    found = f"cannot be checked: {error.strerror} {error.filename or ''}".rstrip()
    do = "run doctor under the account that appends"
    return DoctorFinding(check=check, level=level, found=found, do=do)


def _last_recorded_at(context: DoctorContext) -> str | None:
    last = (context.log or {}).get("last_recorded_at")
    return last if isinstance(last, str) else None
