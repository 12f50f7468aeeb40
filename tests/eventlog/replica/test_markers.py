"""A file of any kind named `.fenced` or `.replica` stops appends, also one that cannot be read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError, LogFenced, LogIsReplica, UnsafePath
from eventlog.append.dry_run import DryRun
from eventlog.plumbing import fence_state, replica_state
from eventlog.storage.disk import RealDisk
from eventlog.storage.home import home_at
from eventlog.storage.segment_disk import SegmentDisk
from tests.harness.log_checks import lines_in
from tests.harness.signals import a_signal


def link_to_a_marker(path: Path) -> None:
    target = path.with_name("marker")
    target.write_text('{"stream":"main","epoch":1,"seq":1}')
    path.symlink_to(target)


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


KINDS: list[Callable[[Path], object]] = [link_to_a_marker, link_to_nothing, Path.mkdir, os.mkfifo]


@pytest.mark.parametrize(("name", "error"), [(".fenced", LogFenced), (".replica", LogIsReplica)])
@pytest.mark.parametrize("make", KINDS)
def test_a_marker_of_any_kind_stops_appends_and_says_what_is_wrong_with_it(
    tmp_path: Path, name: str, error: type[EventLogError], make: Callable[[Path], object]
) -> None:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append(a_signal(1))
        before = lines_in(home)
        make(home / "logs" / name)
        with pytest.raises(error, match=r"a symbolic link|no regular file"):
            log.append(a_signal(2))
        with pytest.raises(error):
            log.append_many([a_signal(1)])  # no receipt for a retry either
    with pytest.raises(error):
        DryRun(SegmentDisk(RealDisk()), home_at(home), lambda: "", 10)
    with pytest.raises(UnsafePath):
        (fence_state if error is LogFenced else replica_state)(home)
    assert lines_in(home) == before
