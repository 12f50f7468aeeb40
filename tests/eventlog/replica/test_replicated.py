"""An entry is replicated only if the mirror's record proves it; a wait says what is missing."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eventlog import EventLog, LogIsReplica, NotReplicated, WaitTimeout
from eventlog.plumbing import FileLock, make_private_dir, write_record
from eventlog.replica.mirror_record import ACKED_NAME, RECORD_NAME, MirrorRecord
from eventlog.replica.replicated import is_replicated, replication_obstacles
from tests.harness.command import eventlog, jsonl, pipe
from tests.harness.deadline import until
from tests.harness.signals import a_signal, signals

NO_MIRROR = "no mirror runs: start `eventlog project mirror`"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "home") as log:
        log.append_many(signals(5))
    return tmp_path / "home"


def chain_of(home: Path, seq: int) -> str:
    with EventLog(home) as log:
        return next(log.read(after=seq - 1)).chain


def note(home: Path, record: MirrorRecord) -> None:
    """Writes the record as the mirror does."""
    data_dir = home / "data"
    if not data_dir.exists():
        make_private_dir(data_dir)
    write_record(data_dir, RECORD_NAME, asdict(record))


def acknowledged(home: Path, seq: int) -> MirrorRecord:
    """What the mirror notes once three servers hold the log up to `seq`."""
    return MirrorRecord(
        stream="EVENTLOG_main",
        acked=seq,
        acked_chain=chain_of(home, seq),
        state="mirroring",
        replicas=3,
        replicas_current=3,
    )


@contextmanager
def running_mirror(home: Path) -> Iterator[None]:
    """The lock that the projection holds while it runs."""
    if not (home / "run").exists():
        make_private_dir(home / "run")
    lock = FileLock(home / "run" / "mirror.json")
    assert lock.try_take()
    try:
        yield
    finally:
        lock.drop()


def test_what_the_stream_acknowledged_is_replicated_and_nothing_after_it(home: Path) -> None:
    note(home, acknowledged(home, 3))
    assert [is_replicated(str(home), seq) for seq in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("of another log", {"acked_chain": "0" * 64}),
        ("without a chain", {"acked_chain": None}),
        ("beyond the log", {"acked": 9}),
        ("how many servers is unknown", {"replicas": None}),
        ("messages are missing", {"state": "short"}),
        ("a rule is broken", {"state": "unfit"}),
    ],
)
def test_a_record_that_proves_nothing_replicates_nothing(
    home: Path, name: str, change: dict[str, object]
) -> None:
    note(home, replace(acknowledged(home, 3), **change))  # type: ignore[arg-type]
    assert not is_replicated(str(home), 3), name


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({}, True),
        ({"lost_acked": 1}, False),  # of a time before the record, or after one that was lost
        ({"stream": "EVENTLOG_other"}, False),
        ({"acked_chain": "0" * 64}, False),
    ],
)
def test_a_later_acknowledgement_counts_beside_a_record_of_the_same_losses(
    home: Path, change: dict[str, object], counts: bool
) -> None:
    make_private_dir(home / "run")
    later = replace(acknowledged(home, 5), **change)  # type: ignore[arg-type]
    write_record(home / "run", ACKED_NAME, asdict(later))
    assert not is_replicated(str(home), 5)  # without a record
    note(home, acknowledged(home, 3))
    assert is_replicated(str(home), 5) is counts


@pytest.mark.parametrize("replicas", [1, None])
def test_a_later_acknowledgement_of_one_server_replicates_nothing(
    home: Path, replicas: int | None
) -> None:
    make_private_dir(home / "run")
    later = replace(acknowledged(home, 5), replicas=replicas)
    write_record(home / "run", ACKED_NAME, asdict(later))
    note(home, acknowledged(home, 3))
    if replicas is None:
        assert not is_replicated(str(home), 4)
    else:
        with pytest.raises(NotReplicated):
            is_replicated(str(home), 4)


@pytest.mark.parametrize("state", ["waiting", "fenced"])
def test_what_was_acknowledged_stays_replicated_in_an_outage_and_behind_a_fence(
    home: Path, state: str
) -> None:
    note(home, replace(acknowledged(home, 3), state=state))
    assert is_replicated(str(home), 3)
    assert not is_replicated(str(home), 4)


def test_nothing_is_replicated_without_a_mirror(home: Path) -> None:
    assert not is_replicated(str(home), 1)
    with EventLog(home) as log, pytest.raises(WaitTimeout, match=NO_MIRROR):
        log.wait_replicated(1, timeout_s=0)


@pytest.mark.parametrize("replicas", [1, 2])
def test_fewer_than_three_replicas_are_refused_at_once(home: Path, replicas: int) -> None:
    note(home, replace(acknowledged(home, 5), replicas=replicas))
    with EventLog(home) as log, pytest.raises(NotReplicated, match=f"has {replicas} of the 3"):
        log.wait_replicated(1)


def test_the_commands_refuse_a_stream_with_one_server_at_once(home: Path) -> None:
    note(home, replace(acknowledged(home, 5), replicas=1))
    waited = eventlog("wait", 1, "--for", "replicated", "--json", home=home)
    assert (waited.code, waited.answers[0]["result"]) == (1, "single")
    appended = eventlog("append", "--wait", "replicated", home=home, stdin=jsonl([a_signal(6)]))
    assert (appended.code, appended.out) == (3, b"")
    with EventLog(home) as log:
        assert log.last_seq == 5  # nothing was written


def test_a_wait_ends_when_the_record_shows_the_entry(home: Path) -> None:
    note(home, acknowledged(home, 4))
    timer = threading.Timer(0.05, lambda: note(home, acknowledged(home, 5)))
    with EventLog(home) as log:
        log.wait_replicated(4, timeout_s=0)
        timer.start()
        log.wait_replicated(5, timeout_s=20)
    timer.join()


def test_the_obstacles_name_what_keeps_an_entry_back(home: Path) -> None:
    assert replication_obstacles(str(home), 6) == [
        "entry 6 is not in the log yet, which ends at entry 5",
        NO_MIRROR,
    ]
    with running_mirror(home):
        assert replication_obstacles(str(home), 5) == []
        note(home, replace(acknowledged(home, 3), state="waiting", last_error="no quorum"))
        assert replication_obstacles(str(home), 5) == ["the mirror is waiting: no quorum"]


def test_a_replica_sends_the_question_to_its_primary(home: Path) -> None:
    (home / "logs" / ".replica").write_text('{"stream": "main", "epoch": 1}')
    (found,) = replication_obstacles(str(home), 5)
    assert found == "this home is a replica: only its primary knows what is replicated"
    with EventLog(home) as log, pytest.raises(LogIsReplica):
        log.append(a_signal(9))


def test_append_holds_a_receipt_back_until_its_entry_is_replicated(home: Path) -> None:
    with running_mirror(home), pipe(home, "--wait", "replicated") as running:
        running.send_items(a_signal(6))
        until(lambda: b'"seq":6' in (home / "logs" / f"{1:020}.jsonl").read_bytes())
        assert running.is_silent()
        note(home, acknowledged(home, 6))
        assert [answer["seq"] for answer in running.read_answers()] == [6]
        running.close_stdin()
        assert running.wait() == 0
    assert running.err == ""


def test_append_says_that_no_mirror_runs_and_gives_up_in_time(home: Path) -> None:
    note(home, acknowledged(home, 5))
    lines = jsonl([a_signal(5), a_signal(6), a_signal(7)])  # the first is in the log
    done = eventlog(
        *("append", "--skip-invalid", "--wait", "replicated", "--timeout", 0.05),
        home=home,
        stdin=lines,
    )
    assert done.code == 1
    assert f"waiting: {NO_MIRROR}" in done.err
    assert "entry 7 was not replicated within 0.05 s" in done.err
    first, *late = done.answers
    assert (first["seq"], first["duplicate"]) == (5, True)
    assert [answer["line"] for answer in late] == [2, 3]
    assert "entry 6 is durable and not replicated yet" in late[0]["error"]
    with EventLog(home) as log:
        assert log.last_seq == 7


def test_a_signal_ends_the_wait_of_append_with_an_answer_for_each_line(home: Path) -> None:
    with pipe(home, "--wait", "replicated") as running:
        running.send_items(a_signal(6))
        until(lambda: NO_MIRROR in running.err_so_far)
        running.send(signal.SIGTERM)
        (answer,) = running.read_all_answers()
        assert "entry 6 is durable and not replicated yet" in answer["error"]
        assert running.wait() == 1


def test_wait_and_its_timeout_are_options_of_an_append_that_writes(home: Path) -> None:
    alone = eventlog("append", "--timeout", 1, home=home)
    assert (alone.code, "--timeout needs --wait" in alone.err) == (2, True)
    check = eventlog("append", "--check", "--wait", "replicated", home=home)
    assert (check.code, "--check does not work with --wait" in check.err) == (2, True)
