"""The dispatcher: window, states and poison messages, with an Alpine that follows a script.

Invariant: the script implements the real protocol; intervals are short, and no test measures them.
"""

import asyncio
import logging
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
    Duplicate,
    Rejected,
    SendResult,
    Stored,
    Unavailable,
)
from projections.alpine.retry import DeliveryTiming, RetryPolicy
from projections.delivery.dispatcher import REJECTIONS_MAX, RESENDS_IN_FLIGHT_MAX, Dispatcher
from projections.delivery.job import Delivered, Job, KeepParked, Outcome, Park, ResendReason
from projections.delivery.state import DeliveryState, StateChange
from tests.harness.deadline import DEADLINE_S, until_async
from tests.harness.scripted_alpine import (
    BAD_REQUEST,
    FAST_TIMING,
    RATE_LIMITED,
    SERVER_ERROR,
    UNREACHABLE,
    WRONG_KEY,
    ScriptedAlpine,
)

QUICK = DeliveryTiming(
    retry_policy=RetryPolicy(first_s=0.002, max_s=0.05),
    probe_s_min=0.01,
    probe_s_max=0.03,
    slow_probe_s=0.2,
    key_poll_s=0.005,
)
NEVER_SLOWLY = DeliveryTiming(
    retry_policy=QUICK.retry_policy,
    probe_s_min=0.01,
    probe_s_max=0.03,
    slow_probe_s=1e6,
    key_poll_s=0.005,
)


class ScriptedKey:
    """A key that is changed by the test."""

    is_new = False

    def read(self) -> bytes:
        return b"key"

    def has_changed(self) -> bool:
        return self.is_new


class World:
    """A dispatcher with a scripted Alpine; collects its outcomes and states."""

    def __init__(
        self, script: ScriptedAlpine, *, timing: DeliveryTiming = QUICK, rejections: int = 0
    ) -> None:
        self.script = script
        self.outcomes: dict[int, Outcome] = {}
        self.states: list[DeliveryState] = []
        self.last_error: str | None = None
        self.key = ScriptedKey()
        self.dispatcher = Dispatcher(script, self.key, timing=timing, rejections=rejections)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            async for event in self.dispatcher.run(group):
                match event:
                    case StateChange(state, error):
                        self.states.append(state)
                        self.last_error = error
                    case (job, outcome):
                        assert job.seq not in self.outcomes, f"{job.seq} has two outcomes"
                        self.outcomes[job.seq] = outcome

    def add(self, *seqs: int, resend: ResendReason | None = None) -> None:
        self.dispatcher.add(job(seq, resend) for seq in seqs)

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until the condition holds."""
        await until_async(condition)

    async def until_settled(self, seqs: Iterable[int]) -> None:
        wanted = set(seqs)
        await self.until(lambda: wanted <= self.outcomes.keys())

    def delivered(self) -> set[int]:
        return {seq for seq, end in self.outcomes.items() if isinstance(end, Delivered)}

    def parked(self, kind: str) -> set[int]:
        ends = self.outcomes.items()
        return {seq for seq, end in ends if isinstance(end, Park) and end.kind == kind}


def job(seq: int, resend: ResendReason | None = None) -> Job:
    return Job(seq=seq, signal_id=f"s-{seq}", body=str(seq).encode(), resend=resend)


def run_scenario(world: World, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Runs the dispatcher beside a scenario; both must end."""

    async def run() -> None:
        running = asyncio.ensure_future(world.run())
        try:
            await scenario(world)
        finally:
            world.dispatcher.stop()
            async with asyncio.timeout(DEADLINE_S):
                await running

    asyncio.run(run())


# Healthy server


def test_all_signals_are_delivered_in_order_with_at_most_ten_in_flight() -> None:
    world = World(ScriptedAlpine(delay_s=0.001))

    async def scenario(world: World) -> None:
        world.add(*range(1, 201))
        await world.until_settled(range(1, 201))

    run_scenario(world, scenario)
    assert world.delivered() == set(range(1, 201))
    assert world.script.sent == list(range(1, 201))
    assert world.script.in_flight["max"] == IN_FLIGHT_MAX
    assert world.states == [DeliveryState.DELIVERING]


