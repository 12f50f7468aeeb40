"""RemoteLog without a network: nothing is lost and nothing is written twice, whatever is lost."""

import asyncio
import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventlog
from eventlog import (
    AppendTimeout,
    EventLog,
    EventLogError,
    InvalidSignal,
    LogClosed,
    RemoteLog,
    StreamRefused,
    StreamUnavailable,
    Unsupported,
)
from tests.harness.scripted_server import SETTINGS, ScriptedLink
from tests.harness.signals import a_signal, closed, signals


@contextmanager
def remote(link: ScriptedLink, timeout_s: float = 30.0) -> Iterator[RemoteLog]:
    with RemoteLog(SETTINGS, timeout_s=timeout_s, open_connection=link.open) as log:
        try:
            yield log
        finally:
            link.service.close()


def stored(home: Path) -> list[tuple[str, object]]:
    with EventLog(home) as log:
        return [(entry.event, entry.payload.get("signal_id")) for entry in log.read()]


def test_receipts_and_entries_are_those_of_a_local_append(tmp_path: Path) -> None:
    items = [a_signal(1), a_signal(2, timestamp=None), closed(1), {"event": "note", "x": 1}]
    with EventLog(tmp_path / "local") as local, remote(ScriptedLink(tmp_path / "remote")) as log:
        for item in [*items, items[0], items[2]]:
            here, there = local.append(item), log.append(item)
            assert there._replace(chain="", recorded_at="", sha256="") == here._replace(
                chain="", recorded_at="", sha256=""
            )
            assert there.sha256 == here.sha256 or item is items[1]  # its time is that of the append
        many = [a_signal(7), a_signal(8), a_signal(7)]
        assert [(r.seq, r.duplicate) for r in log.append_many(many)] == [
            (r.seq, r.duplicate) for r in local.append_many(many)
        ]
        assert log.append_many([]) == []
    assert stored(tmp_path / "remote") == stored(tmp_path / "local")


def error_of(work: Callable[[], object]) -> EventLogError:
    with pytest.raises(EventLogError) as raised:
        work()
    return raised.value


@pytest.mark.parametrize(
    "item",
    [
        a_signal(symbol=None),
        a_signal(1, confidence=3.0),
        a_signal(2, note="x" * 70_000),
        a_signal(2, sha256="0" * 64),
        "no item",
        {"event": "closed", "signal_id": "s-1"},
        {"event": "promoted!"},
    ],
    ids=range(7),
)
def test_errors_are_those_of_a_local_append(tmp_path: Path, item: Any) -> None:
    with EventLog(tmp_path / "local") as local, remote(ScriptedLink(tmp_path / "remote")) as log:
        local.append(a_signal(1))
        log.append(a_signal(1))
        for do in ("append", "append_many"):
            given = item if do == "append" else [a_signal(5), item]
            here = error_of(lambda: getattr(local, do)(given))  # noqa: B023
            there = error_of(lambda: getattr(log, do)(given))  # noqa: B023
            assert (type(there), str(there), vars(there)) == (type(here), str(here), vars(here))
    assert stored(tmp_path / "remote") == [("signal", "s-1")]


@pytest.mark.parametrize("stops", [True, False])
def test_each_of_many_independent_items_has_its_result(tmp_path: Path, stops: bool) -> None:
    items = [a_signal(1), a_signal(1), {"x": 1}, a_signal(1, confidence=3.0), a_signal(2)]
    for order in (items, items[1:] + items[:1], items[3:]):
        for home in (tmp_path / "local", tmp_path / "remote"):
            with EventLog(home) as log:
                log.append(a_signal(1))
        link = ScriptedLink(tmp_path / "remote")
        with EventLog(tmp_path / "local") as local, remote(link) as log:
            here = local.append_each(order, stop_at_refusal=stops)
            there = log.append_each(order, stop_at_refusal=stops)
        assert [type(result) for result in there] == [type(result) for result in here]
        assert stored(tmp_path / "remote") == stored(tmp_path / "local")


