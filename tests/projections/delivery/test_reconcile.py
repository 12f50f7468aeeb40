"""`eventlog reconcile`: compares log and Alpine by hash; the real backend, and odd lists.

Invariant: it changes nothing without `--replay`.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no type information
import pytest

from eventlog import EventLog
from projections.alpine.client import PAGE_BYTES_MAX, PAGE_SIGNALS, AlpineClient, NoResponse
from projections.alpine.credentials import FixedKey
from projections.delivery.outbox import outbox_path
from projections.delivery.reconcile import (
    ComparisonUnsupported,
    ReconcileLimits,
    ReconcileReport,
    compare_with_alpine,
)
from tests.harness.alpine_server import AlpineServer
from tests.harness.command import Done, eventlog
from tests.harness.deadline import DEADLINE_S
from tests.harness.log_checks import tree_contents
from tests.harness.raw_http import (
    Reader,
    Server,
    Writer,
    a_request,
    answering,
    http_response,
    server,
)
from tests.harness.read_side import append
from tests.harness.signals import a_signal, closed, signals
from tools.alpine.postgres import EmbeddedPostgres


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


# Odd lists, in this process


def rows_for(home: Path) -> list[dict[str, Any]]:
    """The list of an Alpine that has every signal."""
    with EventLog(home) as log:
        found = [entry.payload for entry in log.read() if entry.event == "signal"]
    return [
        {
            "id": number,
            "symbol": payload["symbol"],
            "action": payload["action"],
            "price": payload["entry_price"],
            "confidence": payload["confidence"] / 100,  # type: ignore[operator]
            "target_price": payload["target_price"],
            "stop_loss": payload["stop_price"],
            "rationale": "r" * 20,
            "verification_hash": payload["sha256"],
            "is_active": True,
            "created_at": "2025-11-18T02:00:00Z",
        }
        for number, payload in enumerate(found, 1)
    ]


def listing(
    rows: list[dict[str, Any]],
    *,
    page: int = 7,
    spoilt: list[bytes] | None = None,
    large: bytes | None = None,
) -> Any:
    """A server that lists rows, after the answers in `spoilt`; `large` answers large pages."""

    async def handle(found: Server, reader: Reader, writer: Writer) -> None:
        while True:
            request = await a_request(found, reader)
            if spoilt:
                writer.write(spoilt.pop(0))
                await writer.drain()
                continue
            query = parse_qs(urlsplit(request.line.split()[1]).query)
            if large is not None and int(query["limit"][0]) > PAGE_SIGNALS:
                writer.write(large)
                await writer.drain()
                continue
            after = int(query["after"][0])
            rest = [row for row in rows if row["id"] > after]
            following = rest[page - 1]["id"] if len(rest) > page else None
            body = json.dumps({"signals": rest[:page], "next": following}).encode()
            writer.write(http_response(200, body))
            await writer.drain()

    return handle


def compared(
    home: Path,
    handle: Any,
    *,
    listed_max: int = 1_000,
    pages_max: int = 100,
    limits: ReconcileLimits | None = None,
) -> tuple[ReconcileReport, Server]:
    limits = limits or ReconcileLimits(
        pages_per_s=1e6, retry_s=0.001, pages_max=pages_max, listed_max=listed_max
    )

    async def run() -> tuple[ReconcileReport, Server]:
        async with server(handle) as found:
            client = AlpineClient(found.url, FixedKey("key"))
            try:
                async with asyncio.timeout(DEADLINE_S):
                    return await compare_with_alpine(home, client, limits=limits), found
            finally:
                await client.close()

    return asyncio.run(run())


def test_identical_contents_have_no_differences(home: Path) -> None:
    append(home, *signals(30), closed(1), closed(2))
    before = tree_contents(home / "logs")
    found, backend = compared(home, listing(rows_for(home)))
    assert (found.in_log, found.at_alpine) == (30, 30)
    assert (found.missing_count, found.different_count, found.extra_count) == (0, 0, 0)
    assert len(backend.requests) == 6  # five pages, and one more at the end
    assert all(request.headers["x-api-key"] == b"key" for request in backend.requests)
    assert tree_contents(home / "logs") == before
    assert not outbox_path(home).exists()


def test_missing_different_and_extra_signals_are_distinguished(home: Path) -> None:
    append(home, *signals(20))
    rows = rows_for(home)
    foreign = rows[0] | {"id": 100, "verification_hash": "f" * 64}
    nameless = rows[0] | {"id": 101, "verification_hash": None}
    changes: list[dict[str, Any]] = [
        {"symbol": "MSFT"},
        {"action": "SELL"},
        {"price": 1.0},
        {"confidence": 0.5},
        {"target_price": None},
        {"stop_loss": 1.5},
    ]
    changed = [row | change for row, change in zip(rows, changes, strict=False)]
    found, _ = compared(home, listing([*changed, *rows[6:15], foreign, nameless]))
    assert [row.seq for row in found.missing] == [16, 17, 18, 19, 20] == list(found.missing_seqs)
    assert {row.why for row in found.missing} == {"undelivered"}
    assert [(row.seq, *row.fields) for row in found.different] == [
        (1, "symbol"),
        (2, "action"),
        (3, "price"),
        (4, "confidence"),
        (5, "target"),
        (6, "stop"),
    ]
    assert found.different[2].fields == {"price": (153.0, 1.0)}
    assert (found.extra_count, [row["id"] for row in found.extra]) == (2, [100, 101])


def test_decimals_as_text_and_the_last_digit_of_a_float_are_no_difference(home: Path) -> None:
    append(home, *signals(3))
    rows = rows_for(home)
    for row in rows:
        row["price"] = str(row["price"])
        row["confidence"] += 1e-15
    found, _ = compared(home, listing(rows))
    assert found.different_count == 0


def test_confidences_of_0_and_100_are_compared_as_fractions(home: Path) -> None:
    append(home, a_signal(1, confidence=0), a_signal(2, confidence=100))
    found, _ = compared(home, listing(rows_for(home)))
    assert found.different_count == 0


def test_signals_that_arrive_during_the_comparison_are_neither_missing_nor_extra(
    home: Path,
) -> None:
    """While a daemon delivers, the log grows, and Alpine's list follows a little later."""
    append(home, *signals(20))

    async def growing(found: Server, reader: Reader, writer: Writer) -> None:
        is_first = True
        while True:
            await a_request(found, reader)
            if is_first:
                append(home, *signals(5, start=21))
            rows = rows_for(home)[:10] if is_first else rows_for(home)[10:23]
            is_first = False
            writer.write(http_response(200, json.dumps({"signals": rows, "next": None}).encode()))
            await writer.drain()

    found, _ = compared(home, growing)
    assert (found.in_log, found.at_alpine) == (25, 23)
    assert (found.missing_count, found.extra_count) == (0, 0)


