"""Parked signals: shown with Alpine's answer; retry and discard write what the command writes."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from projections.delivery.lease import DeliveryLease
from projections.delivery.outbox import FAILING, REFUSED, Outbox, UnsavedChanges, outbox_path
from projections.delivery.outbox_rows import ParkedSignal
from projections.projection import Checkpoint
from tests.harness.console import console
from tests.harness.read_side import append, project
from tests.harness.signals import signals

BODY = "<script>alert(1)</script> signal hash verification failed"


@pytest.fixture
def parked_home(home: Path) -> Path:
    """A home of which signals 1 to 3 are parked, and no process delivers."""
    append(home, *signals(4))
    project(home)
    now_s = time.time()
    unsaved = UnsavedChanges()
    for seq, kind in ((1, REFUSED), (2, FAILING), (3, REFUSED)):
        unsaved.park[seq] = ParkedSignal(
            seq, f"s-{seq}", kind, 422, BODY, 2, now_s, now_s, now_s if kind == FAILING else None
        )
    with closing(Outbox(outbox_path(home))) as outbox:
        outbox.save(Checkpoint(projection="alpine", seq=3, chain="c" * 64), [], unsaved, 0)
    return home


def asked(home: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(outbox_path(home))) as db:
        statement = "SELECT what, seq FROM asked WHERE outcome IS NULL ORDER BY id"
        return [(what, seq) for what, seq in db.execute(statement)]


def test_parked_signals_are_listed_with_the_answer_of_alpine(parked_home: Path) -> None:
    with console(parked_home, "--no-login") as web:
        found = web.get("/api/parked")
    assert [row["seq"] for row in found["parked"]] == [1, 2, 3]
    assert found["total"] == 3
    first = found["parked"][0]
    assert (first["kind"], first["status"], first["body"]) == (REFUSED, 422, BODY)
    assert (first["symbol"], first["signal_id"], first["attempts"]) == ("AAPL", "s-1", 2)


def test_a_retry_is_written_for_the_process_that_delivers(parked_home: Path) -> None:
    with console(parked_home, "--no-login") as web:
        answer = web.act("/api/parked", {"action": "retry", "seqs": [3, 2, 99]})
        assert (answer.status_code, answer.json()) == (202, {"asked": 2})
        assert asked(parked_home) == [("retry", 2), ("retry", 3)]
        listed = web.get("/api/parked")["asked"]
        assert listed == [{"seq": 2, "action": "retry"}, {"seq": 3, "action": "retry"}]
        assert web.act("/api/parked", {"action": "retry", "all": True}).json() == {"asked": 3}


def test_a_discard_is_executed_or_left_to_the_process_that_delivers(parked_home: Path) -> None:
    with console(parked_home, "--no-login") as web:
        assert web.act("/api/parked", {"action": "discard", "seqs": [1]}).json() == {"asked": 1}
        assert [row["seq"] for row in web.get("/api/parked")["parked"]] == [2, 3]
        lease = DeliveryLease.take(parked_home)
        assert lease is not None
        try:
            assert web.act("/api/parked", {"action": "discard", "all": True}).json() == {"asked": 2}
            assert asked(parked_home) == [("discard", 2), ("discard", 3)]
        finally:
            lease.release()


def test_a_read_only_console_refuses_actions(parked_home: Path) -> None:
    with console(parked_home, "--no-login", "--read-only") as web:
        assert web.get("/api/status")["read_only"]
        answer = web.act("/api/parked", {"action": "discard", "all": True})
        assert answer.status_code == 403
        assert len(web.get("/api/parked")["parked"]) == 3
    assert asked(parked_home) == []


@pytest.mark.parametrize("has_delivered", [False, True])
def test_an_invalid_action_is_refused_and_writes_nothing(
    parked_home: Path, has_delivered: bool
) -> None:
    if not has_delivered:
        outbox_path(parked_home).unlink()
    with console(parked_home, "--no-login") as web:
        bodies: list[object] = [
            *({}, {"action": "replay", "all": True}, {"action": "retry"}),
            *({"action": ["retry"], "all": True}, {"action": "retry", "all": 1}),
            *({"action": "retry", "seqs": []}, {"action": "retry", "seqs": [True]}),
            *({"action": "retry", "seqs": ["1"]}, {"action": "retry", "seqs": 1}),
            *({"action": "retry", "seqs": [1], "all": True}, {"action": "retry", "seqs": [-1]}),
            *({"action": "retry", "seqs": [1.0]}, {"action": "retry", "seqs": [2**64]}),
            {"action": "retry", "seqs": {"1": 1}},
        ]
        for body in bodies:
            assert web.act("/api/parked", body).status_code == 422, body
        for raw in (b"", b"[]", b"{", b"nothing"):
            assert web.act("/api/parked", raw).status_code == 400, raw
    assert not has_delivered or asked(parked_home) == []
    assert has_delivered is outbox_path(parked_home).exists()
