"""Health, judged over time: a trouble counts once it has lasted, by a steady clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.monitoring.health import DEGRADED, MARKS_MAX, OK, UNHEALTHY, Health
from projections.monitoring.snapshot import Delivery, Log, Vital, Vitals
from projections.projection import Requests
from projections.runtime.projector import Tally

AFTER_S = 60.0


def vital(checkpoint: int | None, **changes: object) -> Vital:
    known: dict[str, object] = {
        "name": "sqlite",
        "checkpoint": checkpoint,
        "lag_entries": None,
        "lag_seconds": None,
        "is_watched": True,
        "stalled": None,
        "waits_for_others": False,
        "is_stopping": False,
        "has_failed": False,
        "tally": Tally(),
        "delivery": None,
    }
    return Vital(**{**known, **changes})  # type: ignore[arg-type]  # the test names its fields


def alpine(state: str, checkpoint: int = 0) -> Vital:
    delivery = Delivery(delivered=0, refused=0, failing=0, state=state, requests=Requests())
    return vital(checkpoint, name="alpine", waits_for_others=True, delivery=delivery)


def vitals(last_seq: int, *projections: Vital) -> Vitals:
    log = Log(last_seq=last_seq, bytes=0, segments=1)
    return Vitals(log=log, problem=None, projections=projections)


class Story:
    """Looks, some seconds apart."""

    def __init__(self) -> None:
        self._health = Health(AFTER_S)
        self.now_s = 1_000.0

    def look(self, after_s: float, seen: Vitals) -> str:
        self.now_s += after_s
        verdict = self._health.judge(seen, now_s=self.now_s)
        self.reasons = " | ".join(verdict.reasons)
        return verdict.status


def test_a_projection_that_stands_behind_the_end_is_unhealthy_once_that_has_lasted() -> None:
    story = Story()
    assert story.look(0, vitals(5, vital(5))) == OK
    assert story.look(5, vitals(9, vital(5))) == OK
    assert story.look(AFTER_S - 1, vitals(12, vital(5, stalled="disk full"))) == OK
    assert story.look(1, vitals(12, vital(5, stalled="disk full"))) == UNHEALTHY
    assert story.reasons == (
        "sqlite is behind the end of the log by 7 entries (disk full), for 60 s"
    )
    assert story.look(1, vitals(13, vital(12))) == OK


def test_under_load_that_it_keeps_up_with_it_is_well_although_always_some_entries_behind() -> None:
    story = Story()
    for number in range(100):
        assert story.look(5, vitals(100 * number, vital(max(0, 100 * number - 150)))) == OK


def test_a_lag_that_stays_longer_than_it_may_does_not_come_and_go() -> None:
    """It moves on, and is 90 s behind all the time."""
    story = Story()
    looks = (vitals(10 * number, vital(max(0, 10 * (number - 18)))) for number in range(100))
    seen = [story.look(5, look) for look in looks]
    first = seen.index(UNHEALTHY)
    assert set(seen[first:]) == {UNHEALTHY}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=60))
def test_whatever_happens_it_says_unhealthy_when_the_end_of_a_minute_ago_is_not_reached(
    steps: list[tuple[int, int]],
) -> None:
    story = Story()
    last_seq = checkpoint = 0
    ends: list[tuple[float, int]] = []
    for appended, applied in steps:
        last_seq += appended
        checkpoint = min(last_seq, checkpoint + applied)
        status = story.look(7, vitals(last_seq, vital(checkpoint)))
        ends.append((story.now_s, last_seq))
        is_late = any(seq > checkpoint and story.now_s - at_s >= AFTER_S for at_s, seq in ends)
        assert (status == UNHEALTHY) == is_late


def test_what_is_remembered_of_a_long_outage_is_bounded_and_still_unhealthy() -> None:
    story = Story()
    looks = [story.look(5, vitals(1 + n, vital(0))) for n in range(5 * MARKS_MAX)]
    assert set(looks[int(AFTER_S / 5) :]) == {UNHEALTHY}
    assert len(story._health._marks["sqlite"]) <= MARKS_MAX
    assert story.look(5, vitals(5 * MARKS_MAX, vital(5 * MARKS_MAX))) == OK


def test_a_dead_watch_is_unhealthy_once_it_has_lasted_and_well_again_when_it_lives() -> None:
    story = Story()
    dead = vitals(1, vital(1, is_watched=False))
    assert story.look(0, dead) == OK
    assert story.look(AFTER_S, dead) == UNHEALTHY
    assert "sqlite is not told of new entries" in story.reasons
    assert story.look(1, vitals(1, vital(1))) == OK
    assert story.look(1, dead) == OK  # it counts anew


def test_one_that_is_not_open_is_unhealthy_once_it_has_lasted() -> None:
    story = Story()
    shut = vitals(1, vital(None, stalled="database is locked"))
    assert story.look(0, shut) == OK
    assert story.look(AFTER_S, shut) == UNHEALTHY
    assert "sqlite is not open (database is locked)" in story.reasons


def test_one_that_has_stopped_and_a_daemon_that_stops_are_told_at_once() -> None:
    story = Story()
    assert story.look(0, vitals(1, vital(1, has_failed=True))) == UNHEALTHY
    assert "sqlite has stopped" in story.reasons
    assert story.look(0, vitals(1, vital(1, is_stopping=True))) == UNHEALTHY
    assert story.reasons == "the daemon is stopping"


def test_a_log_that_cannot_be_read_is_unhealthy_once_it_has_lasted() -> None:
    story = Story()
    gone = Vitals(log=None, problem="it is gone", projections=(vital(1),))
    assert story.look(0, gone) == OK
    assert story.look(AFTER_S, gone) == UNHEALTHY
    assert story.reasons == "the log cannot be read (it is gone), for 60 s"


def test_a_look_that_could_not_read_the_log_forgets_no_lag() -> None:
    story = Story()
    story.look(0, vitals(9, vital(5)))
    story.look(AFTER_S / 2, Vitals(log=None, problem="busy", projections=(vital(5),)))
    assert story.look(AFTER_S / 2, vitals(9, vital(5))) == UNHEALTHY


@pytest.mark.parametrize("state", ["waiting", "refused", "rejecting"])
def test_an_alpine_that_takes_nothing_is_a_reason_and_none_to_start_the_daemon_again(
    state: str,
) -> None:
    story = Story()
    down = vitals(9, vital(9), alpine(state))
    assert story.look(0, down) == OK
    assert story.look(AFTER_S, down) == DEGRADED
    assert story.reasons.startswith(f"alpine is {state} (")
    assert story.look(1, vitals(9, vital(9), alpine("delivering"))) == OK


def test_delivery_that_lags_while_alpine_takes_signals_is_unhealthy_and_idle_it_is_not() -> None:
    story = Story()
    assert story.look(0, vitals(9, alpine("delivering"))) == OK
    assert story.look(AFTER_S, vitals(9, alpine("delivering"))) == UNHEALTHY
    for _ in range(3):
        assert story.look(AFTER_S, vitals(9, alpine("disabled"))) == OK
    stalled = alpine("delivering")
    assert story.look(AFTER_S, vitals(0, stalled)) == OK


def test_no_reason_repeats_what_alpine_answered() -> None:
    story = Story()
    delivery = alpine("stopped").delivery
    seen = vitals(
        9, vital(0, name="alpine", waits_for_others=True, delivery=delivery, stalled="geheim")
    )
    story.look(0, seen)
    assert story.look(AFTER_S, seen) == UNHEALTHY
    assert "geheim" not in story.reasons