@pytest.mark.parametrize(
    ("handle", "says"),
    [
        (answering(http_response(404, b"")), "it answers 404"),
        (answering(http_response(405, b"")), "it answers 405"),
        (
            answering(http_response(200, b'{"signals":[{"id":1,"symbol":"A"}],"next":null}')),
            "its list has no verification_hash",
        ),
    ],
)
def test_a_backend_without_a_list_is_reported_as_such(home: Path, handle: Any, says: str) -> None:
    append(home, a_signal(1))
    with pytest.raises(ComparisonUnsupported, match=says) as raised:
        compared(home, handle)
    assert "--replay" in raised.value.do


def test_an_empty_list_is_a_list(home: Path) -> None:
    append(home, *signals(3))
    found, _ = compared(home, listing([]))
    assert (found.missing_count, found.at_alpine) == (3, 0)


def test_temporary_failures_are_retried_and_lasting_ones_reported(home: Path) -> None:
    append(home, *signals(10))
    malformed = [
        http_response(503, b"", Retry_After="0"),
        http_response(429, b""),
        http_response(500, b""),
    ]
    found, _ = compared(home, listing(rows_for(home), spoilt=malformed))
    assert found.missing_count == 0
    for answer, says in (
        (http_response(503, b"busy"), "503 busy"),
        (http_response(401, b""), "401"),
        (http_response(302, b"", Location="http://127.0.0.1:9/"), "302"),
        (b"no HTTP\r\n\r\n", "no answer"),
        (http_response(200, b"<html>"), "did not list"),
    ):
        with pytest.raises(NoResponse, match=says):
            compared(home, answering(answer))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_backend_that_refuses_large_pages_is_read_in_smaller_ones(
    home: Path, status: int
) -> None:
    append(home, *signals(10))
    found, backend = compared(home, listing(rows_for(home), spoilt=[http_response(status, b"")]))
    assert (found.missing_count, found.extra_count) == (0, 0)
    limits = [parse_qs(urlsplit(r.line.split()[1]).query)["limit"] for r in backend.requests]
    assert limits == [["1000"], ["200"], ["200"], ["200"]]


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_backend_that_fails_at_large_pages_is_read_in_smaller_ones(
    home: Path, status: int
) -> None:
    """Its query, or the proxy before it, has a time limit."""
    append(home, *signals(10))
    found, _ = compared(home, listing(rows_for(home), large=http_response(status, b"")))
    assert (found.missing_count, found.extra_count) == (0, 0)


