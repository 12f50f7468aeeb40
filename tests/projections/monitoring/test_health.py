"""Health over time: a condition is reported once it has persisted, by a monotonic clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.errors import ProjectionError
from projections.monitoring.health import DEGRADED, LOG_ENDS_MAX, OK, UNHEALTHY, Health
from projections.monitoring.snapshot import (
    DeliverySnapshot,
    LogSnapshot,
    MirrorSnapshot,
    ProjectionSnapshot,
    Snapshot,
)
from projections.projection import RequestCounters
from projections.runtime.projector import BatchCounters
from projections.runtime.supervisor import Failure

AFTER_S = 60.0


def a_projection(checkpoint: int | None, **changes: object) -> ProjectionSnapshot:
    known: dict[str, object] = {
        "name": "sqlite",
        "checkpoint": checkpoint,
        "lag_entries": None,
        "lag_seconds": None,
        "is_watched": True,
        "stalled": None,
        "is_external": False,
        "is_stopping": False,
        "failure": None,
        "counters": BatchCounters(),
        "delivery": None,
    }
    return ProjectionSnapshot(**{**known, **changes})  # type: ignore[arg-type]  # the test names its fields


def alpine(state: str, checkpoint: int = 0) -> ProjectionSnapshot:
    delivery = DeliverySnapshot(
        delivered=0, refused=0, failing=0, state=state, requests=RequestCounters()
    )
    return a_projection(checkpoint, name="alpine", is_external=True, delivery=delivery)


def a_snapshot(
    last_seq: int, *projections: ProjectionSnapshot, last_kept: int | None = None
) -> Snapshot:
    kept = last_seq if last_kept is None else last_kept
    log = LogSnapshot(last_seq=last_seq, last_kept=kept, bytes=0, segments=1)
    return Snapshot(log=log, problem=None, projections=projections)


class HealthScenario:
    """Evaluates snapshots that are some seconds apart."""

    def __init__(self) -> None:
        self._health = Health(AFTER_S)
        self.now_s = 1_000.0

    def evaluate(self, after_s: float, snapshot: Snapshot) -> str:
        self.now_s += after_s
        result = self._health.evaluate(snapshot, now_s=self.now_s)
        self.reasons = " | ".join(result.reasons)
        return result.status


def test_an_end_of_the_log_that_was_accepted_as_lost_is_not_waited_for() -> None:
    scenario = HealthScenario()
    for _ in range(2):
        assert scenario.evaluate(AFTER_S, a_snapshot(9, a_projection(5), last_kept=5)) == OK


def test_a_projection_that_stays_behind_the_end_is_unhealthy_after_a_while() -> None:
    scenario = HealthScenario()
    assert scenario.evaluate(0, a_snapshot(5, a_projection(5))) == OK
    assert scenario.evaluate(5, a_snapshot(9, a_projection(5))) == OK
    assert (
        scenario.evaluate(AFTER_S - 1, a_snapshot(12, a_projection(5, stalled="disk full"))) == OK
    )
    assert scenario.evaluate(1, a_snapshot(12, a_projection(5, stalled="disk full"))) == UNHEALTHY
    assert scenario.reasons == (
        "sqlite is behind the end of the log by 7 entries (disk full), for 60 s"
    )
    assert scenario.evaluate(1, a_snapshot(13, a_projection(12))) == OK


def test_a_projection_that_keeps_up_with_load_is_healthy_although_slightly_behind() -> None:
    scenario = HealthScenario()
    for number in range(100):
        assert (
            scenario.evaluate(5, a_snapshot(100 * number, a_projection(max(0, 100 * number - 150))))
            == OK
        )


def test_a_lag_beyond_the_limit_does_not_flap() -> None:
    """The checkpoint advances, but stays 90 s behind."""
    scenario = HealthScenario()
    snapshots = (
        a_snapshot(10 * number, a_projection(max(0, 10 * (number - 18)))) for number in range(100)
    )
    statuses = [scenario.evaluate(5, snapshot) for snapshot in snapshots]
    first = statuses.index(UNHEALTHY)
    assert set(statuses[first:]) == {UNHEALTHY}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=60))
def test_it_is_always_unhealthy_if_the_end_of_a_minute_ago_is_not_reached(
    steps: list[tuple[int, int]],
) -> None:
    scenario = HealthScenario()
    last_seq = checkpoint = 0
    ends: list[tuple[float, int]] = []
    for appended, applied in steps:
        last_seq += appended
        checkpoint = min(last_seq, checkpoint + applied)
        status = scenario.evaluate(7, a_snapshot(last_seq, a_projection(checkpoint)))
        ends.append((scenario.now_s, last_seq))
        is_late = any(seq > checkpoint and scenario.now_s - at_s >= AFTER_S for at_s, seq in ends)
        assert (status == UNHEALTHY) == is_late


def test_the_memory_of_a_long_outage_is_bounded_and_it_stays_unhealthy() -> None:
    scenario = HealthScenario()
    statuses = [
        scenario.evaluate(5, a_snapshot(1 + n, a_projection(0))) for n in range(5 * LOG_ENDS_MAX)
    ]
    assert set(statuses[int(AFTER_S / 5) :]) == {UNHEALTHY}
    assert len(scenario._health._log_ends["sqlite"]) <= LOG_ENDS_MAX
    assert scenario.evaluate(5, a_snapshot(5 * LOG_ENDS_MAX, a_projection(5 * LOG_ENDS_MAX))) == OK


def test_a_dead_file_watch_is_unhealthy_after_a_while_and_healthy_once_it_works() -> None:
    scenario = HealthScenario()
    dead = a_snapshot(1, a_projection(1, is_watched=False))
    assert scenario.evaluate(0, dead) == OK
    assert scenario.evaluate(AFTER_S, dead) == UNHEALTHY
    assert "sqlite gets no file events" in scenario.reasons
    assert scenario.evaluate(1, a_snapshot(1, a_projection(1))) == OK
    assert scenario.evaluate(1, dead) == OK  # its duration starts again


def test_a_projection_that_is_not_open_is_unhealthy_after_a_while() -> None:
    scenario = HealthScenario()
    closed = a_snapshot(1, a_projection(None, stalled="database is locked"))
    assert scenario.evaluate(0, closed) == OK
    assert scenario.evaluate(AFTER_S, closed) == UNHEALTHY
    assert "sqlite is not open (database is locked)" in scenario.reasons


def failure(reason: str, *, is_foreign: bool = True) -> Failure:
    error = ProjectionError(reason)
    return Failure(error=error, reason=reason, kind="ValueError", is_foreign=is_foreign)


def test_a_failed_projection_is_degraded_at_once_and_unhealthy_only_if_none_runs() -> None:
    scenario = HealthScenario()
    failed = a_projection(1, failure=failure("it cannot go on"))
    other = a_projection(9, name="other")
    assert scenario.evaluate(0, a_snapshot(9, failed, other)) == DEGRADED
    assert scenario.reasons == "sqlite has failed (it cannot go on)"
    # It is neither open nor up to date, and no restart of the process would help.
    closed = a_projection(None, failure=failure("it cannot go on"), is_watched=False)
    assert scenario.evaluate(AFTER_S, a_snapshot(20, closed, a_projection(20, name="other"))) == (
        DEGRADED
    )
    assert scenario.reasons == "sqlite has failed (it cannot go on)"
    assert scenario.evaluate(0, a_snapshot(20, closed)) == UNHEALTHY
    assert scenario.reasons.startswith("no projection runs | ")
    assert scenario.evaluate(0, a_snapshot(20, a_projection(20), other)) == OK


def test_a_lag_begins_anew_when_a_failed_projection_runs_again() -> None:
    scenario = HealthScenario()
    other = a_projection(9, name="other")
    scenario.evaluate(0, a_snapshot(9, a_projection(1), other))
    scenario.evaluate(AFTER_S, a_snapshot(9, a_projection(1, failure=failure("x")), other))
    assert scenario.evaluate(1, a_snapshot(9, a_projection(2), other)) == OK
    assert scenario.evaluate(AFTER_S, a_snapshot(9, a_projection(2), other)) == UNHEALTHY


def test_a_stopping_daemon_is_reported_at_once() -> None:
    scenario = HealthScenario()
    assert scenario.evaluate(0, a_snapshot(1, a_projection(1, is_stopping=True))) == UNHEALTHY
    assert scenario.reasons == "the daemon is stopping"


def test_a_daemon_that_waits_for_the_first_entry_is_healthy_for_as_long_as_it_takes() -> None:
    scenario = HealthScenario()
    waiting = Snapshot(
        log=None, problem="no log", projections=(a_projection(None),), is_waiting=True
    )
    for _ in range(3):
        assert scenario.evaluate(AFTER_S, waiting) == OK
        assert scenario.reasons == "waiting for the first entry"


def test_an_unreadable_log_is_unhealthy_after_a_while() -> None:
    scenario = HealthScenario()
    gone = Snapshot(log=None, problem="it is gone", projections=(a_projection(1),))
    assert scenario.evaluate(0, gone) == OK
    assert scenario.evaluate(AFTER_S, gone) == UNHEALTHY
    assert scenario.reasons == "the log cannot be read (it is gone), for 60 s"


def test_a_failed_sample_of_the_log_does_not_clear_a_lag() -> None:
    scenario = HealthScenario()
    scenario.evaluate(0, a_snapshot(9, a_projection(5)))
    scenario.evaluate(
        AFTER_S / 2, Snapshot(log=None, problem="busy", projections=(a_projection(5),))
    )
    assert scenario.evaluate(AFTER_S / 2, a_snapshot(9, a_projection(5))) == UNHEALTHY


@pytest.mark.parametrize("state", ["waiting", "refused", "rejecting"])
def test_an_alpine_that_accepts_nothing_is_reported_as_degraded(
    state: str,
) -> None:
    scenario = HealthScenario()
    down = a_snapshot(9, a_projection(9), alpine(state))
    assert scenario.evaluate(0, down) == OK
    assert scenario.evaluate(AFTER_S, down) == DEGRADED
    assert scenario.reasons.startswith(f"alpine is {state} (")
    assert scenario.evaluate(1, a_snapshot(9, a_projection(9), alpine("delivering"))) == OK


def test_a_mirror_that_waits_is_degraded_and_one_that_lags_without_a_reason_is_unhealthy() -> None:
    def mirror(state: str, checkpoint: int | None) -> ProjectionSnapshot:
        known = MirrorSnapshot(state=state, replicas_current=3, lost_acked=0)
        return a_projection(checkpoint, name="mirror", is_external=True, mirror=known)

    scenario = HealthScenario()
    for checkpoint in (None, 5):
        assert scenario.evaluate(1, a_snapshot(9, mirror("waiting", checkpoint))) == OK
        assert scenario.evaluate(AFTER_S, a_snapshot(9, mirror("waiting", checkpoint))) == DEGRADED
        assert scenario.reasons.startswith("mirror is waiting (NATS accepts nothing)")
        assert scenario.evaluate(1, a_snapshot(9, mirror("mirroring", 9))) == OK
    assert scenario.evaluate(0, a_snapshot(9, mirror("mirroring", 5))) == OK
    assert scenario.evaluate(AFTER_S, a_snapshot(9, mirror("mirroring", 5))) == UNHEALTHY


def test_delivery_that_lags_while_alpine_accepts_signals_is_unhealthy() -> None:
    scenario = HealthScenario()
    assert scenario.evaluate(0, a_snapshot(9, alpine("delivering"))) == OK
    assert scenario.evaluate(AFTER_S, a_snapshot(9, alpine("delivering"))) == UNHEALTHY
    for _ in range(3):
        assert scenario.evaluate(AFTER_S, a_snapshot(9, alpine("disabled"))) == OK
    stalled = alpine("delivering")
    assert scenario.evaluate(AFTER_S, a_snapshot(0, stalled)) == OK


def test_no_reason_contains_the_answer_of_alpine() -> None:
    scenario = HealthScenario()
    delivery = alpine("stopped").delivery
    snapshot = a_snapshot(
        9, a_projection(0, name="alpine", is_external=True, delivery=delivery, stalled="geheim")
    )
    scenario.evaluate(0, snapshot)
    assert scenario.evaluate(AFTER_S, snapshot) == UNHEALTHY
    assert "geheim" not in scenario.reasons


def test_a_failure_of_delivery_is_quoted_only_in_our_own_words() -> None:
    """A foreign error may quote an answer of Alpine, and so a payload."""
    scenario = HealthScenario()
    failed = a_projection(0, name="alpine", is_external=True, failure=failure("ValueError: geheim"))
    assert scenario.evaluate(0, a_snapshot(9, failed, a_projection(9))) == DEGRADED
    assert scenario.reasons == "alpine has failed (ValueError)"
    ours = a_projection(
        0, name="alpine", is_external=True, failure=failure("no scheme", is_foreign=False)
    )
    assert scenario.evaluate(0, a_snapshot(9, ours, a_projection(9))) == DEGRADED
    assert scenario.reasons == "alpine has failed (no scheme)"
