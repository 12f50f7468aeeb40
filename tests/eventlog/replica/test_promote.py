"""Promotion on a scripted stream: exactly one home gets an epoch, whatever answers are lost."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog import EventLog, EventLogError
from eventlog.errors import LogIsReplica
from eventlog.format.line import decode
from eventlog.format.promotion import Promotion, promotion_of
from eventlog.replica import follower as follower_module
from eventlog.replica import promote as promote_module
from eventlog.replica.engine import StreamUnavailable
from eventlog.replica.promote import Overtaken, Promoted, promote
from eventlog.replica.replica_log import ReplicaLog
from eventlog.storage.home import home_at
from eventlog.storage.replica_file import ReplicaState, replica_path
from tests.harness.log_checks import assert_valid_log, lines_in, segments_in
from tests.harness.scripted_consumers import ScriptedConsumers, stream_lines
from tests.harness.signals import a_signal, signals

LINES = 6


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "RETRY_S_MIN", 0.001)
    monkeypatch.setattr(follower_module, "RETRY_S_MAX", 0.002)
    monkeypatch.setattr(promote_module, "RETRY_S", 0.001)


@pytest.fixture
def primary(tmp_path: Path) -> Path:
    home = tmp_path / "primary"
    with EventLog(home, segment_bytes=2000) as log:
        for start in range(1, LINES + 1, 2):
            log.append_many(signals(2, start=start))
    return home


@pytest.fixture
def stream(primary: Path) -> ScriptedConsumers:
    return ScriptedConsumers(stream_lines(primary))


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[ReplicaLog]:
    log = new_replica(tmp_path / "replica")
    yield log
    log.drop()


def new_replica(home: Path) -> ReplicaLog:
    log = ReplicaLog.open(home)
    log.begin(ReplicaState(stream="main"), log.catch_up())
    return log


def run(
    stream: ScriptedConsumers, log: ReplicaLog, host: str = "b", **options: object
) -> Promoted | Overtaken:
    return asyncio.run(promote(stream.open, log, host=host, **options))  # type: ignore[arg-type]


def promotions(stream: ScriptedConsumers) -> list[tuple[int, Promotion]]:
    found = [(line.seq, promotion_of(line.line)) for line in stream.lines]
    return [(seq, promotion) for seq, promotion in found if promotion is not None]


def test_a_promoted_replica_has_the_whole_stream_and_takes_appends(
    stream: ScriptedConsumers, replica: ReplicaLog
) -> None:
    with EventLog(replica.home) as opened_before, pytest.raises(LogIsReplica):
        opened_before.append(a_signal(LINES + 1))
    with EventLog(replica.home) as opened_before:
        assert run(stream, replica) == Promoted(LINES + 1, 2)
        assert opened_before.append(a_signal(LINES + 1)).seq == LINES + 2
    home = Path(replica.home)
    assert lines_in(home)[: LINES + 1] == [line.line for line in stream.lines]
    assert promotions(stream) == [(LINES + 1, Promotion(2, "b"))]
    assert stream.lines[-1].segment == LINES + 1  # each epoch begins a segment
    assert int(segments_in(home)[-1].name[:20]) == LINES + 1
    assert_valid_log(home)


def test_of_three_at_once_exactly_one_is_promoted_and_the_others_learn_which(
    stream: ScriptedConsumers, tmp_path: Path
) -> None:
    logs = {host: new_replica(tmp_path / host) for host in "bcd"}

    async def race() -> dict[str, Promoted | Overtaken]:
        found = await asyncio.gather(
            *(promote(stream.open, log, host=host) for host, log in logs.items())
        )
        return dict(zip(logs, found, strict=True))

    found = asyncio.run(race())
    ((_, promotion),) = promotions(stream)
    assert found.pop(promotion.host) == Promoted(LINES + 1, 2)
    assert set(found.values()) == {Overtaken(promotion.host, 2)}
    for host in found:
        state = logs[host].state
        assert state == ReplicaState(stream="main", epoch=2, primary=promotion.host)
    for log in logs.values():
        log.drop()


@pytest.mark.parametrize(
    ("lose_acks", "refuse"),
    [
        pytest.param(1, 0, id="stored and not answered"),
        pytest.param(0, 2, id="refused by a proposal that was never committed"),
    ],
)
def test_an_unknown_outcome_is_read_from_the_stream_and_published_once(
    stream: ScriptedConsumers, replica: ReplicaLog, lose_acks: int, refuse: int
) -> None:
    stream.lose_acks, stream.refuse = lose_acks, refuse
    assert run(stream, replica) == Promoted(LINES + 1, 2)
    assert len(promotions(stream)) == 1
    assert len(set(stream.appended)) == 1  # each try has the same bytes


def test_lines_that_the_old_primary_still_publishes_are_before_the_promotion(
    stream: ScriptedConsumers, replica: ReplicaLog, primary: Path
) -> None:
    with EventLog(primary, segment_bytes=2000) as log:
        for number in (11, 12):
            log.append(a_signal(number))
    late = stream_lines(primary)[LINES:]
    stream.before_append = [late[:1], late[1:]]
    assert run(stream, replica) == Promoted(LINES + 3, 2)
    assert [decode(line).event for line in lines_in(Path(replica.home))][-3:] == [
        "signal",
        "signal",
        "promoted",
    ]


class Killed(BaseException):
    """The process dies."""


@pytest.mark.parametrize("step", ["prepare_promotion", "append", "write", "finish_promotion"])
def test_killed_at_any_step_it_is_run_again_and_promoted_once(
    stream: ScriptedConsumers,
    replica: ReplicaLog,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    run_once = Follow(replica, stream)
    run_once()
    target = stream if step == "append" else replica
    real = getattr(target, step)

    async def append_and_die(*args: object) -> None:
        await real(*args)
        raise Killed

    def die(*args: object) -> None:
        if step == "finish_promotion" and not promotions(stream):
            return  # it looks before it publishes
        if step == "prepare_promotion":
            real(*args)
        raise Killed

    monkeypatch.setattr(target, step, append_and_die if step == "append" else die)
    with pytest.raises(Killed):
        run(stream, replica)
    monkeypatch.undo()
    with pytest.raises(LogIsReplica), EventLog(replica.home) as log:
        log.append(a_signal(99))
    again = ReplicaLog.open(replica.home)
    assert run(stream, again) == Promoted(LINES + 1, 2)
    assert len(promotions(stream)) == 1
    again.drop()


class Follow:
    """Follows to the end of the stream, so that nothing but the promotion is written later."""

    def __init__(self, log: ReplicaLog, stream: ScriptedConsumers) -> None:
        self._log = log
        self._lines = list(stream.lines)

    def __call__(self) -> None:
        self._log.write(self._lines)


def test_an_attempt_that_another_home_overtook_is_forgotten(
    stream: ScriptedConsumers, replica: ReplicaLog, tmp_path: Path
) -> None:
    replica.write(stream.lines)
    replica.prepare_promotion(Promotion(2, "b"), "2025-11-18T02:00:00.000000Z")
    other = new_replica(tmp_path / "other")
    assert run(stream, other, "c") == Promoted(LINES + 1, 2)
    assert run(stream, replica) == Overtaken("c", 2)
    assert replica.state == ReplicaState(stream="main", epoch=2, primary="c")
    # A person who knows of it may promote this home all the same.
    assert run(stream, replica) == Promoted(LINES + 2, 3)
    other.drop()


def test_an_epoch_that_the_stream_has_is_not_given_again(
    stream: ScriptedConsumers, replica: ReplicaLog, tmp_path: Path
) -> None:
    other = new_replica(tmp_path / "other")
    assert run(stream, other, "c") == Promoted(LINES + 1, 2)
    replica.write(stream.lines)
    assert run(stream, replica, epoch=2) == Overtaken("c", 2)
    assert len(stream.lines) == LINES + 1
    other.drop()


def test_a_replica_seeded_with_a_log_knows_the_epoch_of_its_lines(
    stream: ScriptedConsumers, replica: ReplicaLog, tmp_path: Path
) -> None:
    assert run(stream, replica) == Promoted(LINES + 1, 2)
    again = ReplicaLog.open(replica.home)  # as after a restore: the log, and no mark of a replica
    asyncio.run(
        follower_module.Follower(stream.open, again, stream="main").run(asyncio.Event(), once=True)
    )
    assert again.state == ReplicaState(stream="main", epoch=2, primary="b")
    assert run(stream, again, "c") == Promoted(LINES + 2, 3)
    again.drop()


def test_what_is_no_replica_is_not_promoted(stream: ScriptedConsumers, primary: Path) -> None:
    log = ReplicaLog.open(primary)
    with pytest.raises(EventLogError, match="is no replica"):
        run(stream, log)
    assert len(stream.lines) == LINES
    log.drop()


def test_a_stream_that_grows_for_ever_ends_it_in_words(
    stream: ScriptedConsumers, replica: ReplicaLog
) -> None:
    stream.refuse = 1_000_000
    with pytest.raises(StreamUnavailable, match="stop the old primary"):
        run(stream, replica, timeout_s=0.05)
    assert Path(replica_path(home_at(replica.home))).exists()


def test_a_line_that_only_mentions_the_event_is_no_promotion() -> None:
    line = b'{"v":1,"seq":1,"batch":1,"recorded_at":"2025-11-18T02:00:00.000000Z",'
    chain = b',"chain":"' + b"0" * 64 + b'"}\n'
    assert (
        promotion_of(line + b'"event":"note","x":{"a":1,"event":"promoted","b":1}' + chain) is None
    )
    assert promotion_of(line + b'"event":"promoted","epoch":"2","host":"b"' + chain) is None
    assert promotion_of(line + b'"event":"promoted","epoch":2,"host":"b"' + chain) == (2, "b")
