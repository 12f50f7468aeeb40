"""The courier: its states, and whose fault it is, with an Alpine that follows a script.

Invariant: the script implements the real interface; intervals are short, and no test measures them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.alpine.client import IN_FLIGHT_MAX
from projections.alpine.contract import (
    DOWN,
    FAILING,
    REFUSED,
    Accepted,
    Answer,
    Duplicate,
    Rejected,
    Unavailable,
)
from projections.alpine.retry import Patience, Timing
from projections.delivery.dispatcher import ERRANDS_IN_FLIGHT_MAX, REJECTIONS_MAX, Courier, State
from projections.delivery.job import Delivered, Errand, Kept, Outcome, Parcel, Park
from tests.harness.deadline import PATIENCE_S, happens
from tests.harness.scripted_alpine import AT_ONCE, BAD, BUSY, FAILS, GONE, WRONG_KEY, Script

QUICK = Timing(
    patience=Patience(first_s=0.002, max_s=0.05),
    probe_s_min=0.01,
    probe_s_max=0.03,
    slow_probe_s=0.2,
    key_poll_s=0.005,
)
NEVER_SLOWLY = Timing(
    patience=QUICK.patience, probe_s_min=0.01, probe_s_max=0.03, slow_probe_s=1e6, key_poll_s=0.005
)


class World:
    """A courier at work for a script, and what came of it."""

    def __init__(self, script: Script, *, timing: Timing = QUICK, rejections: int = 0) -> None:
        self.script = script
        self.outcomes: dict[int, Outcome] = {}
        self.states: list[State] = []
        self.last_error: str | None = None
        self.may_park = True
        self.is_key_new = False
        self.courier = Courier(
            script,
            settled=self._settled,
            said=self._said,
            may_park=lambda: self.may_park,
            key_has_changed=lambda: self.is_key_new,
            timing=timing,
            rejections=rejections,
        )

    def _settled(self, parcel: Parcel, outcome: Outcome) -> None:
        assert parcel.seq not in self.outcomes, f"{parcel.seq} was settled twice"
        self.outcomes[parcel.seq] = outcome

    def _said(self, state: State, error: str | None) -> None:
        self.states.append(state)
        self.last_error = error

    def add(self, *seqs: int, errand: Errand | None = None) -> None:
        self.courier.add(parcel(seq, errand) for seq in seqs)

    async def until(self, is_so: Callable[[], object]) -> None:
        """Waits until it is so; the courier's own changes are not all there is."""
        await happens(is_so)

    async def until_settled(self, seqs: Iterable[int]) -> None:
        wanted = set(seqs)
        await self.until(lambda: wanted <= self.outcomes.keys())

    def delivered(self) -> set[int]:
        return {seq for seq, end in self.outcomes.items() if isinstance(end, Delivered)}

    def parked(self, kind: str) -> set[int]:
        ends = self.outcomes.items()
        return {seq for seq, end in ends if isinstance(end, Park) and end.kind == kind}


def parcel(seq: int, errand: Errand | None = None) -> Parcel:
    return Parcel(seq=seq, signal_id=f"s-{seq}", body=str(seq).encode(), errand=errand)


def play(world: World, story: Callable[[World], Awaitable[None]]) -> None:
    """Runs the courier beside a story; both must end."""

    async def run() -> None:
        running = asyncio.ensure_future(world.courier.run())
        try:
            await story(world)
        finally:
            world.courier.stop()
            async with asyncio.timeout(PATIENCE_S):
                await running

    asyncio.run(run())


# All is well


def test_all_pass_in_order_and_never_more_than_ten_at_once() -> None:
    world = World(Script(takes_s=0.001))

    async def story(world: World) -> None:
        world.add(*range(1, 201))
        await world.until_settled(range(1, 201))

    play(world, story)
    assert world.delivered() == set(range(1, 201))
    assert world.script.sent == list(range(1, 201))
    assert world.script.in_flight["max"] == IN_FLIGHT_MAX
    assert world.states == [State.DELIVERING]


