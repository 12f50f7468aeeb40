"""The client of Alpine, against real servers on this machine, most of them hostile.

Invariant: whatever a server does, a try returns one answer within the deadline, and the key is only
in the header of that request.
"""

import asyncio
import json
import logging
import os
import random
import ssl
import struct
import sys
import traceback
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.abc import MetaPathFinder
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.alpine.client import (
    IN_FLIGHT_MAX,
    RESPONSE_BYTES_MAX,
    AlpineClient,
    NoResponse,
    parse_page,
    validated_url,
)
from projections.alpine.contract import (
    BODY_CHARS_MAX,
    DOWN,
    FAILING,
    REFUSED,
    RETRY_AFTER_S_MAX,
    Duplicate,
    Rejected,
    SendResult,
    Stored,
    Unavailable,
    body_of,
    classify_response,
    printable_body,
    retry_after_seconds,
)
from projections.alpine.credentials import KEY_BYTES_MAX, FileKey, FixedKey, KeyUnavailable
from projections.alpine.retry import RetryPolicy, retry
from projections.errors import ProjectionError
from projections.hosts import is_loopback
from tests.harness.deadline import DEADLINE_S
from tests.harness.raw_http import (
    SUCCESS,
    Handler,
    Reader,
    Request,
    Server,
    Writer,
    a_request,
    answering,
    http_response,
    server,
)
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal

SOON_S = 0.3  # a deadline for what would never end
KEY = "geheim-κλειδί-鍵"
CERTIFICATE = CHECKOUT / "tests/data/localhost.pem"  # self-signed
BODY = b'{"signal_id":"s-1"}'


def client_of(found: Server, *, deadline_s: float = DEADLINE_S) -> AlpineClient:
    return AlpineClient(found.url, FixedKey(KEY), deadline_s=deadline_s)


def send_to(handle: Handler, *, deadline_s: float = DEADLINE_S) -> tuple[SendResult, Server]:
    """One try, at a server of its own."""

    async def run() -> tuple[SendResult, Server]:
        async with server(handle) as found:
            client = client_of(found, deadline_s=deadline_s)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    return await client.send(BODY), found
            finally:
                await client.close()

    return asyncio.run(run())


def kind_of(answer: SendResult) -> object:
    return answer.kind if isinstance(answer, Unavailable) else type(answer)