def test_a_duplicate_counts_as_delivered() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: Duplicate()))

    async def scenario(world: World) -> None:
        world.add(1)
        await world.until_settled([1])

    run_scenario(world, scenario)
    assert world.outcomes == {1: Delivered(is_duplicate=True)}


def test_each_job_counts_as_outstanding_until_its_outcome() -> None:
    world = World(ScriptedAlpine(answer_to=lambda seq: UNREACHABLE if seq == 7 else Stored()))

    async def scenario(world: World) -> None:
        dispatcher = world.dispatcher
        world.add(*range(1, 101))
        world.add(200, resend=ResendReason.REPLAY)
        assert (dispatcher.outstanding, dispatcher.backlog) == (101, 100)
        await world.until(lambda: dispatcher.backlog < 50)
        assert len(world.outcomes) >= 50
        await world.until_settled({*range(1, 101), 200} - {7})
        assert (dispatcher.outstanding, dispatcher.backlog) == (1, 1)

    run_scenario(world, scenario)


def test_once_stopped_nothing_is_sent_and_answers_under_way_count() -> None:
    world = World(ScriptedAlpine(delay_s=0.02))

    async def scenario(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: world.script.in_flight["now"] == IN_FLIGHT_MAX)
        world.dispatcher.stop()

    run_scenario(world, scenario)
    assert world.delivered() == set(world.script.sent)
    assert len(world.script.sent) < 100


def test_a_stop_ends_the_pause_before_a_retry_and_sends_nothing_more() -> None:
    retry_policy = RetryPolicy(first_s=1e6, max_s=1e6)
    world = World(
        ScriptedAlpine(answer_to=lambda _: UNREACHABLE),
        timing=DeliveryTiming(retry_policy=retry_policy),
    )

    async def scenario(world: World) -> None:
        world.add(1)
        await world.until(lambda: world.script.sent)
        await asyncio.sleep(0.01)

    run_scenario(world, scenario)
    assert world.script.sent == [1]
    assert world.outcomes == {}


def test_a_stop_before_the_first_request_sends_nothing() -> None:
    world = World(ScriptedAlpine())

    async def scenario(world: World) -> None:
        world.add(1)
        world.dispatcher.stop()

    run_scenario(world, scenario)
    assert world.script.sent == []
    assert world.outcomes == {}


# H2, H6b: invalid signals


def test_an_invalid_signal_is_parked_at_once_and_the_others_go_on() -> None:
    world = World(ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq in (1, 7) else Stored()))

    async def scenario(world: World) -> None:
        world.add(*range(1, 21))
        await world.until_settled(range(1, 21))

    run_scenario(world, scenario)
    assert world.parked(REFUSED) == {1, 7}
    assert world.outcomes[7] == Park(kind=REFUSED, status=400, body=BAD_REQUEST.body)
    assert Counter(world.script.sent)[7] == 1
    assert world.states == [DeliveryState.DELIVERING]


def test_twenty_rejections_in_a_row_park_nothing_more_and_heal_with_an_acceptance() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: BAD_REQUEST))

    async def scenario(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: world.dispatcher.state is DeliveryState.REJECTING)
        requests = len(world.script.sent)
        assert requests <= REJECTIONS_MAX + IN_FLIGHT_MAX
        assert "20 rejections in a row: 400" in str(world.last_error)
        await world.until(lambda: len(world.script.sent) >= requests + 3)  # slow probes
        assert len(set(world.script.sent[requests : requests + 3])) == 3  # each another signal
        assert len(world.parked(REFUSED)) == REJECTIONS_MAX
        world.script.answer_to = lambda _: Stored()
        await world.until_settled(range(1, 101))

    run_scenario(world, scenario)
    assert len(world.parked(REFUSED)) == REJECTIONS_MAX
    assert len(world.delivered()) == 100 - REJECTIONS_MAX
    assert world.states == [
        DeliveryState.DELIVERING,
        DeliveryState.REJECTING,
        DeliveryState.DELIVERING,
    ]


