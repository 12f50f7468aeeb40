"""`doctor`: what could keep a home from holding its promises on this machine. A table of checks.

Invariant: a check that cannot look is a finding itself; none keeps the others from being made.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from eventlog import EventLogError, ForeignHome, LogNotFound
from eventlog.plumbing import log_status
from projections.delivery.projection import AlpineConfig
from projections.doctor.alpine import check_alpine
from projections.doctor.finding import PROBLEM, WARNING, Finding
from projections.doctor.home import (
    check_file_system,
    check_log,
    check_permissions,
    check_space,
    check_sync,
    check_table,
    directories,
)
from projections.doctor.machine import check_clock, check_inotify, check_python, check_sqlite


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is examined."""

    home: Path
    log: Mapping[str, object] | None  # the `log` object of status; None where there is none
    alpine: AlpineConfig
    now: datetime


CHECKS: Mapping[str, Callable[[Patient], Iterable[Finding]]] = MappingProxyType(
    {
        "python": lambda _: check_python(),
        "sqlite": lambda _: check_sqlite(),
        "log": lambda patient: check_log(patient.log),
        "table": lambda patient: check_table(patient.home),
        "file system": lambda patient: check_file_system(patient.home),
        "sync": lambda patient: check_sync(patient.home),
        "inotify": lambda patient: check_inotify(directories(patient.home)["logs/"]),
        "permissions": lambda patient: check_permissions(patient.home),
        "clock": lambda patient: check_clock(patient.now, _last_recorded_at(patient)),
        "space": lambda patient: check_space(patient.home),
        "alpine": lambda patient: asyncio.run(check_alpine(patient.alpine)),
    }
)


def examine_home(home: Path, alpine: AlpineConfig, *, now: datetime) -> Iterator[Finding]:
    """The findings of all checks, as they are made. Raises ForeignHome for an old tracker's."""
    log, done = None, set[str]()
    try:
        log = log_status(os.fspath(home), count=False)
    except LogNotFound:
        pass
    except ForeignHome:
        raise
    except EventLogError as error:
        yield _told("log", PROBLEM, error)
        done.add("log")
    except OSError as error:
        yield _not_looked_at("log", PROBLEM, error)
        done.add("log")
    patient = Patient(home=home.absolute(), log=log, alpine=alpine, now=now)
    for name, check in CHECKS.items():
        if name in done:
            continue
        try:
            yield from check(patient)
        except OSError as error:
            yield _not_looked_at(name, WARNING, error)
        except EventLogError as error:
            yield _told(name, PROBLEM, error)


def _told(check: str, level: str, error: EventLogError) -> Finding:
    found = f"{error.what} ({error.where})" if error.where else error.what
    return Finding(check=check, level=level, found=found, do=error.do or "see `eventlog verify`")


def _not_looked_at(check: str, level: str, error: OSError) -> Finding:
    found = f"cannot be looked at: {error.strerror} {error.filename or ''}".rstrip()
    return Finding(check=check, level=level, found=found, do="run it as the account that appends")


def _last_recorded_at(patient: Patient) -> str | None:
    last = (patient.log or {}).get("last_recorded_at")
    return last if isinstance(last, str) else None
