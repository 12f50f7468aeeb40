"""The live stream: durable, in order, once; what is left out is counted; ends are reported."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from eventlog import EventLog
from projections.serving.app import QueryParams
from projections.web.console import Console
from projections.web.live import STREAMS_MAX
from projections.web.views.log_rows import ROWS_MAX, SHOWN_ROWS
from tests.harness.console import Event, console
from tests.harness.deadline import until_async
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, signals

REPORTED_S_MAX = 5.0  # the promise


@pytest.fixture
def small_home(home: Path) -> Path:
    append(home, *signals(3))
    project(home)
    return home


def seqs_of(event: Event) -> list[int]:
    return [row["seq"] for row in event.data["rows"]]


@pytest.mark.slow
def test_entries_are_shown_once_and_in_order_across_a_restart_of_the_server(
    small_home: Path,
) -> None:
    seen: list[int] = []
    last_id = ""
    for start in (4, 14):
        with console(small_home, "--no-login") as c:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            with c.stream(**headers) as events, EventLog(small_home) as log:
                hello = next(events)
                seen += seqs_of(hello)
                for number in range(start, start + 5):
                    log.append(a_signal(number))
                while not seen or seen[-1] < start + 4:
                    event = next(events)
                    if event.name == "entries":
                        assert event.data["left_out"] == 0
                        seen += seqs_of(event)
                        last_id = event.id
        if start == 4:
            append(small_home, *signals(5, start=9))  # while no server runs
    assert seen == list(range(1, 19))


@pytest.mark.slow
def test_what_a_message_has_no_room_for_is_counted(small_home: Path) -> None:
    with console(small_home, "--no-login") as c, c.stream() as events:
        next(events)
        append(small_home, *signals(1_000, start=4))
        count = left_out = rows = 0
        last_id = ""
        while count < 1_000:
            event = next(events)
            if event.name == "entries":
                assert len(event.data["rows"]) <= SHOWN_ROWS
                count += event.data["n"]
                left_out += event.data["left_out"]
                rows += len(event.data["rows"])
                last_id = event.id
        assert (count, left_out) == (1_000, 1_000 - rows)
        assert last_id == "1003"
        with c.stream(**{"Last-Event-ID": "100"}) as resumed:
            assert seqs_of(next(resumed)) == []
            entries = next(resumed)
            assert entries.data["n"] == 903
            assert entries.data["left_out"] == 903 - ROWS_MAX
            assert seqs_of(entries) == list(range(504, 1_004))


def test_an_id_of_another_log_begins_anew(small_home: Path) -> None:
    with console(small_home, "--no-login") as c:
        with c.stream(**{"Last-Event-ID": "99"}) as events:
            assert seqs_of(next(events)) == [1, 2, 3]
        assert c.request("/api/live", headers={"Last-Event-ID": "x"}).status_code == 422


def with_console(home: Path, use: Callable[[Console], Awaitable[None]]) -> None:
    async def run() -> None:
        found = Console(home, is_read_only=False)
        async with found.running():
            await use(found)

    asyncio.run(run())


@pytest.mark.parametrize("name", ["LiveLog.follow", "Vitals.keep_sampling"])
def test_the_end_of_a_background_task_reaches_verdict_and_streams_in_5_s(
    small_home: Path, name: str
) -> None:
    async def use(found: Console) -> None:
        messages = found.streams.messages(None)
        await anext(messages)
        started_s = time.monotonic()
        (task,) = (each for each in asyncio.all_tasks() if name in str(each.get_coro()))
        task.cancel()
        while b"event: problem" not in await anext(messages):
            assert time.monotonic() - started_s < REPORTED_S_MAX
        verdict = found.vitals.whole()["verdict"]
        assert isinstance(verdict, dict)
        assert verdict["level"] == "bad"
        assert time.monotonic() - started_s < REPORTED_S_MAX
        await messages.aclose()  # type: ignore[attr-defined]

    with_console(small_home, use)


@pytest.mark.slow
def test_a_log_that_cannot_be_read_is_a_problem_until_it_can(small_home: Path) -> None:
    async def use(found: Console) -> None:
        segment = next((small_home / "logs").glob("0*.jsonl"))
        whole = segment.read_bytes()
        os.truncate(segment, len(whole) // 2)
        await until_async(lambda: found.vitals.problem() is not None)
        assert str(small_home) not in str(found.vitals.problem())
        segment.write_bytes(whole)
        await until_async(lambda: found.vitals.problem() is None)

    with_console(small_home, use)


@pytest.mark.parametrize("count", [2, 9])
def test_another_log_in_its_place_is_a_problem_and_no_continuation(
    small_home: Path, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.web.views.live_log.RETRY_S", 0.05)
    other = tmp_path / "other"
    append(other, *signals(count, start=50))
    project(other)

    async def use(found: Console) -> None:
        at = found.moments.now().recorded_at
        await asyncio.sleep(0.01)  # a time that is past
        assert found.moments.of(QueryParams(as_of=at)).seq == 3
        os.rename(small_home, tmp_path / "before")
        os.rename(other, small_home)
        await until_async(lambda: found.log.problem is not None)
        await asyncio.sleep(0.5)  # many attempts
        assert found.log.problem is not None
        assert found.log.last_seq == 3
        assert found.moments.of(QueryParams(as_of=at)).seq == 0

    with_console(small_home, use)


def test_figures_that_are_no_longer_taken_are_a_problem_in_5_s(
    small_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(found: Console) -> None:
        assert found.vitals.problem() is None
        now_s = time.monotonic()
        monkeypatch.setattr(
            "projections.web.views.vitals.time.monotonic", lambda: now_s + REPORTED_S_MAX
        )
        assert found.vitals.problem() is not None
        monkeypatch.undo()

    with_console(small_home, use)


def test_the_257th_stream_is_refused_and_the_page_stays(small_home: Path) -> None:
    async def use(found: Console) -> None:
        streams = [found.streams.messages(None) for _ in range(STREAMS_MAX)]
        for messages in streams:
            await anext(messages)
        assert found.streams.is_full
        for messages in streams:
            await messages.aclose()  # type: ignore[attr-defined]
        assert not found.streams.is_full

    with_console(small_home, use)