def test_what_alpine_has_already_is_delivered() -> None:
    world = World(Script(says=lambda _: Duplicate()))

    async def story(world: World) -> None:
        world.add(1)
        await world.until_settled([1])

    play(world, story)
    assert world.outcomes == {1: Delivered(is_duplicate=True)}


def test_whoever_waits_for_room_or_for_the_end_is_woken() -> None:
    world = World(Script(takes_s=0.001))

    async def story(world: World) -> None:
        courier = world.courier
        await courier.until_idle_or_stuck()  # nothing to do
        world.add(*range(1, 101))
        await courier.changes.until(lambda: courier.backlog < 50)
        assert len(world.outcomes) > 50
        await courier.until_idle_or_stuck()
        assert len(world.outcomes) == 100

    play(world, story)


def test_once_stopped_nothing_is_sent_and_answers_under_way_count() -> None:
    world = World(Script(takes_s=0.02))

    async def story(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: world.script.in_flight["now"] == IN_FLIGHT_MAX)
        world.courier.stop()

    play(world, story)
    assert world.delivered() == set(world.script.sent)
    assert len(world.script.sent) < 100


def test_a_stop_ends_the_pause_before_a_retry_and_sends_nothing_more() -> None:
    patience = Patience(first_s=1e6, max_s=1e6)
    world = World(Script(says=lambda _: GONE), timing=Timing(patience=patience))

    async def story(world: World) -> None:
        world.add(1)
        await world.until(lambda: world.script.sent)
        await asyncio.sleep(0.01)

    play(world, story)
    assert world.script.sent == [1]
    assert world.outcomes == {}


# H2, H6b: what Alpine calls invalid


def test_an_invalid_signal_is_parked_at_once_and_the_others_go_on() -> None:
    world = World(Script(says=lambda seq: BAD if seq in (1, 7) else Accepted()))

    async def story(world: World) -> None:
        world.add(*range(1, 21))
        await world.until_settled(range(1, 21))

    play(world, story)
    assert world.parked(REFUSED) == {1, 7}
    assert world.outcomes[7] == Park(kind=REFUSED, status=400, body=BAD.body)
    assert Counter(world.script.sent)[7] == 1
    assert world.states == [State.DELIVERING]


def test_twenty_rejections_in_a_row_park_nothing_more_and_heal_with_an_acceptance() -> None:
    world = World(Script(says=lambda _: BAD))

    async def story(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: world.courier.state is State.REJECTING)
        requests = len(world.script.sent)
        assert requests <= REJECTIONS_MAX + IN_FLIGHT_MAX
        assert "20 rejections in a row: 400" in str(world.last_error)
        await world.until(lambda: len(world.script.sent) >= requests + 3)  # slow probes
        assert len(set(world.script.sent[requests : requests + 3])) == 3  # each another signal
        assert len(world.parked(REFUSED)) == REJECTIONS_MAX
        world.script.says = lambda _: Accepted()
        await world.until_settled(range(1, 101))

    play(world, story)
    assert len(world.parked(REFUSED)) == REJECTIONS_MAX
    assert len(world.delivered()) == 100 - REJECTIONS_MAX
    assert world.states == [State.DELIVERING, State.REJECTING, State.DELIVERING]


def test_after_a_restart_it_still_parks_nothing_more() -> None:
    world = World(Script(says=lambda _: BAD), rejections=REJECTIONS_MAX)

    async def story(world: World) -> None:
        world.add(*range(1, 11))
        await world.until(lambda: world.courier.state is State.REJECTING)

    play(world, story)
    assert world.outcomes == {}
    assert world.courier.rejections == REJECTIONS_MAX


def test_an_acceptance_in_between_begins_the_count_anew() -> None:
    world = World(Script(says=lambda seq: Accepted() if seq % 15 == 0 else BAD))

    async def story(world: World) -> None:
        world.add(*range(1, 61))
        await world.until_settled(range(1, 61))

    play(world, story)
    assert State.REJECTING not in world.states


# H3: the key or the address is wrong