def test_after_a_restart_it_still_parks_nothing_more() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: BAD_REQUEST), rejections=REJECTIONS_MAX)

    async def scenario(world: World) -> None:
        world.add(*range(1, 11))
        await world.until(lambda: world.dispatcher.state is DeliveryState.REJECTING)

    run_scenario(world, scenario)
    assert world.outcomes == {}
    assert world.dispatcher.rejections == REJECTIONS_MAX


def test_an_acceptance_resets_the_count_of_rejections() -> None:
    world = World(ScriptedAlpine(answer_to=lambda seq: Stored() if seq % 15 == 0 else BAD_REQUEST))

    async def scenario(world: World) -> None:
        world.add(*range(1, 61))
        await world.until_settled(range(1, 61))

    run_scenario(world, scenario)
    assert DeliveryState.REJECTING not in world.states


# H3: the key or the address is wrong


def test_a_wrong_key_costs_one_request_at_the_start_and_heals_when_it_changes() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: WRONG_KEY), timing=NEVER_SLOWLY)

    async def scenario(world: World) -> None:
        world.add(*range(1, 51))
        await world.until(lambda: world.dispatcher.state is DeliveryState.REFUSED)
        await asyncio.sleep(0.05)
        assert world.script.sent == [1]
        assert world.last_error == WRONG_KEY.detail
        world.script.answer_to = lambda _: Stored()
        world.key.is_new = True
        await world.until_settled(range(1, 51))

    run_scenario(world, scenario)
    assert len(world.delivered()) == 50
    assert world.states == [
        DeliveryState.DELIVERING,
        DeliveryState.REFUSED,
        DeliveryState.DELIVERING,
    ]


def test_a_key_that_is_withdrawn_later_costs_no_more_than_what_is_under_way() -> None:
    world = World(ScriptedAlpine(delay_s=0.005), timing=NEVER_SLOWLY)

    async def scenario(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: len(world.outcomes) >= 20)
        sent = len(world.script.sent)
        world.script.answer_to = lambda _: WRONG_KEY
        await world.until(lambda: world.dispatcher.state is DeliveryState.REFUSED)
        await asyncio.sleep(0.05)
        assert len(world.script.sent) <= sent + IN_FLIGHT_MAX
        assert not world.parked(REFUSED)

    run_scenario(world, scenario)


def test_while_refused_there_is_one_probe_an_interval() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: WRONG_KEY))

    async def scenario(world: World) -> None:
        world.add(*range(1, 51))
        await world.until(lambda: len(world.script.sent) == 4)

    run_scenario(world, scenario)
    pauses_s = [later - earlier for earlier, later in pairwise(world.script.started_s)]
    assert all(pause_s >= QUICK.slow_probe_s for pause_s in pauses_s)
    assert world.outcomes == {}


# H5: nothing passes


@pytest.mark.parametrize("failure", [UNREACHABLE, SERVER_ERROR, RATE_LIMITED])
def test_during_an_outage_nothing_is_parked_and_afterwards_all_is_delivered(
    failure: Unavailable, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: failure, healthy=False))

    async def scenario(world: World) -> None:
        world.add(*range(1, 41))
        await world.until(lambda: len(world.script.sent) > 300)
        assert world.dispatcher.state is DeliveryState.WAITING
        assert world.last_error == failure.detail
        assert world.outcomes == {}
        world.script.answer_to = lambda _: Stored()
        await world.until_settled(range(1, 41))

    run_scenario(world, scenario)
    assert len(world.delivered()) == 40
    assert world.states == [
        DeliveryState.DELIVERING,
        DeliveryState.WAITING,
        DeliveryState.DELIVERING,
    ]
    logged = [r for r in caplog.records if r.getMessage().startswith("delivery_state ")]
    shown = [r.getMessage().split()[1] for r in logged]
    assert shown == ["state=waiting", "state=delivering"]
    assert logged[0].levelno == logged[1].levelno >= logging.WARNING  # shown by default: both


