"""The JSON answers: equal to the commands, whole at any depth, nothing later as of a time."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from eventlog import EventLog
from projections.sqlite.database import database_path
from tests.harness.command import eventlog
from tests.harness.console import WebConsole, console
from tests.harness.deadline import until
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, closed, signals

MIDDLE = 60  # an entry in the middle of the history


def at_of(home: Path, seq: int) -> str:
    with EventLog(home) as log:
        return next(log.read(after=seq - 1)).recorded_at


def printed(home: Path, *words: object) -> Any:
    done = eventlog(*words, "--json", home=home)
    assert done.code == 0, done.err
    return json.loads(done.out)


def all_pages(web: WebConsole, **query: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before = None
    while True:
        page = web.get("/api/signals", before=before, limit=7, **query)
        rows += page["rows"]
        before = page["next"]
        if before is None:
            return rows


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"symbol": "aapl"},
        {"strategy": "gap", "action": "sell"},
        {"outcome": "open"},
        {"outcome": "win", "since": "2025-02-01T00:00:00Z"},
        {"until": "2025-06-03T00:00:00Z", "outcome": "expired"},
    ],
)
@pytest.mark.parametrize("is_past", [False, True])
def test_the_pages_of_signals_hold_what_the_command_lists(
    web: WebConsole, full_home: Path, query: dict[str, str], is_past: bool
) -> None:
    at = at_of(full_home, MIDDLE) if is_past else None
    rows = all_pages(web, as_of=at, **query)
    words = [word for key, value in query.items() for word in (f"--{key}", value)]
    listed = printed(
        full_home, "signals", "--limit", 1_000, *words, *(("--as-of", at) if at else ())
    )
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)
    assert rows == sorted(listed, key=lambda row: -row["id"])
    assert rows or query.get("outcome") in ("win", "expired")


def test_a_page_says_how_many_signals_there_are_and_how_far_it_looked(
    web: WebConsole, full_home: Path
) -> None:
    page = web.get("/api/signals", limit=5)
    assert page["total"] == len(all_pages(web))
    assert page["as_of"] == web.get("/api/status")["as_of"]
    assert page["searched_to"] == page["next"] == page["rows"][-1]["id"]
    assert page["complete"]
    rare = web.get("/api/signals", symbol="NONE")
    assert (rare["rows"], rare["next"], rare["complete"], rare["total"]) == ([], None, True, 0)


@pytest.mark.parametrize(
    "query", [{"symbol": "aapl"}, {"outcome": "open", "action": "BUY"}, {"strategy": "none"}]
)
@pytest.mark.parametrize("is_past", [False, True])
def test_the_signals_of_a_filter_are_counted_beside_the_page(
    web: WebConsole, query: dict[str, str], is_past: bool
) -> None:
    as_of = {"as_of_seq": MIDDLE} if is_past else {}
    page = web.get("/api/signals", limit=1, **query, **as_of)
    found = web.get("/api/signals/count", **query, **as_of)
    assert found["as_of"] == page["as_of"]
    count = len(all_pages(web, **query, **as_of))
    assert (found["count"], found["complete"]) == (count, True)
    assert page["total"] == (None if count else 0)


@pytest.mark.parametrize(
    "query",
    [
        {"outcome": "wins"},
        {"action": "HOLD"},
        {"since": "2025-01-01"},
        {"as_of": "yesterday"},
        {"as_of": "2999-01-01T00:00:00Z"},
        {"as_of_seq": "-1"},
        {"as_of_seq": "99999"},
        {"before": "x"},
        {"limit": "1e3"},
    ],
)
def test_an_invalid_parameter_is_refused_with_what_to_give(
    web: WebConsole, query: dict[str, str]
) -> None:
    answer = web.request("/api/signals", params=query)
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert answer.json()["do"]


def test_a_signal_is_found_by_its_signal_id_now_and_as_of_an_entry(web: WebConsole) -> None:
    row = all_pages(web)[3]
    name = row["signal_id"]
    found = web.get("/api/signals", signal_id=name)
    assert (found["rows"], found["next"], found["complete"]) == ([row], None, True)
    assert web.get("/api/signals", signal_id=name, symbol="NONE")["rows"] == []
    assert web.get("/api/signals", signal_id=name, as_of_seq=row["id"] - 1)["rows"] == []
    assert web.get("/api/signals", signal_id=f"{name}-no")["rows"] == []


def test_a_signal_is_what_show_prints_and_its_chain_can_be_computed_again(
    web: WebConsole, full_home: Path
) -> None:
    row = all_pages(web, outcome="win")[0]
    found = web.get(f"/api/signals/{row['id']}")
    # The console knows nothing of the environment of delivery, so the command gets one.
    env = {"ALPINE_API_URL": "http://127.0.0.1:9", "ALPINE_API_KEY": "a key"}
    shown = eventlog("show", row["signal_id"], "--json", home=full_home, env=env)
    assert found["signal"] == json.loads(shown.out)
    assert found["further_keys"] == found["signal"]["row"]["extra"] != {}
    chain = found["chain"]
    line = chain["line"].encode()
    body = line[: line.rindex(b',"chain":"')]
    assert sha256(chain["previous"].encode() + body).hexdigest() == chain["chain"]
    assert json.loads(line)["chain"] == chain["chain"]
    assert web.request("/api/signals/999999").status_code == 404
    assert web.request(f"/api/signals/{10**30}").status_code == 404


def test_each_signal_leads_to_the_older_and_the_newer_one(web: WebConsole) -> None:
    ids = [row["id"] for row in all_pages(web)]
    seq = ids[0]
    walked: list[int] = []
    while seq is not None:
        found = web.get(f"/api/signals/{seq}")
        if walked:
            assert found["newer"] == walked[-1]
        walked.append(seq)
        seq = found["older"]
    assert walked == ids


def later_text(value: object, at: str) -> list[str]:
    """The texts in an answer that are times of the log later than `at`."""
    if isinstance(value, dict):
        return [each for item in value.items() for part in item for each in later_text(part, at)]
    if isinstance(value, list):
        return [each for part in value for each in later_text(part, at)]
    is_recorded = isinstance(value, str) and len(value) == len(at) and value.endswith("Z")
    return [str(value)] if is_recorded and str(value)[:4] == at[:4] and str(value) > at else []


def test_as_of_a_time_no_answer_has_anything_that_was_recorded_later(
    web: WebConsole, full_home: Path
) -> None:
    at = at_of(full_home, MIDDLE)
    ids = [row["id"] for row in all_pages(web, as_of=at)]
    row = all_pages(web, as_of=at)[0]
    paths = ["/api/status", "/api/log", "/api/signals", "/api/outcomes", "/api/parked"]
    paths += [f"/api/signals/{seq}" for seq in ids]
    paths.append(f"/api/prices?symbol={row['symbol']}&around={row['id']}&x=")
    for path in paths:
        joined = path.partition("&x=")[0]
        answer = web.request(joined + ("&" if "?" in joined else "?") + f"as_of={at}").json()
        assert answer["as_of"] == {"seq": MIDDLE, "recorded_at": at, "live": False}, path
        assert later_text(answer, at) == [], path
        for key in ("seq", "id", "voided_by", "newer"):
            assert all(found <= MIDDLE for found in numbers_of(answer, key)), (path, key)
    later = all_pages(web)[0]["id"]
    assert later > MIDDLE
    assert web.request(f"/api/signals/{later}?as_of={at}").status_code == 404


def numbers_of(value: object, key: str) -> list[int]:
    """All numbers under a key in an answer."""
    if isinstance(value, list):
        return [each for part in value for each in numbers_of(part, key)]
    if not isinstance(value, dict):
        return []
    own = [value[key]] if isinstance(value.get(key), int) else []
    return own + [each for part in value.values() for each in numbers_of(part, key)]


def test_what_has_no_history_is_null_as_of_a_time(web: WebConsole, full_home: Path) -> None:
    at = at_of(full_home, MIDDLE)
    status = web.get("/api/status", as_of=at)
    assert status["history"] is status["rate"] is status["table"]["lag_entries"] is None
    assert set(status["delivery"].values()) == {None}
    assert status["log"]["entries"] == MIDDLE
    assert status["log"]["signals"] == web.get("/api/signals", as_of=at)["total"]
    with EventLog(full_home) as log:
        assert status["log"]["chain"] == next(log.read(after=MIDDLE - 1)).chain
    assert web.get("/api/parked", as_of=at)["parked"] is None


def test_every_time_selects_the_entries_recorded_by_then(web: WebConsole, full_home: Path) -> None:
    with EventLog(full_home) as log:
        entries = list(log.read())
    for entry in entries[::17]:
        expected = max(e.seq for e in entries if e.recorded_at <= entry.recorded_at)
        assert web.get("/api/log", as_of=entry.recorded_at)["as_of"]["seq"] == expected
        assert web.get("/api/log", as_of_seq=entry.seq)["as_of"]["seq"] == entry.seq
    assert web.get("/api/log", as_of="2001-01-01T00:00:00Z")["as_of"]["seq"] == 0
    assert web.get("/api/log", as_of="2001-01-01T00:00:00Z")["rows"] == []


def test_the_status_is_that_of_the_command(web: WebConsole, full_home: Path) -> None:
    found, command = web.get("/api/status"), printed(full_home, "status")
    log = command["log"]
    assert found["log"].pop("entries") == log["last_seq"]
    assert found["log"] == {key: log[key] for key in found["log"]}
    sqlite, alpine = command["projections"]["sqlite"], command["projections"]["alpine"]
    for key in ("lag_entries", "rows", "conflicts", "daemon"):
        assert found["table"][key] == sqlite[key]
    for key in ("lag_entries", "delivered", "parked", "failing", "state", "daemon"):
        assert found["delivery"][key] == alpine[key]
    assert [row["seq"] for row in found["latest"]] == list(
        range(log["last_seq"], log["last_seq"] - 60, -1)
    )


def test_the_log_is_paged_in_both_directions_and_by_event(web: WebConsole, full_home: Path) -> None:
    with EventLog(full_home) as log:
        entries = list(log.read())
    page = web.get("/api/log", limit=10)
    assert [row["seq"] for row in page["rows"]] == [entry.seq for entry in entries[:-11:-1]]
    assert page["left_out"] == len(entries) - 10
    older = web.get("/api/log", limit=10, before=page["rows"][-1]["seq"])
    assert older["rows"][0]["seq"] == page["rows"][-1]["seq"] - 1
    newer = web.get("/api/log", after=len(entries) - 3)
    assert [row["seq"] for row in newer["rows"]] == [len(entries) - i for i in range(3)]
    assert newer["left_out"] == 0
    voided = web.get("/api/log", event="voided")
    expected = [entry.seq for entry in reversed(entries) if entry.event == "voided"]
    assert [row["seq"] for row in voided["rows"]] == expected != []
    assert voided["searched_to"] == 1


def test_a_row_holds_the_start_of_a_large_payload(home: Path) -> None:
    wide = {f"key-{number}": number for number in range(2_000)}
    append(
        home,
        {"event": "a.note", "text": "a" * 50_000, "list": [1] * 900, "more": 1, "ok": ["b"]},
        {"event": "a.note", "k" * 40_000: 1},
        {"event": "a.note", **wide},
    )
    with console(home, "--no-login") as web:
        answer = web.request("/api/log")
    assert len(answer.content) < 3 * 2_048 + 1_000
    newest, long_key, oldest = (row["detail"] for row in answer.json()["rows"])
    assert oldest["text"] == "a" * 397 + "..."
    assert oldest["list"].startswith("[1,1,1")
    assert (oldest["more"], oldest["ok"]) == (1, ["b"])
    assert long_key == {"...": "1 more"}
    assert newest["key-0"] == 0
    assert newest["..."] == f"{len(wide) - len(newest) + 1} more"


def test_prices_are_those_that_the_log_saw(home: Path) -> None:
    append(
        home,
        *signals(3),
        a_signal(4, symbol="MSFT"),
        {"event": "executed", "signal_id": "s-1", "order_id": "o", "fill_price": 151.5},
        closed(1, exit_price=99.0),
        {"event": "voided", "signal_id": "s-1", "voids": 6},
        closed(1, exit_price=120.0, closed_at="2025-11-19T00:00:00Z"),
    )
    project(home)
    with console(home, "--no-login") as web:
        found = web.get("/api/prices", symbol="AAPL", around=2)["rows"]
        assert [(row["seq"], row["price"], row["kind"]) for row in found] == [
            *((1, 151.0, "entry"), (2, 152.0, "entry"), (3, 153.0, "entry")),
            *((8, 120.0, "exit"), (5, 151.5, "fill")),
        ]
        assert {row["outcome"] for row in found if row["seq"] in (1, 5, 8)} == {"loss"}
        past = web.get("/api/prices", symbol="AAPL", around=2, as_of_seq=6)["rows"]
        assert [row["price"] for row in past if row["kind"] == "exit"] == [99.0]
        assert web.request("/api/prices?symbol=MSFT&around=2").status_code == 404


def test_without_a_table_the_log_is_shown_and_the_rest_says_what_to_do(home: Path) -> None:
    append(home, *signals(3))
    with console(home, "--no-login") as web:
        assert web.get("/api/status")["log"]["entries"] == 3
        assert len(web.get("/api/log")["rows"]) == 3
        for path in ("/api/signals", "/api/signals/1", "/api/outcomes"):
            answer = web.request(path)
            assert answer.status_code == 503
            assert "rebuild-database" in answer.json()["do"]


@pytest.mark.slow
def test_a_verify_is_shown_while_the_log_has_its_entry(home: Path) -> None:
    append(home, *signals(3))
    project(home)

    def verify_check() -> dict[str, Any]:
        with console(home, "--no-login") as web:
            checks: list[dict[str, Any]] = web.get("/api/status")["checks"]
            return next(check for check in checks if check["name"] == "verify")

    assert verify_check()["state"] == "none"
    assert eventlog("verify", home=home).code == 0
    assert verify_check()["state"] == "ok"
    record = home / "data" / "verified.json"
    damaged = {**json.loads(record.read_text()), "ok": False, "findings": 2}
    record.write_text(json.dumps(damaged))
    check = verify_check()
    assert (check["state"], check["text"]) == ("bad", "Damage was found in 2 places")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program keeps the whole table for itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        yield


def test_a_locked_table_is_called_busy_within_a_second_and_the_log_is_shown(home: Path) -> None:
    append(home, *signals(3))
    project(home)
    paths = ["/api/signals", "/api/signals/count?symbol=AAPL", "/api/signals/1", "/api/outcomes"]
    paths += ["/api/signals?as_of_seq=2", "/api/signals?as_of=2026-01-01T00:00:00Z"]
    with console(home, "--no-login") as web:
        with locked(database_path(home)):
            for path in paths:
                started_s = time.monotonic()
                web.request(path)
                assert time.monotonic() - started_s < 1.5, path
                until(lambda path=path: web.request(path).status_code == 503, path)  # type: ignore[misc]
                assert "busy" in web.request(path).json()["error"]
            assert len(web.get("/api/log")["rows"]) == 3
            assert web.get("/api/status")["log"]["entries"] == 3
        assert web.get("/api/signals")["total"] == 3