def test_a_request_searches_for_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpcore imports sniffio for each request; where it is missing, each search costs."""
    searched: list[str] = []

    class Recorder(MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> None:
            searched.append(fullname)

    async def run() -> None:
        async with server(answering(http_response(201))) as found:
            client = client_of(found)
            try:
                await client.send(BODY)  # the first one loads what it needs
                monkeypatch.setattr(sys, "meta_path", [Recorder(), *sys.meta_path])
                assert isinstance(await client.send(BODY), Stored)
            finally:
                await client.close()

    asyncio.run(run())
    assert searched == []


# H1-H5: the table


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (201, SUCCESS, Stored),
        (201, b'{"status":"duplicate","signal_id":7}', Duplicate),
        (200, b'{"status":"duplicate","signal_id":7}', Duplicate),
        (409, b"", Duplicate),
        (400, b'{"detail":"Signal hash verification failed"}', Rejected),
        (413, b"", Rejected),
        (422, b'{"detail":[]}', Rejected),
        (401, b"", REFUSED),
        (403, b"", REFUSED),
        (404, b"", REFUSED),
        (405, b"", REFUSED),
        (410, b"", REFUSED),
        (300, b"", REFUSED),
        (304, b"", REFUSED),
        (500, b"", FAILING),
        (408, b"", DOWN),
        (425, b"", DOWN),
        (429, b"", DOWN),
        (501, b"", DOWN),
        (502, b"", DOWN),
        (503, b"", DOWN),
        (504, b"", DOWN),
        (599, b"", DOWN),
        # What answers like this is not Alpine.
        (200, SUCCESS, DOWN),
        (202, b"", DOWN),
        (200, b"<html>Please log in</html>", DOWN),
        (201, b"", DOWN),
        (201, b"[]", DOWN),
        (201, b'"success"', DOWN),
        (201, b'{"status":"ok"}', DOWN),
        (201, b'{"status":"success"', DOWN),
        (201, b"\xff\xfe", DOWN),
    ],
)
def test_each_answer_has_the_meaning_defined_by_the_contract(
    status: int, body: bytes, kind: object
) -> None:
    answer, found = send_to(answering(http_response(status, body)))
    assert kind_of(answer) == kind
    assert len(found.requests) == 1
    if isinstance(answer, Rejected):
        assert (answer.status, answer.body) == (status, body.decode())
    if isinstance(answer, Unavailable):
        assert answer.status == status
        assert answer.detail


@given(st.integers(100, 999), st.binary(max_size=40), st.text(max_size=20))
def test_every_status_has_one_meaning(status: int, body: bytes, retry_after: str) -> None:
    answer = classify_response(status, body, retry_after, now_s=0.0)
    assert kind_of(answer) in {Stored, Duplicate, Rejected, REFUSED, FAILING, DOWN}


def test_the_stored_part_of_an_answer_is_short_and_printable() -> None:
    hostile = b"\x1b[2J\x1b]0;title\x07<script>\0\xff" + b"x" * 100_000
    answer, _ = send_to(answering(http_response(400, hostile)))
    assert isinstance(answer, Rejected)
    assert len(answer.body) <= BODY_CHARS_MAX
    assert answer.body.isprintable()
    assert printable_body("ü".encode() * 10) == "ü" * 10


@pytest.mark.parametrize("status", [201, 400, 401, 422, 500, 503])
@pytest.mark.parametrize("key", ["geheim-123", 'Schlüssel"\\', "ß" * 500])
@pytest.mark.parametrize("escaping", [None, True, False])
@pytest.mark.parametrize("charset", ["latin-1", "utf-8"])
def test_a_key_echoed_by_the_server_is_not_stored(
    status: int, key: str, escaping: bool | None, charset: str
) -> None:
    """S3: frameworks repeat the headers that they received; the text may be cut within the key."""
    text = key.encode().decode(charset)
    for before in ("", "x" * 490):
        shown = text if escaping is None else json.dumps(text, ensure_ascii=escaping)[1:-1]
        data = f"{before}{shown} {shown}".encode()
        answer = classify_response(status, data, None, now_s=0.0, secret=key.encode())
        kept = answer.body if isinstance(answer, Rejected) else getattr(answer, "detail", "")
        assert shown[:6] not in kept.replace("xxxxx", "")
        assert "*" in kept


@pytest.mark.parametrize(
    "shown",
    [
        *("a+b/c&lt;d&amp;e&quot;f&#x27;g=ß", "a+b/c&lt;d&amp;e&#34;f&#39;g=ß"),
        *("a%2Bb%2Fc%3Cd%26e%22f%27g%3D%C3%9F", "a%2Bb/c%3Cd%26e%22f%27g%3D%C3%9F"),
        "a+b/c<d&e\"f\\'g=\\xc3\\x9f",
    ],
)
def test_a_key_echoed_as_html_as_url_or_as_a_python_literal_is_not_stored(shown: str) -> None:
    """S3: the key in the forms of a debug page."""
    key = "a+b/c<d&e\"f'g=ß".encode()
    assert printable_body(f"X-API-Key: {shown}!".encode(), key) == "X-API-Key: ***!"


def test_a_key_echoed_by_the_server_is_in_no_answer_and_no_error() -> None:
    echo = f"you sent {KEY}".encode()

    async def run() -> None:
        async with server(answering(http_response(500, echo))) as found:
            client = client_of(found)
            assert "you sent ***" in repr(answer := await client.send(BODY))
            assert KEY not in repr(answer)
            page = await client.page(0)
            with pytest.raises(NoResponse, match=r"you sent \*\*\*") as raised:
                parse_page(page, found.url)
            assert KEY not in str(raised.value)
            await client.close()

    asyncio.run(run())


def test_a_request_has_the_form_defined_by_the_contract() -> None:
    _, found = send_to(answering(http_response(201)))
    [request] = found.requests
    assert request.line == "POST /api/v1/external-signals/sync/signal HTTP/1.1"
    assert request.headers["x-api-key"] == KEY.encode()  # S2
    assert request.headers["content-type"] == b"application/json"
    assert request.headers["accept-encoding"] == b"identity"
    assert request.headers["host"] == found.url.removeprefix("http://").encode()
    assert request.body == BODY


def test_an_https_certificate_must_be_trusted_by_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A company's own authority comes from SSL_CERT_FILE, as for any program with OpenSSL."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)

    async def run() -> tuple[SendResult, list[Request]]:
        async with server(answering(http_response(201)), tls=tls) as found:
            client = AlpineClient(found.url.replace("https", "HTTPS"), FixedKey(KEY))
            try:
                return await client.send(BODY), found.requests
            finally:
                await client.close()

    answer, requests = asyncio.run(run())
    assert requests == []
    assert isinstance(answer, Unavailable)
    assert "certificate verify failed" in answer.detail
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    answer, requests = asyncio.run(run())
    assert answer == Stored()
    assert len(requests) == 1


def test_a_path_prefix_in_the_address_is_kept() -> None:
    async def run() -> None:
        async with server(answering(http_response(201))) as found:
            client = AlpineClient(found.url + "/behind/a/proxy/", FixedKey(KEY))
            assert await client.send(BODY) == Stored()
            await client.close()
            path = "/behind/a/proxy/api/v1/external-signals/sync/signal"
            assert found.requests[0].line == f"POST {path} HTTP/1.1"

    asyncio.run(run())


def test_a_health_request_carries_no_key() -> None:
    async def run(status: int) -> bool:
        async with server(answering(http_response(status, b"{}"))) as found:
            client = client_of(found)
            is_healthy = await client.is_healthy()
            await client.close()
            assert "x-api-key" not in found.requests[0].headers
            return is_healthy

    assert asyncio.run(run(200))
    assert not asyncio.run(run(503))
    assert not asyncio.run(run(404))


def test_a_refused_connection_counts_as_no_answer() -> None:
    async def run() -> None:
        async with server(answering(http_response(201))) as found:
            url = found.url
        client = AlpineClient(url, FixedKey(KEY))
        answer = await client.send(BODY)
        assert (kind_of(answer), await client.is_healthy()) == (DOWN, False)
        await client.close()

    asyncio.run(run())


def test_a_connection_cut_at_any_byte_counts_as_no_answer() -> None:
    """H5: reset, or closed, after each byte of the answer and before the first one."""
    answer_bytes = http_response(201)

    async def run() -> None:
        cut_at, with_reset = 0, False

        async def cut(found: Server, reader: Reader, writer: Writer) -> None:
            await a_request(found, reader)
            writer.write(answer_bytes[:cut_at])
            await writer.drain()
            if with_reset:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
            writer.close()

        async with server(cut) as found:
            client = client_of(found)
            for cut_at in range(len(answer_bytes)):  # the server reads it
                with_reset = cut_at % 2 == 1
                answer = await client.send(BODY)
                assert kind_of(answer) == DOWN, (cut_at, answer)
            cut_at, with_reset = len(answer_bytes), False
            assert await client.send(BODY) == Stored()
            await client.close()

    asyncio.run(run())


def test_a_kept_connection_that_the_server_closed_is_not_used_again() -> None:
    async def run() -> None:
        async def once(found: Server, reader: Reader, writer: Writer) -> None:
            await a_request(found, reader)
            writer.write(http_response(201))
            await writer.drain()
            writer.close()

        async with server(once) as found:
            client = client_of(found)
            for _ in range(5):
                assert await client.send(BODY) == Stored()
                await asyncio.sleep(0.02)
            await client.close()
            assert found.connections == 5

    asyncio.run(run())


def test_connections_are_kept_and_never_more_than_ten() -> None:
    """H10, at the client, for any caller."""

    async def slow(found: Server, reader: Reader, writer: Writer) -> None:
        while True:
            await a_request(found, reader)
            found.in_flight += 1
            found.in_flight_max = max(found.in_flight_max, found.in_flight)
            await asyncio.sleep(0.002)
            found.in_flight -= 1
            writer.write(http_response(201))
            await writer.drain()

    async def run() -> None:
        async with server(slow) as found:
            client = client_of(found)
            answers = await asyncio.gather(*(client.send(BODY) for _ in range(200)))
            await client.close()
            assert answers == [Stored()] * 200
            assert found.in_flight_max == IN_FLIGHT_MAX
            assert found.connections == IN_FLIGHT_MAX

    asyncio.run(run())


# H3: the key never goes to another host


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    async def run() -> None:
        async with server(answering(http_response(201))) as other:
            elsewhere = other.url.replace("127.0.0.1", "localhost") + "/x"
            async with server(answering(http_response(status, b"", Location=elsewhere))) as found:
                client = client_of(found)
                answer = await client.send(BODY)
                await client.close()
            assert kind_of(answer) == REFUSED
            assert other.connections == 0

    asyncio.run(run())


def test_neither_proxies_of_the_environment_nor_cookies_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        async with server(answering(http_response(201))) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            async with server(answering(http_response(201, Set_Cookie="a=b; Path=/"))) as found:
                client = client_of(found)
                assert await client.send(BODY) == Stored()
                assert await client.send(BODY) == Stored()
                await client.close()
                assert "cookie" not in found.requests[1].headers
            assert proxy.connections == 0

    asyncio.run(run())


# H4: Retry-After

NOW_S = 1_800_000_000.0


def in_seconds(seconds: float) -> str:
    moment = datetime.fromtimestamp(NOW_S, UTC) + timedelta(seconds=seconds)
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        ("2.5", 2.5),
        (" 3 ", 3.0),
        ("-5", 0.0),
        ("86400", RETRY_AFTER_S_MAX),
        ("1e400", RETRY_AFTER_S_MAX),
        ("inf", RETRY_AFTER_S_MAX),
        ("nan", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        (None, 0.0),
        (in_seconds(7), 7.0),
        (in_seconds(-7), 0.0),
        (in_seconds(1e6), RETRY_AFTER_S_MAX),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_honoured_and_capped(text: str | None, seconds: float) -> None:
    assert retry_after_seconds(text, now_s=NOW_S) == pytest.approx(seconds)


@given(st.text())
def test_no_retry_after_is_absurd(text: str) -> None:
    assert 0.0 <= retry_after_seconds(text, now_s=NOW_S) <= RETRY_AFTER_S_MAX


@pytest.mark.parametrize(("status", "asked_s"), [(429, 3.0), (503, 3.0), (500, 0.0), (401, 0.0)])
def test_retry_after_counts_for_server_errors_only(status: int, asked_s: float) -> None:
    answer, _ = send_to(answering(http_response(status, b"", Retry_After="3")))
    assert isinstance(answer, Unavailable)
    assert answer.retry_after_s == asked_s


# H8: what never ends


async def endless(write: Callable[[], Awaitable[None]]) -> None:
    while True:
        await write()


def flooding(head: bytes, piece: bytes, pause_s: float) -> Handler:
    async def handle(found: Server, reader: Reader, writer: Writer) -> None:
        await a_request(found, reader)
        writer.write(head)

        async def write() -> None:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

        await endless(write)

    return handle


BOMB = zlib.compress(bytes(50_000_000), wbits=31)  # 50 KB
CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
UNBOUNDED = b"HTTP/1.1 201 Created\r\n\r\n"  # as long as the connection


@pytest.mark.parametrize(
    ("handle", "says"),
    [
        (flooding(UNBOUNDED, b"x" * 65_536, 0), f"over {RESPONSE_BYTES_MAX:,} bytes"),
        (flooding(CHUNKED, b"10000\r\n" + b"x" * 65_536 + b"\r\n", 0), "over"),
        (flooding(b"HTTP/1.1 201 Created\r\n", b"X-Y: " + b"z" * 1_000 + b"\r\n", 0), "no answer"),
        (answering(http_response(201, BOMB, Content_Encoding="gzip")), "encoded"),
        (answering(http_response(201, BOMB, Content_Encoding="br, gzip")), "encoded"),
        (answering(b"garbage that is no HTTP\r\n\r\n"), "no answer"),
        (answering(b"HTTP/1.1 201 X\r\nContent-Length: -1\r\n\r\n"), "no answer"),
    ],
    ids=["endless", "chunks", "headers", "gzip", "gzips", "garbage", "length"],
)
def test_a_hostile_answer_counts_as_no_answer(handle: Handler, says: str) -> None:
    answer, _ = send_to(handle)
    assert isinstance(answer, Unavailable)
    assert (answer.kind, answer.status) == (DOWN, None)
    assert says in answer.detail


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b""),
        (b"HTTP/1.1 201 Created\r\nX: ", b"x"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "head", "body", "chunks", "continue"],
)
def test_a_slow_drip_of_bytes_ends_at_the_deadline(head: bytes, piece: bytes) -> None:
    answer, _ = send_to(flooding(head, piece, 0.001), deadline_s=SOON_S)
    assert isinstance(answer, Unavailable)
    assert answer.detail == f"no answer within {SOON_S:g} s"


def test_a_server_that_never_reads_is_given_up_at_the_deadline() -> None:
    async def deaf(found: Server, reader: Reader, writer: Writer) -> None:
        await asyncio.sleep(DEADLINE_S)

    async def run() -> SendResult:
        async with server(deaf) as found:
            client = client_of(found, deadline_s=SOON_S)
            answer = await client.send(b"x" * 50_000_000)  # more than the sockets hold
            await client.close()
            return answer

    assert kind_of(asyncio.run(run())) == DOWN


# H11: a cancel storm


@pytest.mark.parametrize("seed", range(3))
def test_after_many_cancelled_requests_the_next_ten_succeed(seed: int) -> None:
    rng = random.Random(seed)

    async def moody(found: Server, reader: Reader, writer: Writer) -> None:
        while True:
            await a_request(found, reader)
            answer = http_response(201)
            for at in range(0, len(answer), 40):
                writer.write(answer[at : at + 40])
                await writer.drain()
                await asyncio.sleep(rng.random() * 0.004)

    async def run() -> None:
        async with server(moody) as found:
            client = client_of(found)
            storm = [asyncio.ensure_future(client.send(BODY)) for _ in range(200)]
            while not all(task.done() for task in storm):
                task = rng.choice(storm)
                task.cancel()
                if rng.random() < 0.3:
                    task.cancel()  # twice: also while it cleans up
                await asyncio.sleep(rng.random() * 0.002)
            ended = await asyncio.gather(*storm, return_exceptions=True)
            assert {type(end) for end in ended} <= {asyncio.CancelledError, Stored}
            async with asyncio.timeout(DEADLINE_S):
                answers = await asyncio.gather(*(client.send(BODY) for _ in range(10)))
            assert answers == [Stored()] * 10
            await client.close()

    asyncio.run(run())


# Retries


def run_with_retries(
    answers: list[SendResult], *, halted_after: int | None = None
) -> list[SendResult]:
    """The answers of all tries, and last the result."""

    async def run() -> list[SendResult]:
        halt = asyncio.Event()
        tried: list[SendResult] = []

        async def send() -> SendResult:
            tried.append(answers[len(tried)])
            if len(tried) == halted_after:
                halt.set()
            return tried[-1]

        retry_policy = RetryPolicy(first_s=0.001, max_s=0.002)
        tried.append(await retry(await send(), send, retry_policy, halt))
        return tried

    return asyncio.run(run())


TROUBLE = Unavailable(kind=DOWN, status=503, detail="503")
FAILS = Unavailable(kind=FAILING, status=500, detail="500")
WRONG = Unavailable(kind=REFUSED, status=401, detail="401")
INVALID = Rejected(status=400, body="")
LATER = Unavailable(kind=DOWN, status=429, detail="429", retry_after_s=30.0)


@pytest.mark.parametrize(
    ("answers", "tries"),
    [
        ([Stored()], 1),
        ([Duplicate()], 1),
        ([INVALID], 1),
        ([WRONG], 1),
        ([LATER], 1),
        ([TROUBLE, Stored()], 2),
        ([FAILS, TROUBLE, INVALID], 3),
        ([TROUBLE, WRONG], 2),
        ([TROUBLE, LATER], 2),
        ([TROUBLE, TROUBLE, FAILS, Stored()], 4),
        ([FAILS] * 9, 4),
    ],
)
def test_up_to_three_retries_and_only_where_another_try_may_help(
    answers: list[SendResult], tries: int
) -> None:
    *tried, out = run_with_retries(answers)
    assert tried == answers[:tries]
    assert out == answers[tries - 1]


def test_stopping_ends_the_retries_with_the_last_answer() -> None:
    assert run_with_retries([TROUBLE, FAILS, Stored()], halted_after=2) == [TROUBLE, FAILS, FAILS]


def test_retries_of_many_at_once_do_not_mix_up() -> None:
    """A retrying object that tasks share miscounts: each must get its own four tries."""

    async def run() -> None:
        counts = [0] * 50

        async def one(number: int) -> SendResult:
            async def send() -> SendResult:
                counts[number] += 1
                await asyncio.sleep(0.001)
                return TROUBLE

            return await retry(await send(), send, RetryPolicy(first_s=0.001), asyncio.Event())

        await asyncio.gather(*(one(number) for number in range(50)))
        assert counts == [4] * 50

    asyncio.run(run())


def test_a_cancelled_try_is_not_retried() -> None:
    async def run() -> None:
        tries = 0

        async def send() -> SendResult:
            nonlocal tries
            tries += 1
            if tries == 2:
                raise asyncio.CancelledError
            return TROUBLE

        with pytest.raises(asyncio.CancelledError):
            await retry(await send(), send, RetryPolicy(first_s=0.001), asyncio.Event())
        assert tries == 2

    asyncio.run(run())


# What is sent


def payload(**changes: object) -> dict[str, object]:
    kept = {"asset_type": "stock", "data_source": "x", "sha256": "0" * 64}
    return {**a_signal(1), **kept, **changes}


def test_a_body_holds_what_alpine_takes_and_nothing_else() -> None:
    rest = {"regime": "bull", "consensus_agreement": 0.75, "sources_count": 3}
    body = json.loads(body_of(payload(**rest, reasoning="r" * 20, secret="mine")))
    expected = payload(**rest, reasoning="r" * 20, verification_hash="0" * 64)
    assert body == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reasoning", "too short"),
        ("reasoning", ""),
        ("reasoning", 12),
        ("reasoning", None),
        ("regime", None),
        ("regime", ["bull"]),
        ("consensus_agreement", "high"),
        ("consensus_agreement", True),
        ("sources_count", 2.5),
        ("sources_count", {}),
    ],
)
def test_fields_that_alpine_would_refuse_are_left_out(key: str, value: object) -> None:
    assert key not in json.loads(body_of(payload(**{key: value})))


def test_an_incomplete_signal_has_no_request_body() -> None:
    incomplete = payload()
    del incomplete["symbol"]
    with pytest.raises(KeyError, match="symbol"):
        body_of(incomplete)


def test_an_invalid_page_is_reported() -> None:
    async def run(data: bytes, status: int = 200) -> object:
        async with server(answering(http_response(status, data))) as found:
            client = client_of(found)
            response = await client.page(7)
            await client.close()
            assert "?limit=200&after=7 " in found.requests[0].line
            return parse_page(response, found.url)

    assert asyncio.run(run(b'{"signals":[{"id":8}],"next":null}')) == ([{"id": 8}], None)
    for data in (b"<html>", b"[]", b'{"signals":3}', b'{"signals":[1],"next":2}', b"{}"):
        with pytest.raises(ProjectionError, match="did not list"):
            asyncio.run(run(data))
    with pytest.raises(ProjectionError, match="404"):
        asyncio.run(run(b"{}", status=404))


# Addresses (S4), keys (S2, S3)


@pytest.mark.parametrize(
    "url",
    [
        *("", "alpine.example.com", "ftp://a.example", "http://", "https:///x", "file:///etc"),
        *("http://[::1", "http://a:port/", "http://a:99999/", "https://a/?key=1", "https://a/#x"),
        *("https://a/?", "https://a/#", "http://xn--/"),
        "http://a b/",
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(ProjectionError, match="ALPINE_API_URL is not an http or https address"):
        AlpineClient(url, FixedKey(KEY))


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    secret = "pass-" + "word"  # a traceback shows the line of the call as it stands
    with pytest.raises(ProjectionError, match="user name or password") as raised:
        validated_url(f"https://user:{secret}@a.example/")
    assert secret not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("url", "warns"),
    [
        ("http://alpine.example.com", True),
        ("http://10.0.0.1:8000", True),
        ("http://localhost.example.com", True),
        ("https://alpine.example.com", False),
        ("http://127.0.0.1:8000", False),
        ("http://127.9.9.9", False),
        ("http://localhost:8000", False),
        ("http://[::1]:8000", False),
    ],
)
def test_a_key_sent_unencrypted_is_warned_about_at_each_start(
    url: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        AlpineClient(url, FixedKey(KEY))
    assert caplog.text.count("key_in_the_clear") == (2 if warns else 0)
    assert KEY not in caplog.text


def test_loopback_is_this_machine_by_name_or_number() -> None:
    assert is_loopback("LOCALHOST.")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("example.com")


def test_a_key_from_the_environment_goes_as_the_bytes_that_it_was() -> None:
    assert FixedKey(os.fsdecode(b"\xff\xfe key ")).read() == b"\xff\xfe key"
    assert FixedKey(f" {KEY}\n").read() == KEY.encode()
    assert not FixedKey(KEY).has_changed()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no API key"),
        (b" \n", "no API key"),
        (b"geheim\nzwei", "control characters"),
        (b"geheim\x00", "control characters"),
        (b"g" * (KEY_BYTES_MAX + 1), "more than"),
    ],
)
def test_a_key_that_cannot_be_sent_is_named_and_not_shown(
    content: bytes, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    for key in (FileKey(file), FixedKey(content.decode())):
        with pytest.raises(KeyUnavailable, match=says) as raised:
            key.read()
        text = "".join(traceback.format_exception(raised.value)) + repr(key)
        assert "geheim" not in text
        assert "gggg" not in text


def test_without_a_key_nothing_is_sent() -> None:
    async def run() -> None:
        async with server(answering(http_response(201))) as found:
            client = AlpineClient(found.url, FileKey(Path("/nonexistent/key")))
            answer = await client.send(BODY)
            assert kind_of(answer) == REFUSED
            assert isinstance(answer, Unavailable)
            assert "the key file cannot be read: No such file" in answer.detail
            await client.close()
            assert found.connections == 0

    asyncio.run(run())


def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = FileKey(file)
    with pytest.raises(KeyUnavailable):
        key.read()
    assert not key.has_changed()
    file.write_bytes(b"one\n")
    assert key.has_changed()
    assert key.read() == b"one"
    assert not key.has_changed()
    os.utime(file, ns=(1, 1))
    (tmp_path / "same").write_bytes(b"one")
    (tmp_path / "same").rename(file)
    assert not key.has_changed()  # a key that is wrong stays wrong
    stamp = file.stat()
    file.write_bytes(b"two\n")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as `cp -p` would
    assert key.has_changed()
    assert key.read() == b"two"
    (tmp_path / "new").write_bytes(b"three")
    (tmp_path / "new").rename(file)
    assert key.read() == b"three"
    file.unlink()
    assert key.has_changed()
    with pytest.raises(KeyUnavailable):
        key.read()


def test_a_key_path_that_is_not_a_regular_file_gives_no_key_and_does_not_block(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(KeyUnavailable):
            FileKey(path).read()


def test_the_key_is_in_no_log_repr_or_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """S3, with every logger at DEBUG."""
    caplog.set_level(logging.DEBUG)
    loggers = [logging.getLogger(name) for name in ("httpx", "httpcore", "h11", "asyncio")]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    secret = "geheim-ascii-key"
    texts: list[str] = []

    async def echo(found: Server, reader: Reader, writer: Writer) -> None:
        request = await a_request(found, reader)
        assert request.headers["x-api-key"] == secret.encode()
        statuses = [201, 400, 401, 500, 503]
        writer.write(http_response(statuses[len(found.requests) % 5]))
        await writer.drain()
        writer.close()

    async def run() -> None:
        key = FixedKey(secret)
        async with server(echo) as found:
            client = AlpineClient(found.url, key)
            texts.extend(repr([await client.send(BODY) for _ in range(10)]))
            sending = asyncio.ensure_future(client.send(BODY))
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            texts.append(repr((client, key, sending)))
            texts.append("".join(map(str, sending.get_stack())))
        for handle in (answering(b"x\r\n\r\n"), flooding(UNBOUNDED, b"x" * 65_536, 0)):
            async with server(handle) as found:
                client = AlpineClient(found.url, key)
                texts.append(repr(await client.send(BODY)))
                try:
                    await client.page(0)
                except ProjectionError as error:
                    texts.extend(traceback.format_exception(error))
                await client.close()

    try:
        asyncio.run(run(), debug=True)
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)
    assert "httpcore" in caplog.text
    assert secret not in caplog.text
    assert secret not in "".join(texts)