def test_a_wrong_key_costs_one_request_at_the_start_and_heals_when_it_changes() -> None:
    world = World(Script(says=lambda _: WRONG_KEY), timing=NEVER_SLOWLY)

    async def story(world: World) -> None:
        world.add(*range(1, 51))
        await world.until(lambda: world.courier.state is State.REFUSED)
        await asyncio.sleep(0.05)
        assert world.script.sent == [1]
        assert world.last_error == WRONG_KEY.detail
        world.script.says = lambda _: Accepted()
        world.is_key_new = True
        await world.until_settled(range(1, 51))

    play(world, story)
    assert len(world.delivered()) == 50
    assert world.states == [State.DELIVERING, State.REFUSED, State.DELIVERING]


def test_a_key_that_is_withdrawn_later_costs_no_more_than_what_is_under_way() -> None:
    world = World(Script(takes_s=0.005), timing=NEVER_SLOWLY)

    async def story(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: len(world.outcomes) >= 20)
        sent = len(world.script.sent)
        world.script.says = lambda _: WRONG_KEY
        await world.until(lambda: world.courier.state is State.REFUSED)
        await asyncio.sleep(0.05)
        assert len(world.script.sent) <= sent + IN_FLIGHT_MAX
        assert not world.parked(REFUSED)

    play(world, story)


def test_while_refused_there_is_one_probe_an_interval() -> None:
    world = World(Script(says=lambda _: WRONG_KEY))

    async def story(world: World) -> None:
        world.add(*range(1, 51))
        await world.until(lambda: len(world.script.sent) == 4)

    play(world, story)
    pauses_s = [later - earlier for earlier, later in pairwise(world.script.begun_s)]
    assert all(pause_s >= QUICK.slow_probe_s for pause_s in pauses_s)
    assert world.outcomes == {}


# H5: nothing passes


@pytest.mark.parametrize("trouble", [GONE, FAILS, BUSY])
def test_in_an_outage_nothing_is_parked_and_afterwards_all_is_delivered(
    trouble: Unavailable,
) -> None:
    world = World(Script(says=lambda _: trouble, healthy=False))

    async def story(world: World) -> None:
        world.add(*range(1, 41))
        await world.until(lambda: len(world.script.sent) > 300)
        assert world.courier.state is State.WAITING
        assert world.last_error == trouble.detail
        assert world.outcomes == {}
        world.script.says = lambda _: Accepted()
        await world.until_settled(range(1, 41))

    play(world, story)
    assert len(world.delivered()) == 40
    assert world.states == [State.DELIVERING, State.WAITING, State.DELIVERING]


def test_as_long_as_nobody_has_passed_nobody_is_to_blame() -> None:
    """Alpine answers 500 to all of them, and says that it is well."""
    world = World(Script(says=lambda _: FAILS))

    async def story(world: World) -> None:
        world.add(*range(1, 6))
        await world.until(lambda: len(world.script.sent) > 100)

    play(world, story)
    assert world.outcomes == {}


def test_each_probe_takes_other_signals_and_one_more_each_round() -> None:
    others: list[int] = []

    class Counting(Script):
        async def send(self, body: bytes) -> Answer:
            others.append(self.in_flight["now"])
            return await super().send(body)

    world = World(Counting(says=lambda _: GONE))

    async def story(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: world.courier.state is State.WAITING)
        await world.until(lambda: not world.script.in_flight["now"])
        del world.script.sent[:], others[:]
        await world.until(lambda: others.count(0) > 3)

    play(world, story)
    begun = [number for number, beside in enumerate(others) if beside == 0]  # each a round's first
    sizes = [after - before for before, after in pairwise(begun)][:3]
    assert sizes == [sizes[0], sizes[0] + 1, sizes[0] + 2]
    probes = world.script.sent[: sum(sizes)]
    assert len(set(probes)) == sum(sizes)
    assert not set(probes) & set(range(1, 11)), "those that were never tried come first"
    assert world.script.in_flight["max"] <= IN_FLIGHT_MAX


def test_in_a_long_outage_all_get_their_turn_again_and_again() -> None:
    """One probe that could pass must not wait behind a dozen that cannot."""
    world = World(Script(says=lambda _: GONE))

    async def story(world: World) -> None:
        world.add(*range(1, 31))
        await world.until(lambda: len(set(world.script.sent)) == 30)
        del world.script.sent[:]
        await world.until(lambda: len(world.script.sent) >= 60)

    play(world, story)
    assert set(world.script.sent[:60]) == set(range(1, 31))


