"""The figures of a home, sampled every two seconds, with ten minutes of rates and lags.

Invariant: a figure is the one that `eventlog status` gives; one that is too old says so.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from eventlog import EventLogError
from eventlog.plumbing import MIRROR, REPLICAS_MIN, log_status, run_in_thread
from projections.delivery.outbox import NAME as ALPINE
from projections.monitoring.drill_record import last_drill
from projections.monitoring.evidence_status import evidence_status
from projections.monitoring.status import projections_status
from projections.run_directory import STOPPED, read_run_state
from projections.runtime.registry import names_in_all
from projections.signals.schema import SQLITE
from projections.web.answers import Redactor
from projections.web.views.checks import checks
from projections.web.views.evidence import evidence_figures
from projections.web.views.live_log import LiveLog
from projections.web.views.log_rows import SHOWN_ROWS
from projections.web.views.verdict import verdict

logger = logging.getLogger(__name__)

SAMPLE_S = 2.0
POINTS_MAX = 300  # ten minutes
STALE_S = 4.5  # a page must know within 5 s that figures are no longer taken

LOG_KEYS = ("segments", "bytes", "last_recorded_at", "chain", "first_seq", "last_seq")
TABLE_KEYS = ("lag_entries", "lag_seconds", "rows", "conflicts", "daemon", "problem")
DELIVERY_KEYS = (
    *("lag_entries", "lag_seconds", "delivered", "parked", "failing", "state", "last_error"),
    *("daemon", "problem"),
)
MIRROR_KEYS = (
    *("stream", "lag_entries", "lag_seconds", "state", "replicas", "replicas_current"),
    *("lost_acked", "last_error", "daemon"),
)
_PROJECTION_KEYS = ("checkpoint", "lag_entries", "lag_seconds", "daemon", "problem")

Json = dict[str, object]


class Sample(NamedTuple):
    """The figures of one time."""

    log: Mapping[str, object]
    projections: Mapping[str, Mapping[str, object]]
    watched: Mapping[str, Mapping[str, object]]  # those of which the verdict speaks
    checks: list[Json]
    findings: int | None  # of the last verify
    evidence: Json | None = None  # what was signed, in a home with `evidence/`


class Vitals:
    """The last sample and the history. `tasks_problem` says which background task has ended."""

    def __init__(self, home: Path, log: LiveLog, redactor: Redactor, *, is_read_only: bool) -> None:
        self._home = home
        self._log = log
        self._redactor = redactor
        self.constants: Json = {
            "read_only": is_read_only,
            "version": version("signal-eventlog"),
        }
        self._sample: Sample | None = None
        self._sampled_s = time.monotonic()
        self._rate: float | None = None
        self._seen: tuple[float, int] | None = None
        self.sample_problem: str | None = None
        self.tasks_problem: Callable[[], str | None] = lambda: None
        self.history: deque[list[float | None]] = deque(maxlen=POINTS_MAX)
        self.number = 0  # of the last sample

    async def keep_sampling(self) -> None:
        """Takes a sample every two seconds, until it is cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(SAMPLE_S)

    async def sample(self) -> None:
        """Takes a sample in a thread."""
        try:
            found = await run_in_thread(lambda: take_sample(self._home, self._redactor))
        except (EventLogError, OSError) as error:
            what = error.what if isinstance(error, EventLogError) else str(error)
            if self.sample_problem is None:
                logger.warning("status_not_read error=%s", error)
            self.sample_problem = self._redactor.text(f"the status cannot be read: {what}")
        else:
            self.sample_problem = None
            self._add(found)
        self.number += 1
        self._sampled_s = time.monotonic()
        self._log.wake()

    def _add(self, found: Sample) -> None:
        now_s, last_seq = time.monotonic(), found.log["last_seq"]
        assert isinstance(last_seq, int)
        if self._seen is not None and now_s > self._seen[0]:
            self._rate = max(0, last_seq - self._seen[1]) / (now_s - self._seen[0])
        self._seen, self._sample = (now_s, last_seq), found
        lags = (_seconds(found.projections.get(name, {})) for name in (SQLITE, ALPINE))
        rate = None if self._rate is None else round(self._rate, 2)
        self.history.append([round(time.time(), 1), rate, *lags])

    def problem(self) -> str | None:
        """The reason why the figures or the rows are not current; None where they are."""
        age_s = time.monotonic() - self._sampled_s
        found = self.tasks_problem() or self._log.problem or self.sample_problem
        if found is None and age_s > STALE_S:
            found = f"the status is {age_s:.0f} s old: reading it takes too long"
        return None if found is None else self._redactor.text(found)

    def whole(self) -> Json:
        """The object of /api/status."""
        rows = list(self._log.rows)[-SHOWN_ROWS:][::-1]
        return {**self._figures(), "history": list(self.history), "latest": rows}

    def point(self) -> Json:
        """The same for a stream: the newest point of the history, and no rows."""
        return {**self._figures(), "point": self.history[-1] if self.history else None}

    def _figures(self) -> Json:
        found = self._sample or Sample({}, {}, {}, [], None)
        problem = self.problem()
        table, delivery = found.projections.get(SQLITE, {}), found.projections.get(ALPINE)
        return {
            "as_of": {
                "seq": found.log.get("last_seq", 0),
                "recorded_at": found.log.get("last_recorded_at"),
                "live": True,
            },
            "problem": problem,  # a page calls itself live only without one
            "verdict": verdict(
                found.watched, problem=problem, findings=found.findings, evidence=found.evidence
            ),
            "log": {
                "entries": found.log.get("last_seq"),
                "signals": self._signals(found),
                **{key: found.log.get(key) for key in LOG_KEYS},
            },
            "rate": self._rate,
            "table": {key: table.get(key) for key in TABLE_KEYS},
            "delivery": None
            if delivery is None
            else {key: delivery.get(key) for key in DELIVERY_KEYS},
            "mirror": mirror_figures(found.projections.get(MIRROR)),
            "evidence": found.evidence,
            "projections": [
                {"name": name, **{key: figures.get(key) for key in _PROJECTION_KEYS}}
                for name, figures in found.projections.items()
            ],
            "checks": found.checks,
            **self.constants,
        }

    def _signals(self, found: Sample) -> object:
        """As in `eventlog status`: counted, or the rows of a table that is up to date."""
        table = found.projections.get(SQLITE, {})
        if self._log.signals is not None:
            return self._log.signals
        return table.get("rows") if table.get("lag_entries") == 0 else None