def test_no_signal_is_parked_before_any_signal_was_delivered() -> None:
    """Alpine answers 500 to each signal, and is healthy."""
    world = World(ScriptedAlpine(answer_to=lambda _: SERVER_ERROR))

    async def scenario(world: World) -> None:
        world.add(*range(1, 6))
        await world.until(lambda: len(world.script.sent) > 100)

    run_scenario(world, scenario)
    assert world.outcomes == {}


def test_each_probe_takes_other_signals_and_one_more_each_round() -> None:
    others: list[int] = []

    class Counting(ScriptedAlpine):
        async def send(self, body: bytes) -> SendResult:
            others.append(self.in_flight["now"])
            return await super().send(body)

    world = World(Counting(answer_to=lambda _: UNREACHABLE))

    async def scenario(world: World) -> None:
        world.add(*range(1, 101))
        await world.until(lambda: world.dispatcher.state is DeliveryState.WAITING)
        await world.until(lambda: not world.script.in_flight["now"])
        del world.script.sent[:], others[:]
        await world.until(lambda: others.count(0) > 3)

    run_scenario(world, scenario)
    begun = [number for number, beside in enumerate(others) if beside == 0]  # each a round's first
    sizes = [after - before for before, after in pairwise(begun)][:3]
    assert sizes == [sizes[0], sizes[0] + 1, sizes[0] + 2]
    probes = world.script.sent[: sum(sizes)]
    assert len(set(probes)) == sum(sizes)
    assert not set(probes) & set(range(1, 11)), "those that were never tried come first"
    assert world.script.in_flight["max"] <= IN_FLIGHT_MAX


def test_during_a_long_outage_all_signals_are_retried_in_turn() -> None:
    """One probe that could pass must not wait behind a dozen that cannot."""
    world = World(ScriptedAlpine(answer_to=lambda _: UNREACHABLE))

    async def scenario(world: World) -> None:
        world.add(*range(1, 31))
        await world.until(lambda: len(set(world.script.sent)) == 30)
        del world.script.sent[:]
        await world.until(lambda: len(world.script.sent) >= 60)

    run_scenario(world, scenario)
    assert set(world.script.sent[:60]) == set(range(1, 31))


def test_a_new_signal_during_an_outage_is_tried_before_failed_ones() -> None:
    world = World(ScriptedAlpine(answer_to=lambda seq: Stored() if seq == 100 else UNREACHABLE))

    async def scenario(world: World) -> None:
        world.add(*range(1, 31))
        await world.until(lambda: len(set(world.script.sent)) == 30)
        del world.script.sent[:]
        world.add(100)
        await world.until_settled([100])
        assert len(world.script.sent) <= 4 * IN_FLIGHT_MAX

    run_scenario(world, scenario)


# H4: Retry-After


def test_no_signal_is_sent_before_the_retry_after_of_the_server() -> None:
    asked = Unavailable(kind=DOWN, status=429, detail="429", retry_after_s=0.04)
    script = ScriptedAlpine()
    answered_s: list[float] = []

    def answer_to(_: int) -> SendResult:
        if not answered_s:
            answered_s.append(time.monotonic())
            return asked
        return Stored()

    script.answer_to = answer_to
    world = World(script)

    async def scenario(world: World) -> None:
        world.add(*range(1, 31))
        await world.until_settled(range(1, 31))

    run_scenario(world, scenario)
    assert len(world.delivered()) == 30
    later = [started_s for started_s in script.started_s if started_s > answered_s[0]]
    assert min(later) >= answered_s[0] + asked.retry_after_s