def test_many_items_are_several_requests_and_one_call_of_append_many_is_one(tmp_path: Path) -> None:
    link = ScriptedLink(tmp_path)
    with remote(link) as log:
        with pytest.raises(Unsupported, match="1,001 items are too many"):
            log.append_many(signals(1001))
        assert stored(tmp_path) == []
        found = log.append_each(signals(2001))
        assert [r.seq for r in found if not isinstance(r, EventLogError)] == [*range(1, 2002)]
        assert [request.count(b"\n") for request in link.requests] == [999, 999, 0]
        assert max(map(len, link.requests)) < 512 << 10


STEPS = ["answer", "lost", "before", "unserved", "unreachable", "down", "garbage"]


@pytest.mark.slow
@given(script=st.lists(st.sampled_from(STEPS), max_size=4))
@settings(max_examples=20, deadline=None)
def test_whatever_is_lost_each_entry_is_written_once(
    tmp_path_factory: pytest.TempPathFactory, script: list[str]
) -> None:
    home = tmp_path_factory.mktemp("home")
    with remote(ScriptedLink(home, script)) as log:
        first = log.append(a_signal(1, signal_id=None))
        assert first.seq == 1
        assert log.append(closed(9)).seq == 2
        assert [r.seq for r in log.append_many(signals(2))] == [3, 4]
    assert stored(home) == [
        ("signal", first.signal_id),
        ("closed", "s-9"),
        ("signal", "s-1"),
        ("signal", "s-2"),
    ]


def test_a_retry_has_the_receipt_of_the_entry_that_the_first_try_wrote(tmp_path: Path) -> None:
    with remote(ScriptedLink(tmp_path, ["lost"])) as log:
        receipt = log.append(a_signal(timestamp=None, signal_id=None))
        assert receipt == log.append(a_signal(timestamp=None, signal_id=receipt.signal_id))
        assert (receipt.seq, receipt.duplicate) == (1, True)


def test_an_event_without_a_signal_id_is_not_sent_again(tmp_path: Path) -> None:
    """The log would not recognise the second one."""
    twice = pytest.raises(AppendTimeout, match="may be written twice by a retry")
    with remote(ScriptedLink(tmp_path, ["unserved", "lost"])) as log, twice:
        log.append({"event": "note"})
    assert stored(tmp_path) == [("note", None)]


@pytest.mark.parametrize(
    ("step", "kind", "reason"),
    [
        ("unserved", StreamUnavailable, "nothing was written .*`eventlog serve` does not run"),
        ("unreachable", StreamUnavailable, "nothing was written .*there is no connection"),
        ("down", AppendTimeout, "outcome is unknown.*there is no connection"),
        ("before", AppendTimeout, "outcome is unknown.* retry with the same signal_id"),
        ("garbage", AppendTimeout, "outcome is unknown.*cannot be understood"),
    ],
)
def test_after_its_time_an_append_says_whether_something_may_be_written(
    tmp_path: Path, step: str, kind: type[EventLogError], reason: str
) -> None:
    with remote(ScriptedLink(tmp_path, [step] * 99), timeout_s=0.12) as log:
        with pytest.raises(kind, match=reason):
            log.append(a_signal())
        results = log.append_each([a_signal(), {"x": 1}, a_signal(2)])
        assert [type(result) for result in results] == [kind, InvalidSignal, kind]


def test_a_try_without_effect_does_not_hide_one_that_may_have_had_one(tmp_path: Path) -> None:
    script = ["before", *["unserved"] * 99]
    link = ScriptedLink(tmp_path, script)
    with remote(link, timeout_s=0.2) as log, pytest.raises(AppendTimeout):
        log.append(a_signal())


def test_a_denied_request_is_raised_at_once(tmp_path: Path) -> None:
    link = ScriptedLink(tmp_path, ["refused"])
    with remote(link) as log:
        with pytest.raises(StreamRefused, match="permissions violation"):
            log.append(a_signal())
        assert log.append(a_signal()).seq == 1