def test_a_page_that_is_too_large_is_read_in_smaller_ones(home: Path) -> None:
    append(home, *signals(10))
    large = http_response(200, b" " * (PAGE_BYTES_MAX + 1))
    found, _ = compared(home, listing(rows_for(home), spoilt=[large]))
    assert (found.missing_count, found.extra_count) == (0, 0)


def test_pages_are_requested_never_faster_than_the_limit(home: Path) -> None:
    append(home, *signals(30))
    limits = ReconcileLimits(pages_per_s=50.0, retry_s=0.001)
    begun_s = time.monotonic()
    compared(home, listing(rows_for(home)), limits=limits)  # four pauses between five pages
    assert time.monotonic() - begun_s >= 4 / 50


def test_each_answer_of_overload_halves_the_rate_of_the_pages_after_it(home: Path) -> None:
    append(home, *signals(10))
    overloaded = [http_response(429, b""), http_response(503, b"")]
    limits = ReconcileLimits(pages_per_s=50.0, retry_s=0.001)
    begun_s = time.monotonic()
    compared(home, listing(rows_for(home), spoilt=overloaded), limits=limits)  # one pause
    assert time.monotonic() - begun_s >= 4 / 50


def test_a_hash_that_is_listed_twice_counts_once_as_extra(home: Path) -> None:
    append(home, *signals(2))
    rows = rows_for(home)
    extra = rows[0] | {"verification_hash": "0" * 64}
    found, _ = compared(home, listing([*rows, extra | {"id": 3}, extra | {"id": 4}]))
    assert (found.at_alpine, found.extra_count, found.extra[0]["id"]) == (4, 1, 3)


def test_a_list_that_names_no_ids_is_read_to_its_end(home: Path) -> None:
    append(home, *signals(30))
    rows = [{**row, "id": None} for row in rows_for(home)]
    pages = [rows[:10], rows[10:20], rows[20:]]
    bodies = [
        json.dumps({"signals": page, "next": 10 * number if number < 3 else None}).encode()
        for number, page in enumerate(pages, start=1)
    ]
    found, _ = compared(home, answering(*(http_response(200, body) for body in bodies)))
    assert (found.missing_count, found.extra_count) == (0, 0)


def test_a_cyclic_list_is_refused(home: Path) -> None:
    append(home, *signals(3))
    body = json.dumps({"signals": rows_for(home), "next": 3}).encode()
    with pytest.raises(NoResponse, match="id 1 follows 3"):
        compared(home, answering(http_response(200, body)))


def test_the_pages_of_both_readings_are_counted_together(home: Path) -> None:
    append(home, *signals(30))
    rows = rows_for(home)  # five pages of seven, and one more at the end
    compared(home, listing(rows), pages_max=6)
    with pytest.raises(NoResponse, match="more than 5 pages"):
        compared(home, listing(rows), pages_max=5)


def test_the_largest_id_is_listed_exactly(home: Path) -> None:
    append(home, *signals(1))
    row = rows_for(home)[0]
    largest = row | {"id": 2**63 - 1, "verification_hash": None}
    found, _ = compared(home, listing([row, largest]))
    assert [row["id"] for row in found.extra] == [2**63 - 1]


def test_names_are_bounded_and_counts_are_not(home: Path) -> None:
    append(home, *signals(20))
    found, _ = compared(home, listing([]), listed_max=5)
    assert (len(found.missing), found.missing_count, len(found.missing_seqs)) == (5, 20, 20)


# The command, against the real backend


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture
def alpine(postgres: EmbeddedPostgres) -> Iterator[AlpineServer]:
    with AlpineServer(postgres=postgres) as running:
        yield running


def run(home: Path, alpine: AlpineServer, *words: str, **env: str) -> Done:
    ours = {"ALPINE_API_URL": alpine.url, "ALPINE_API_KEY_FILE": str(alpine.key_file)}
    return eventlog(*words, home=home, env=ours | env)


def execute(alpine: AlpineServer, statement: str, *values: object) -> None:
    async def go() -> None:
        connection = await asyncpg.connect(alpine.database_url)
        await connection.execute(statement, *values)
        await connection.close()

    asyncio.run(go())


