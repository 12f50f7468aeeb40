"""Several files are synced at the same time, and each of them is."""

import threading
from collections.abc import Callable

import pytest

from eventlog.storage.group_sync import SYNCS_AT_ONCE_MAX, sync_all
from tests.harness.deadline import DEADLINE_S

FDS = list(range(100, 100 + 3 * SYNCS_AT_ONCE_MAX))


def test_each_file_is_synced_once_and_several_at_the_same_time() -> None:
    synced: list[int] = []
    meeting = threading.Barrier(SYNCS_AT_ONCE_MAX)

    def sync(fd: int) -> None:
        meeting.wait(DEADLINE_S)
        synced.append(fd)

    sync_all(sync, FDS)
    assert sorted(synced) == FDS


def test_the_error_of_any_sync_is_raised() -> None:
    def sync(fd: int) -> None:
        if fd == FDS[-1]:
            raise OSError("the device is gone")

    with pytest.raises(OSError, match="the device is gone"):
        sync_all(sync, FDS)


@pytest.mark.parametrize("threads", [0, 1])
def test_without_new_threads_each_file_is_synced_all_the_same(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Callable[[threading.Thread], None] = threading.Thread.start
    started: list[threading.Thread] = []

    def refuse(thread: threading.Thread) -> None:
        if len(started) >= threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    synced: list[int] = []
    sync_all(synced.append, FDS)
    assert set(synced) == set(FDS)


def test_no_file_needs_no_thread() -> None:
    sync_all(lambda _: pytest.fail("nothing to sync"), [])