def test_the_receipt_of_an_old_primary_is_not_believed(tmp_path: Path) -> None:
    """What it appends after the promotion of another home is not in the stream."""
    link = ScriptedLink(tmp_path, ["answer", "old", "answer", "old"])
    link.service.epoch = 2
    with remote(link) as log:
        assert log.epoch == 0
        log.append(a_signal(1))
        assert log.epoch == 2
        log.append(a_signal(2))
        assert len(link.requests) == 3
    with remote(ScriptedLink(tmp_path, []), timeout_s=0.2) as log:
        log._client.epoch = 5
        with pytest.raises(AppendTimeout, match="primary of epoch 1 answers"):
            log.append(a_signal(3))


def test_many_tasks_and_loops_append_at_once(tmp_path: Path) -> None:
    link = ScriptedLink(tmp_path)

    async def several(log: RemoteLog, start: int) -> list[int]:
        items = signals(50, start=start)
        return [r.seq for r in await asyncio.gather(*map(log.append_async, items))]

    async def leave() -> None:
        async with RemoteLog(SETTINGS, open_connection=link.open) as log:
            await log.append_async(a_signal(999))
        with pytest.raises(LogClosed):
            await log.append_async(a_signal(999))

    with remote(link) as log:
        found = asyncio.run(several(log, 1)) + asyncio.run(several(log, 100))
        assert sorted(found) == [*range(1, 101)]
        assert link.opened == 1
        asyncio.run(leave())


def test_a_closed_handle_refuses_and_close_waits_for_what_is_in_progress(tmp_path: Path) -> None:
    log = RemoteLog(SETTINGS, open_connection=ScriptedLink(tmp_path, ["unserved"] * 3).open)
    future = log._start([eventlog.log.validated(a_signal())], "all", None)
    log.close()
    log.close()
    assert future.done()
    assert stored(tmp_path) == [("signal", "s-1")]
    with pytest.raises(LogClosed, match=r"this log handle is closed.*eventlog\.connect"):
        log.append(a_signal())


@pytest.mark.parametrize("passing", [pickle.dumps, copy.copy])
def test_a_handle_is_not_passed_to_another_process(passing: Callable[[object], object]) -> None:
    refused = pytest.raises(LogClosed, match="cannot be pickled")
    with eventlog.connect("nats://127.0.0.1:1", "main") as log, refused:
        passing(log)


def test_a_setting_that_cannot_be_is_named() -> None:
    for url, stream, words in (
        ("nats://a", "No Name", "is no name of a stream"),
        ("", "main", "address of the server"),
    ):
        with pytest.raises(EventLogError, match=words):
            eventlog.connect(url, stream)
    with pytest.raises(ValueError, match="timeout_s"):
        eventlog.connect("nats://a", "main", timeout_s=0)


_FORKING = """\
import os, sys
import eventlog
from pathlib import Path
from tests.harness.scripted_server import SETTINGS, ScriptedLink
from tests.harness.signals import a_signal

log = eventlog.RemoteLog(SETTINGS, open_connection=ScriptedLink(Path(sys.argv[1])).open)
log.append(a_signal(1))
pid = os.fork()
if not pid:
    try:
        log.append(a_signal(2))
    except eventlog.LogClosed as error:
        log.close()
        os._exit(0 if "before the process forked" in str(error) else 4)
    os._exit(5)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert log.append(a_signal(3)).seq == 2
log.close()
sys.exit(status)
"""


@pytest.mark.slow
def test_a_remote_handle_of_a_parent_refuses_in_a_forked_child(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _FORKING, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_remote_log_adds_salts_that_no_retry_compares(tmp_path: Path) -> None:
    link = ScriptedLink(tmp_path)
    with RemoteLog(SETTINGS, salt=True, open_connection=link.open) as log:
        try:
            first = [log.append(a_signal(1)), *log.append_many([a_signal(2), closed(1)])]
            first += [asyncio.run(log.append_async(a_signal(3)))]
            again = log.append_each([a_signal(1), a_signal(2), closed(1), a_signal(3)])
        finally:
            link.service.close()
    assert again == [receipt._replace(duplicate=True) for receipt in first]
    with EventLog(tmp_path) as local:
        salts = [str(entry.payload["salt"]) for entry in local.read()]
    assert len(set(salts)) == len(salts) == 4
    assert all(len(salt) == 32 for salt in salts)