def test_a_long_retry_after_opens_the_circuit_at_once() -> None:
    asked = Unavailable(kind=DOWN, status=503, detail="503", retry_after_s=0.2)
    world = World(ScriptedAlpine(answer_to=lambda _: asked))

    async def scenario(world: World) -> None:
        world.add(1, 2, 3)
        await world.until(lambda: world.dispatcher.state is DeliveryState.WAITING)
        assert world.script.sent == [1]  # no retries
        world.script.answer_to = lambda _: Stored()
        await world.until_settled([1, 2, 3])

    run_scenario(world, scenario)
    assert world.script.started_s[1] >= world.script.started_s[0] + asked.retry_after_s


# H6: poison messages


def test_one_poison_message_among_many_is_parked_and_delays_no_other() -> None:
    world = World(
        ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq == 5 else Stored(), delay_s=0.001)
    )

    async def scenario(world: World) -> None:
        world.add(*range(1, 301))
        await world.until_settled(range(1, 301))

    run_scenario(world, scenario)
    assert world.parked(FAILING) == {5}
    assert world.outcomes[5] == Park(kind=FAILING, status=500, body=SERVER_ERROR.detail)
    assert Counter(world.script.sent)[5] == 1 + QUICK.retry_policy.retries_max
    assert world.states == [DeliveryState.DELIVERING]
    assert world.script.health_checks == 0


def test_a_lone_poison_message_is_parked_after_two_successful_health_checks() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: SERVER_ERROR, healthy=False))

    async def scenario(world: World) -> None:
        world.add(1)
        await world.until(lambda: world.script.health_checks > 2)
        assert world.outcomes == {}
        assert world.dispatcher.state is DeliveryState.WAITING
        world.script.healthy = True
        await world.until_settled([1])

    run_scenario(world, scenario)
    assert world.parked(FAILING) == {1}
    assert world.dispatcher.state is DeliveryState.DELIVERING


def test_a_lone_failing_signal_is_not_parked_after_one_successful_health_check() -> None:
    class Wavering(ScriptedAlpine):
        async def is_healthy(self) -> bool:
            await super().is_healthy()
            return self.health_checks % 2 == 1

    world = World(Wavering(answer_to=lambda _: SERVER_ERROR))

    async def scenario(world: World) -> None:
        world.add(1)
        await world.until(lambda: world.script.health_checks >= 8)

    run_scenario(world, scenario)
    assert world.outcomes == {}


def test_a_lone_signal_without_an_answer_is_not_parked_even_if_alpine_is_healthy() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: UNREACHABLE))

    async def scenario(world: World) -> None:
        world.add(1)
        await world.until(lambda: len(world.script.sent) > 20)

    run_scenario(world, scenario)
    assert world.outcomes == {}


def test_a_dozen_consecutive_poison_messages_are_parked_and_the_rest_is_delivered() -> None:
    poison = set(range(1, 13))
    world = World(ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq in poison else Stored()))

    async def scenario(world: World) -> None:
        world.add(*range(1, 101))
        await world.until_settled(range(1, 101))

    run_scenario(world, scenario)
    assert world.parked(FAILING) == poison
    assert world.delivered() == set(range(13, 101))


def test_a_dozen_lone_poison_messages_are_parked_once_another_signal_is_delivered() -> None:
    poison = set(range(1, 13))
    world = World(ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq in poison else Stored()))

    async def scenario(world: World) -> None:
        world.add(*poison)
        await world.until(lambda: len(world.script.sent) > 100)
        assert world.outcomes == {}  # this looks like an outage
        world.add(13)
        await world.until_settled(range(1, 14))

    run_scenario(world, scenario)
    assert world.parked(FAILING) == poison


def test_a_signal_that_is_never_answered_is_eventually_parked_while_others_are_delivered() -> None:
    world = World(
        ScriptedAlpine(answer_to=lambda seq: UNREACHABLE if seq == 1 else Stored(), delay_s=0.0005)
    )

    async def scenario(world: World) -> None:
        world.add(1)
        for number in range(2, 100_000):
            if world.parked(FAILING):
                break
            world.add(number)
            await asyncio.sleep(0.0005)

    run_scenario(world, scenario)
    assert world.parked(FAILING) == {1}
    assert Counter(world.script.sent)[1] >= 5