def test_a_signal_that_comes_while_nothing_passes_is_tried_before_those_that_failed() -> None:
    world = World(Script(says=lambda seq: Accepted() if seq == 100 else GONE))

    async def story(world: World) -> None:
        world.add(*range(1, 31))
        await world.until(lambda: len(set(world.script.sent)) == 30)
        del world.script.sent[:]
        world.add(100)
        await world.until_settled([100])
        assert len(world.script.sent) <= 4 * IN_FLIGHT_MAX

    play(world, story)


# H4: Retry-After


def test_nobody_is_sent_before_the_time_that_the_server_asked_for() -> None:
    asked = Unavailable(kind=DOWN, status=429, detail="429", retry_after_s=0.04)
    script = Script()
    answered_s: list[float] = []

    def says(_: int) -> Answer:
        if not answered_s:
            answered_s.append(time.monotonic())
            return asked
        return Accepted()

    script.says = says
    world = World(script)

    async def story(world: World) -> None:
        world.add(*range(1, 31))
        await world.until_settled(range(1, 31))

    play(world, story)
    assert len(world.delivered()) == 30
    later = [begun_s for begun_s in script.begun_s if begun_s > answered_s[0]]
    assert min(later) >= answered_s[0] + asked.retry_after_s


def test_a_long_retry_after_opens_the_circuit_at_once() -> None:
    asked = Unavailable(kind=DOWN, status=503, detail="503", retry_after_s=0.2)
    world = World(Script(says=lambda _: asked))

    async def story(world: World) -> None:
        world.add(1, 2, 3)
        await world.until(lambda: world.courier.state is State.WAITING)
        assert world.script.sent == [1]  # no retries
        world.script.says = lambda _: Accepted()
        await world.until_settled([1, 2, 3])

    play(world, story)
    assert world.script.begun_s[1] >= world.script.begun_s[0] + asked.retry_after_s


# H6: one signal, or some, for ever


def test_one_poison_among_many_is_parked_and_delays_nobody() -> None:
    world = World(Script(says=lambda seq: FAILS if seq == 5 else Accepted(), takes_s=0.001))

    async def story(world: World) -> None:
        world.add(*range(1, 301))
        await world.until_settled(range(1, 301))

    play(world, story)
    assert world.parked(FAILING) == {5}
    assert world.outcomes[5] == Park(kind=FAILING, status=500, body=FAILS.detail)
    assert Counter(world.script.sent)[5] == 1 + QUICK.patience.retries_max
    assert world.states == [State.DELIVERING]
    assert world.script.health_checks == 0


def test_one_poison_alone_is_parked_when_alpine_says_twice_that_it_is_well() -> None:
    world = World(Script(says=lambda _: FAILS, healthy=False))

    async def story(world: World) -> None:
        world.add(1)
        await world.until(lambda: world.script.health_checks > 2)
        assert world.outcomes == {}
        assert world.courier.state is State.WAITING
        world.script.healthy = True
        await world.until_settled([1])

    play(world, story)
    assert world.parked(FAILING) == {1}
    assert world.courier.state is State.DELIVERING


def test_one_alone_is_not_parked_while_alpine_says_only_once_that_it_is_well() -> None:
    class Wavering(Script):
        async def is_healthy(self) -> bool:
            await super().is_healthy()
            return self.health_checks % 2 == 1

    world = World(Wavering(says=lambda _: FAILS))

    async def story(world: World) -> None:
        world.add(1)
        await world.until(lambda: world.script.health_checks >= 8)

    play(world, story)
    assert world.outcomes == {}


def test_for_no_answer_one_alone_is_not_to_blame_however_healthy_alpine_is() -> None:
    world = World(Script(says=lambda _: GONE))

    async def story(world: World) -> None:
        world.add(1)
        await world.until(lambda: len(world.script.sent) > 20)

    play(world, story)
    assert world.outcomes == {}