def take_sample(home: Path, redactor: Redactor) -> Sample:
    """Reads the figures. Raises EventLogError, OSError."""
    log = log_status(os.fspath(home), count=False)
    projections = {
        name: _redacted(figures, redactor) for name, figures in projections_status(home).items()
    }
    watched = _watched(home, projections)
    evidence = evidence_status(home)
    found, findings = checks(home, log, watched, last_drill(home), evidence)
    figures = evidence_figures(evidence, redactor)
    return Sample(log, projections, watched, found, findings, figures)


def _watched(
    home: Path, projections: Mapping[str, Mapping[str, object]]
) -> dict[str, Mapping[str, object]]:
    """The projections that `project all` runs in this home, and any other that runs or has failed.

    A mirror is among the figures only where one was started.
    """
    in_all = names_in_all(home, has_stream=True)
    return {
        name: figures
        for name, figures in projections.items()
        if name in in_all or read_run_state(home, name).state != STOPPED
    }


def _redacted(figures: Mapping[str, object], redactor: Redactor) -> Json:
    found = {
        key: redactor.text(value) if isinstance(value, str) else value
        for key, value in figures.items()
    }
    daemon = found.get("daemon")
    if isinstance(daemon, Mapping):
        found["daemon"] = _redacted(daemon, redactor)
    return found


def mirror_figures(figures: Mapping[str, object] | None) -> Json | None:
    """The figures of the mirror; None in a home where none was ever started."""
    if figures is None:
        return None
    replicas = figures.get("replicas")
    return {
        **{key: figures.get(key) for key in MIRROR_KEYS},
        "is_replicated": isinstance(replicas, int) and replicas >= REPLICAS_MIN,
    }


def _seconds(figures: Mapping[str, object]) -> float | None:
    found = figures.get("lag_seconds")
    return found if isinstance(found, float) else None