def test_a_signal_that_always_gets_retry_after_is_never_parked() -> None:
    world = World(ScriptedAlpine(answer_to=lambda seq: RATE_LIMITED if seq == 1 else Stored()))

    async def scenario(world: World) -> None:
        number = 2
        while Counter(world.script.sent)[1] < 60:
            world.add(*([1] if number == 2 else []), number)
            number += 1
            await asyncio.sleep(0.001)
        assert 1 not in world.outcomes

    run_scenario(world, scenario)


def test_beyond_a_thousand_failing_signals_none_is_parked_and_others_are_delivered() -> None:
    world = World(
        ScriptedAlpine(answer_to=lambda seq: SERVER_ERROR if seq == 1 else Stored(), delay_s=0.0005)
    )
    world.dispatcher.may_park = False

    async def scenario(world: World) -> None:
        world.add(*range(1, 101))
        await world.until_settled(range(2, 101))
        assert 1 not in world.outcomes

    run_scenario(world, scenario)


@settings(max_examples=25)
@given(
    poison=st.sets(st.integers(1, 40), max_size=14),
    invalid=st.sets(st.integers(1, 40), max_size=10),
    order=st.permutations(range(1, 41)),
)
def test_with_a_healthy_server_exactly_the_poison_messages_are_parked(
    poison: set[int], invalid: set[int], order: list[int]
) -> None:
    invalid -= poison

    def answer_to(seq: int) -> SendResult:
        return SERVER_ERROR if seq in poison else BAD_REQUEST if seq in invalid else Stored()

    world = World(ScriptedAlpine(answer_to=answer_to), timing=FAST_TIMING)

    async def scenario(world: World) -> None:
        world.add(*order)
        await world.until_settled(set(order) - poison)
        world.add(41)  # the others are done, and a poison message is found when another passes
        await world.until_settled([*order, 41])

    run_scenario(world, scenario)
    assert world.parked(FAILING) == poison
    assert world.parked(REFUSED) == invalid


@settings(max_examples=25)
@given(
    failures=st.lists(
        st.tuples(
            st.integers(1, 40),
            st.sampled_from([None, UNREACHABLE, SERVER_ERROR, RATE_LIMITED, BAD_REQUEST]),
        ),
        max_size=8,
    ),
    poison=st.sets(st.integers(1, 60), max_size=3),
)
def test_under_random_failures_each_signal_is_completed_exactly_once(
    failures: list[tuple[int, Unavailable | Rejected | None]], poison: set[int]
) -> None:
    """Periods of one failure each, for so many requests; after them Alpine is healthy."""
    pending_failures = [answer for count, answer in failures for _ in range(count)]
    script = ScriptedAlpine(healthy=False)

    def answer_to(seq: int) -> SendResult:
        answer = pending_failures.pop(0) if pending_failures else None
        script.healthy = not pending_failures
        return answer or (SERVER_ERROR if seq in poison else Stored())

    script.answer_to = answer_to
    world = World(script, timing=FAST_TIMING)

    async def scenario(world: World) -> None:
        world.add(*range(1, 61))
        await world.until_settled(set(range(1, 61)) - poison)
        world.add(61)
        await world.until_settled(range(1, 62))

    run_scenario(world, scenario)
    assert not world.delivered() & poison


# Resends