def test_a_dozen_poison_in_a_row_are_parked_and_the_rest_passes() -> None:
    poison = set(range(1, 13))
    world = World(Script(says=lambda seq: FAILS if seq in poison else Accepted()))

    async def story(world: World) -> None:
        world.add(*range(1, 101))
        await world.until_settled(range(1, 101))

    play(world, story)
    assert world.parked(FAILING) == poison
    assert world.delivered() == set(range(13, 101))


def test_a_dozen_poison_alone_are_parked_once_one_other_has_passed() -> None:
    poison = set(range(1, 13))
    world = World(Script(says=lambda seq: FAILS if seq in poison else Accepted()))

    async def story(world: World) -> None:
        world.add(*poison)
        await world.until(lambda: len(world.script.sent) > 100)
        assert world.outcomes == {}  # as far as anybody can tell Alpine is down
        world.add(13)
        await world.until_settled(range(1, 14))

    play(world, story)
    assert world.parked(FAILING) == poison


def test_a_signal_that_is_never_answered_is_parked_in_the_end_while_others_pass() -> None:
    world = World(Script(says=lambda seq: GONE if seq == 1 else Accepted(), takes_s=0.0005))

    async def story(world: World) -> None:
        world.add(1)
        for number in range(2, 100_000):
            if world.parked(FAILING):
                break
            world.add(number)
            await asyncio.sleep(0.0005)

    play(world, story)
    assert world.parked(FAILING) == {1}
    assert Counter(world.script.sent)[1] >= 5


def test_one_that_is_always_asked_to_wait_is_never_blamed() -> None:
    world = World(Script(says=lambda seq: BUSY if seq == 1 else Accepted()))

    async def story(world: World) -> None:
        number = 2
        while Counter(world.script.sent)[1] < 60:
            world.add(*([1] if number == 2 else []), number)
            number += 1
            await asyncio.sleep(0.001)
        assert 1 not in world.outcomes

    play(world, story)


def test_beyond_a_thousand_failing_signals_none_is_parked_and_others_pass() -> None:
    world = World(Script(says=lambda seq: FAILS if seq == 1 else Accepted(), takes_s=0.0005))
    world.may_park = False

    async def story(world: World) -> None:
        world.add(*range(1, 101))
        await world.until_settled(range(2, 101))
        assert 1 not in world.outcomes

    play(world, story)


@settings(max_examples=25)
@given(
    poison=st.sets(st.integers(1, 40), max_size=14),
    invalid=st.sets(st.integers(1, 40), max_size=10),
    order=st.permutations(range(1, 41)),
)
def test_with_a_server_that_is_well_exactly_the_poisoned_are_parked(
    poison: set[int], invalid: set[int], order: list[int]
) -> None:
    invalid -= poison

    def says(seq: int) -> Answer:
        return FAILS if seq in poison else BAD if seq in invalid else Accepted()

    world = World(Script(says=says), timing=AT_ONCE)

    async def story(world: World) -> None:
        world.add(*order)
        await world.until_settled(set(order) - poison)
        world.add(41)  # the others are all done: somebody must pass, to tell
        await world.until_settled([*order, 41])

    play(world, story)
    assert world.parked(FAILING) == poison
    assert world.parked(REFUSED) == invalid


@settings(max_examples=25)
@given(
    spells=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([None, GONE, FAILS, BUSY, BAD])),
        max_size=8,
    ),
    poison=st.sets(st.integers(1, 60), max_size=3),
)
def test_whatever_the_weather_each_signal_ends_once_and_in_its_place(
    spells: list[tuple[int, Unavailable | Rejected | None]], poison: set[int]
) -> None:
    """Spells of so many requests each; then the weather is fine."""
    weather = [answer for count, answer in spells for _ in range(count)]
    script = Script(healthy=False)

    def says(seq: int) -> Answer:
        answer = weather.pop(0) if weather else None
        script.healthy = not weather
        return answer or (FAILS if seq in poison else Accepted())

    script.says = says
    world = World(script, timing=AT_ONCE)

    async def story(world: World) -> None:
        world.add(*range(1, 61))
        await world.until_settled(set(range(1, 61)) - poison)
        world.add(61)
        await world.until_settled(range(1, 62))

    play(world, story)
    assert not world.delivered() & poison