@pytest.mark.slow
def test_the_command_finds_and_resends_differences(home: Path, alpine: AlpineServer) -> None:
    append(home, *signals(30))
    nothing = run(home, alpine, "reconcile", "--json")
    assert (nothing.code, nothing.answers[0]["missing"]) == (1, 30)
    assert run(home, alpine, "project", "alpine", "--once").code == 0
    same = run(home, alpine, "reconcile")
    assert (same.code, same.err) == (0, "")
    assert same.out == (
        b"30 signals in the log, 30 at Alpine\nmissing:   0\ndifferent: 0\nextra:     0\n"
    )
    execute(alpine, "DELETE FROM signals WHERE id <= 10")
    execute(alpine, "UPDATE signals SET price = 1 WHERE id = 20")
    execute(
        alpine,
        "INSERT INTO signals (symbol, action, price, confidence, target_price, stop_loss,"
        " rationale, verification_hash) VALUES ('X', 'BUY', 1, 0.5, 2, 0.5, $1, 'foreign')",
        "the signal of another sender",
    )
    found = run(home, alpine, "reconcile", "--json")
    assert found.code == 1
    report = found.answers[0]
    assert (report["ok"], report["comparable"], report["replayed"]) == (False, True, None)
    assert (report["signals"], report["at_alpine"]) == (30, 21)
    assert (report["missing"], report["different"], report["extra"]) == (10, 1, 1)
    assert {row["why"] for row in report["missing_signals"]} == {"lost"}
    [different] = report["different_signals"]
    assert different["fields"]["price"][1] == 1.0
    execute(
        alpine,
        "UPDATE signals SET price = $1 WHERE price = 1 AND symbol <> 'X'",
        different["fields"]["price"][0],
    )
    fixed = run(home, alpine, "reconcile", "--replay", "--json")
    assert fixed.code == 0, fixed.out
    assert fixed.answers[0]["replayed"]["stored"] == 10
    assert run(home, alpine, "reconcile").code == 0
    exclusive = run(home, alpine, "reconcile", "--exclusive")
    assert exclusive.code == 1
    assert b"extra:     1" in exclusive.out
    assert (
        run(home, alpine, "status", "--json").answers[0]["projections"]["alpine"]["delivered"] == 30
    )


@pytest.mark.slow
def test_a_backend_without_hashes_gets_everything_again(home: Path, alpine: AlpineServer) -> None:
    """A proxy without the list, as an older Alpine would be."""
    append(home, *signals(25))
    assert run(home, alpine, "project", "alpine", "--once").code == 0
    execute(alpine, "DELETE FROM signals WHERE id <= 5")

    async def pipe(reader: Reader, writer: Writer) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def front(found: Server, reader: Reader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n")
        if head.startswith(b"GET /api/v1/signals"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(http_response(404, b"", Connection="close"))
            await writer.drain()
            writer.close()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", alpine.port)
        inner_writer.write(head)
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    async def go() -> None:
        async with server(front) as found:
            done = await asyncio.to_thread(run, home, alpine, "reconcile", ALPINE_API_URL=found.url)
            assert done.code == 3
            assert "cannot be compared with the log: it answers 404" in done.err
            assert "reconcile --replay" in done.err
            done = await asyncio.to_thread(
                run, home, alpine, "reconcile", "--replay", "--json", ALPINE_API_URL=found.url
            )
            assert done.code == 0, done.err
            report = done.answers[0]
            assert report["comparable"] is False
            replayed = report["replayed"]
            assert (replayed["asked"], replayed["stored"], replayed["duplicate"]) == (25, 5, 20)

    asyncio.run(go())
    assert len(alpine.hashes()) == 25


@pytest.mark.slow
def test_a_missing_address_key_or_log_is_reported(home: Path, alpine: AlpineServer) -> None:
    assert run(home, alpine, "reconcile").code == 3  # no log
    assert not home.exists()
    append(home, a_signal(1))
    for env, says in (
        ({"ALPINE_API_URL": ""}, "ALPINE_API_URL is not set"),
        ({"ALPINE_API_KEY_FILE": "/nonexistent"}, "the key file cannot be read"),
        ({"ALPINE_API_KEY_FILE": ""}, "there is no API key"),
        ({"ALPINE_API_KEY_FILE": "", "ALPINE_API_KEY": "wrong"}, "401"),
    ):
        done = run(home, alpine, "reconcile", **env)
        assert done.code == 3
        assert says in done.err
        assert "do: " in done.err, "what to do"
        assert "Traceback" not in done.err
    off = run(home, alpine, "reconcile", "--replay", ALPINE_SYNC_ENABLED="false")
    assert off.code == 3
    assert "ALPINE_SYNC_ENABLED is false" in off.err


@pytest.mark.slow
def test_it_pages_through_a_long_list(home: Path, alpine: AlpineServer) -> None:
    append(home, *signals(1_100))
    assert run(home, alpine, "project", "alpine", "--once").code == 0
    found = run(home, alpine, "reconcile", "--exclusive", "--json")
    assert (found.code, found.answers[0]["at_alpine"]) == (0, 1_100)