def test_a_due_retry_gets_one_try_and_does_not_open_the_circuit() -> None:
    script = ScriptedAlpine(
        answer_to=lambda seq: SERVER_ERROR if seq < 20 else Stored(), delay_s=0.001
    )
    world = World(script)

    async def scenario(world: World) -> None:
        world.add(*range(1, 20), resend=ResendReason.DUE)
        await world.until_settled(range(1, 20))
        world.add(20)
        await world.until_settled([20])

    run_scenario(world, scenario)
    assert world.parked(FAILING) == set(range(1, 20))
    assert max(Counter(world.script.sent).values()) == 1
    assert world.states == [DeliveryState.DELIVERING]
    assert world.script.in_flight["max"] == RESENDS_IN_FLIGHT_MAX


def test_a_due_retry_during_an_outage_stays_parked_unchanged() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: UNREACHABLE))

    async def scenario(world: World) -> None:
        world.add(1, resend=ResendReason.DUE)
        await world.until_settled([1])

    run_scenario(world, scenario)
    assert isinstance(world.outcomes[1], KeepParked)
    assert world.states == [DeliveryState.DELIVERING]


def test_signals_retried_by_hand_do_not_count_as_rejections_in_a_row() -> None:
    world = World(ScriptedAlpine(answer_to=lambda seq: BAD_REQUEST if seq < 40 else Stored()))

    async def scenario(world: World) -> None:
        world.add(*range(1, 40), resend=ResendReason.RETRY)
        await world.until_settled(range(1, 40))

    run_scenario(world, scenario)
    assert world.parked(REFUSED) == set(range(1, 40))
    assert world.states == [DeliveryState.DELIVERING]
    assert world.dispatcher.rejections == 0


def test_a_wake_up_sends_a_probe_at_once() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: BAD_REQUEST), timing=NEVER_SLOWLY)

    async def scenario(world: World) -> None:
        world.add(*range(1, 51))
        await world.until(lambda: world.dispatcher.state is DeliveryState.REJECTING)
        world.script.answer_to = lambda _: Stored()
        refused = world.parked(REFUSED)
        for seq in refused:
            del world.outcomes[seq]
        world.add(*refused, resend=ResendReason.RETRY)
        await asyncio.sleep(0.02)
        assert not world.delivered()
        world.dispatcher.wake()
        await world.until_settled(range(1, 51))

    run_scenario(world, scenario)
    assert world.delivered() == set(range(1, 51))


def test_a_wake_up_probes_with_a_retried_signal_if_the_queue_is_empty() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: WRONG_KEY), timing=NEVER_SLOWLY)

    async def scenario(world: World) -> None:
        world.add(1, resend=ResendReason.RETRY)
        await world.until_settled([1])
        assert isinstance(world.outcomes[1], KeepParked)
        assert world.dispatcher.state is DeliveryState.REFUSED
        world.script.answer_to = lambda _: Stored()
        world.add(2, resend=ResendReason.RETRY)
        world.dispatcher.wake()
        await world.until_settled([2])

    run_scenario(world, scenario)
    assert world.delivered() == {2}


def test_replays_leave_most_of_the_in_flight_window_to_new_signals() -> None:
    script = ScriptedAlpine(delay_s=0.002)
    world = World(script)

    async def scenario(world: World) -> None:
        world.add(*range(1000, 1100), resend=ResendReason.REPLAY)
        world.add(*range(1, 101))
        await world.until_settled([*range(1, 101), *range(1000, 1100)])

    run_scenario(world, scenario)
    assert script.in_flight["max"] == IN_FLIGHT_MAX
    first = script.sent[: script.sent.index(100)]
    assert sum(seq >= 1000 for seq in first) < len(first) / 2


def test_a_replay_in_an_outage_is_sent_when_it_is_over() -> None:
    world = World(ScriptedAlpine(answer_to=lambda _: UNREACHABLE))

    async def scenario(world: World) -> None:
        world.add(*range(1, 11), resend=ResendReason.REPLAY)
        await world.until(lambda: len(world.script.sent) > 50)
        assert world.dispatcher.state is DeliveryState.WAITING
        world.script.answer_to = lambda _: Duplicate()
        await world.until_settled(range(1, 11))

    run_scenario(world, scenario)
    assert len(world.delivered()) == 10