# What is sent again


def test_a_due_signal_gets_one_try_and_opens_no_circuit() -> None:
    world = World(Script(says=lambda seq: FAILS if seq < 20 else Accepted()))

    async def story(world: World) -> None:
        world.add(*range(1, 20), errand=Errand.DUE)
        await world.until_settled(range(1, 20))
        world.add(20)
        await world.until_settled([20])

    play(world, story)
    assert world.parked(FAILING) == set(range(1, 20))
    assert max(Counter(world.script.sent).values()) == 1
    assert world.states == [State.DELIVERING]
    assert world.script.in_flight["max"] == ERRANDS_IN_FLIGHT_MAX


def test_a_due_signal_in_an_outage_stays_parked_as_it_was() -> None:
    world = World(Script(says=lambda _: GONE))

    async def story(world: World) -> None:
        world.add(1, errand=Errand.DUE)
        await world.until_settled([1])

    play(world, story)
    assert isinstance(world.outcomes[1], Kept)
    assert world.states == [State.DELIVERING]


def test_signals_retried_by_hand_do_not_count_as_rejections_in_a_row() -> None:
    world = World(Script(says=lambda seq: BAD if seq < 40 else Accepted()))

    async def story(world: World) -> None:
        world.add(*range(1, 40), errand=Errand.RETRY)
        await world.until_settled(range(1, 40))

    play(world, story)
    assert world.parked(REFUSED) == set(range(1, 40))
    assert world.states == [State.DELIVERING]
    assert world.courier.rejections == 0


def test_a_nudge_probes_at_once_when_somebody_has_mended_it() -> None:
    world = World(Script(says=lambda _: BAD), timing=NEVER_SLOWLY)

    async def story(world: World) -> None:
        world.add(*range(1, 51))
        await world.until(lambda: world.courier.state is State.REJECTING)
        world.script.says = lambda _: Accepted()
        refused = world.parked(REFUSED)
        for seq in refused:
            del world.outcomes[seq]
        world.add(*refused, errand=Errand.RETRY)
        await asyncio.sleep(0.02)
        assert not world.delivered()
        world.courier.nudge()
        await world.until_settled(range(1, 51))

    play(world, story)
    assert world.delivered() == set(range(1, 51))


def test_with_nothing_else_to_send_a_nudge_probes_with_what_is_retried() -> None:
    world = World(Script(says=lambda _: WRONG_KEY), timing=NEVER_SLOWLY)

    async def story(world: World) -> None:
        world.add(1, errand=Errand.RETRY)
        await world.until_settled([1])
        assert isinstance(world.outcomes[1], Kept)
        assert world.courier.state is State.REFUSED
        world.script.says = lambda _: Accepted()
        world.add(2, errand=Errand.RETRY)
        world.courier.nudge()
        await world.until_settled([2])

    play(world, story)
    assert world.delivered() == {2}


def test_replays_leave_most_places_to_what_is_new() -> None:
    script = Script(takes_s=0.002)
    world = World(script)

    async def story(world: World) -> None:
        world.add(*range(1000, 1100), errand=Errand.REPLAY)
        world.add(*range(1, 101))
        await world.until_settled([*range(1, 101), *range(1000, 1100)])

    play(world, story)
    assert script.in_flight["max"] == IN_FLIGHT_MAX
    first = script.sent[: script.sent.index(100)]
    assert sum(seq >= 1000 for seq in first) < len(first) / 2


def test_a_replay_in_an_outage_is_sent_when_it_is_over() -> None:
    world = World(Script(says=lambda _: GONE))

    async def story(world: World) -> None:
        world.add(*range(1, 11), errand=Errand.REPLAY)
        await world.until(lambda: len(world.script.sent) > 50)
        assert world.courier.state is State.WAITING
        world.script.says = lambda _: Duplicate()
        await world.until_settled(range(1, 11))

    play(world, story)
    assert len(world.delivered()) == 10
