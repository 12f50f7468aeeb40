"""What an Alpine answers, as a table that runs against any of them, and what only ours promises.

Against another one: set ALPINE_CONTRACT_URL, and ALPINE_CONTRACT_KEY_FILE to a file with its key.
It then stores a few dozen signals there, each with an id that begins with `contract-`.

Invariant: a case that needs SQL, misbehaviour or a process of ours runs on the reference alone.
"""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]  # ships no type information
import pytest

from tests.harness.alpine import AlpineServer
from tests.harness.needs import CHECKOUT, needs_shared
from tools.alpine.asgi import BODY_BYTES_MAX
from tools.alpine.postgres import EmbeddedPostgres, read_line

OTHER_URL = os.environ.get("ALPINE_CONTRACT_URL")
OTHER_KEY_FILE = os.environ.get("ALPINE_CONTRACT_KEY_FILE")
SIGNAL = "/api/v1/external-signals/sync/signal"
HEALTH = "/api/v1/external-signals/sync/health"
LIST = "/api/v1/signals"
CONTROL = "/_misbehave"
WAIT_SECONDS_MAX = 60.0  # bounds a hang; nothing here measures time
KEY = "schlüssel-κλειδί-鍵".encode()  # S2: a key need not be ASCII
REFUSED = {"detail": "Signal hash verification failed"}
HOSTILE = (
    "Robert'); DROP TABLE signals;--",
    "<script>alert(1)</script>",
    "\x1b[2J\x1b]0;title\x07",
    '=HYPERLINK("http://x","y")',
    "../../etc/passwd\n{}%s%n$1",
)

Json = dict[str, Any]
ours_only = pytest.mark.skipif(OTHER_URL is not None, reason="for the reference backend alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend under test: where it is, and a client that has its key."""

    client: httpx.Client
    server: AlpineServer | None

    def send(self, body: object) -> httpx.Response:
        return self.client.post(SIGNAL, json=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`hashed` changes the signal before it is hashed, `sent` the body after that."""

    promise: str
    status: int
    hashed: Json = field(default_factory=dict)
    sent: Json = field(default_factory=dict)
    without: tuple[str, ...] = ()
    detail: Json | None = None
    ours: bool = False  # the contract leaves it open; so our backend alone is held to it


def sha256_of(fields: Json) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def signal_body(hashed: Json | None = None, **sent: object) -> Json:
    nine: Json = {
        "signal_id": f"contract-{uuid.uuid4()}",
        "symbol": "AAPL",
        "action": "BUY",
        "entry_price": 150.5,
        "target_price": 158.25,
        "stop_price": 147.0,
        "confidence": 85.5,
        "strategy": "weighted_consensus_v6",
        "timestamp": "2025-11-18T02:00:00.000000+00:00",
    } | (hashed or {})
    sha256 = sha256_of(nine)
    rest = {"asset_type": "stock", "data_source": "weighted_consensus"}
    return nine | rest | {"sha256": sha256, "verification_hash": sha256} | sent


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The other Alpine where one is named, else ours, started as a user starts it."""
    if OTHER_URL is None:
        shared: EmbeddedPostgres = request.getfixturevalue("postgres")
        with AlpineServer(postgres=shared, key=KEY, misbehave=False) as server:
            with client_of(server.url, KEY) as client:
                yield Backend(client=client, server=server)
            assert KEY.decode() not in server.output()  # after all that came in, S3
            assert "Traceback" not in server.output()
        return
    assert OTHER_KEY_FILE, "ALPINE_CONTRACT_KEY_FILE must name the file with that Alpine's key"
    with client_of(OTHER_URL, Path(OTHER_KEY_FILE).read_bytes().strip()) as client:
        yield Backend(client=client, server=None)


@pytest.fixture(scope="session")
def server(backend: Backend) -> AlpineServer:
    """Ours: for what needs SQL or the process."""
    assert backend.server is not None
    return backend.server


@pytest.fixture(scope="session")
def unruly(postgres: EmbeddedPostgres) -> Iterator[AlpineServer]:
    with AlpineServer(postgres=postgres) as running:
        yield running


def client_of(url: str, key: bytes) -> httpx.Client:
    headers = {b"X-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=WAIT_SECONDS_MAX)


# The table: a request, and what it is answered.

STORED = 201
CASES = [
    Case(promise="an ordinary signal is stored", status=STORED),
    Case(
        promise="an integer price is a float",
        status=STORED,
        hashed={"target_price": 160.0},
        sent={"target_price": 160},
    ),
    Case(promise="a lower-case action is upper-cased", status=STORED, sent={"action": "buy"}),
    Case(promise="SELL is stored", status=STORED, hashed={"action": "SELL"}),
    Case(promise="no confidence is stored", status=STORED, hashed={"confidence": 0.0}),
    Case(promise="full confidence is stored", status=STORED, hashed={"confidence": 100.0}),
    Case(promise="20 characters of symbol", status=STORED, hashed={"symbol": "S" * 20}),
    Case(promise="unknown keys are ignored", status=STORED, sent={"x": [1], "v": {"y": None}}),
    Case(promise="20 characters of reasoning", status=STORED, sent={"reasoning": "r" * 20}),
    Case(
        promise="the optional keys are taken",
        status=STORED,
        sent={"regime": "bull", "consensus_agreement": 0.75, "sources_count": 3},
    ),
    *(Case(promise=f"hostile {t!r}", status=STORED, hashed={"strategy": t}) for t in HOSTILE),
    Case(promise="another price", status=400, sent={"entry_price": 151.0}, detail=REFUSED),
    Case(promise="another strategy", status=400, sent={"strategy": "x"}, detail=REFUSED),
    Case(promise="another moment", status=400, sent={"timestamp": "2025"}, detail=REFUSED),
    Case(promise="an action turned round", status=400, sent={"action": "SELL"}, detail=REFUSED),
    Case(
        promise="a made-up hash",
        status=400,
        sent={"verification_hash": "0" * 64, "sha256": "0" * 64},
        detail=REFUSED,
    ),
    *(
        Case(promise=f"without {name}", status=422, without=(name,))
        for name in ("signal_id", "symbol", "action", "entry_price", "confidence", "strategy")
    ),
    Case(promise="a price in words", status=422, sent={"entry_price": "many"}),
    Case(promise="a symbol that is a list", status=422, sent={"symbol": ["AAPL"]}),
    Case(promise="19 characters of reasoning", status=500, sent={"reasoning": "r" * 19}),
    Case(promise="21 characters of symbol", status=500, hashed={"symbol": "S" * 21}),
    # What the contract says of PostgreSQL's checks, which another Alpine may hold at its door.
    Case(promise="an empty reasoning", status=500, sent={"reasoning": ""}, ours=True),
    Case(promise="a price of 0", status=500, hashed={"entry_price": 0.0}, ours=True),
    Case(promise="a price below 0", status=500, hashed={"entry_price": -1.0}, ours=True),
    Case(promise="confidence over 100", status=500, hashed={"confidence": 100.5}, ours=True),
    Case(promise="confidence below 0", status=500, hashed={"confidence": -0.5}, ours=True),
    Case(promise="a NUL", status=500, sent={"reasoning": "r" * 20 + "\0"}, ours=True),
    Case(promise="neither BUY nor SELL", status=422, hashed={"action": "HOLD"}, ours=True),
    Case(promise="two hashes", status=400, sent={"sha256": "0" * 64}, detail=REFUSED, ours=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_a_signal_is_answered_as_the_contract_says(backend: Backend, case: Case) -> None:
    if case.ours and backend.server is None:
        pytest.skip("the contract leaves it open to another Alpine")
    body = signal_body(case.hashed, **case.sent)
    for name in case.without:
        del body[name]
    answer = backend.send(body)
    assert answer.status_code == case.status, answer.text
    assert case.detail is None or answer.json() == case.detail
    if case.status != STORED:
        assert backend.send(body).status_code == case.status  # a refusal is the same each time
    if case.status == 422:
        assert answer.json()["detail"][0]["loc"][0] == "body"
    if case.status == STORED:
        told = answer.json()
        assert told["status"] == "success"
        assert told["signal_id"] == told["alpine_signal_id"]
        assert told["external_signal_id"] == body["signal_id"]
    if backend.server is not None:
        listed = backend.client.get(LIST, params={"limit": 1_000}).json()["signals"]
        hashes = {row["verification_hash"] for row in listed}
        assert (body["verification_hash"] in hashes) == (case.status == STORED)


def test_each_hash_vector_is_accepted(backend: Backend) -> None:
    """The vectors say of themselves that a running Alpine took them one by one."""
    vectors = json.loads(needs_shared("data/hash_vectors.json").read_text())
    assert vectors
    for vector in vectors:
        assert sha256_of(vector["signal"]) == vector["sha256"], vector["name"]
        hashes = {"sha256": vector["sha256"], "verification_hash": vector["sha256"]}
        assert backend.send(vector["signal"] | hashes).status_code == STORED, vector["name"]
        # What the door would normalise the backend takes too, where only its types differ. Under a
        # new id, for a hash that is known is a duplicate whatever the body says.
        given = vector.get("given", vector["signal"])
        if given["timestamp"] == vector["signal"]["timestamp"]:
            new = {"signal_id": f"contract-{uuid.uuid4()}"}
            body = signal_body(vector["signal"] | new) | given | new
            answer = backend.send(body)
            assert (answer.status_code, answer.json()["status"]) == (STORED, "success"), vector


def is_duplicate(answer: httpx.Response) -> bool:
    return answer.status_code == 409 or (
        answer.status_code == STORED and answer.json()["status"] == "duplicate"
    )


def test_a_known_hash_is_a_duplicate_whatever_the_body(backend: Backend) -> None:
    body = signal_body()
    first = backend.send(body)
    assert first.status_code == STORED
    for again in (body, body | {"symbol": "MSFT", "entry_price": 1.0, "reasoning": "short"}):
        answer = backend.send(again)
        assert is_duplicate(answer), answer.text
        if answer.status_code == STORED:
            assert answer.json()["signal_id"] == first.json()["signal_id"]


def test_one_signal_sent_by_many_at_once_is_stored_once(backend: Backend) -> None:
    body = signal_body()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(backend.send, [body] * 30))
    assert sorted(is_duplicate(answer) for answer in answers) == [False] + [True] * 29


@pytest.mark.parametrize("key", [None, b"", b"wrong", "clé".encode("latin-1"), b"\xff\xfe"])
def test_without_the_right_key_nothing_passes(backend: Backend, key: bytes | None) -> None:
    headers = {} if key is None else {b"X-API-Key": key}
    with httpx.Client(base_url=backend.client.base_url, trust_env=False) as stranger:
        body = signal_body()
        assert stranger.post(SIGNAL, json=body, headers=headers).status_code == 401
        assert stranger.get(HEALTH, headers=headers).status_code == 200
    assert backend.send(body).json()["status"] == "success"


def test_a_body_that_is_no_json_object_does_not_validate(backend: Backend) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"[]", b'"text"', b"null", b""):
        answer = backend.client.post(SIGNAL, content=content, headers=headers)
        assert answer.status_code == 422, content


# From here on: the reference alone.


@ours_only
def test_a_key_is_compared_whole_and_sent_once(backend: Backend) -> None:
    """401 comes before anybody looks at the body, and before any path is told to exist."""
    with httpx.Client(base_url=backend.client.base_url, trust_env=False) as stranger:
        for keys in ([KEY[:-1]], [KEY + b"x"], [KEY, KEY], [b"x", KEY]):
            headers = [(b"X-API-Key", key) for key in keys]
            for method, path in (("POST", SIGNAL), ("GET", LIST), ("GET", "/nowhere")):
                answer = stranger.request(method, path, content=b"{", headers=headers)
                assert answer.status_code == 401


@ours_only
def test_the_row_says_what_the_signal_said(backend: Backend, server: AlpineServer) -> None:
    body = signal_body({"strategy": HOSTILE[0], "symbol": "'; DROP TABLE x;--"[:20]})
    row_id = backend.send(body).json()["signal_id"]
    reasoned = signal_body(reasoning="\n".join(HOSTILE))
    reasoned_id = backend.send(reasoned).json()["signal_id"]
    rows = {row["id"]: row for row in server.rows()}
    expected = {
        "symbol": body["symbol"],
        "action": "BUY",
        "price": 150.5,
        "confidence": 0.855,
        "target_price": 158.25,
        "stop_loss": 147.0,
        "verification_hash": body["sha256"],
        "is_active": True,
    }
    assert {name: rows[row_id][name] for name in expected} == expected
    assert HOSTILE[0] in str(rows[row_id]["rationale"])
    assert rows[reasoned_id]["rationale"] == "\n".join(HOSTILE)


@ours_only
def test_numbers_and_text_that_no_json_knows_are_never_stored(backend: Backend) -> None:
    """NaN, infinity and lone surrogates: Python's parser lets them pass, nothing after it may."""
    for hashed in (
        {"entry_price": float("nan")},
        {"stop_price": float("inf")},
        {"symbol": "\ud800"},
    ):
        body = signal_body(dict(hashed))
        headers = {"Content-Type": "application/json"}
        answer = backend.client.post(SIGNAL, content=json.dumps(body), headers=headers)
        assert answer.status_code in (422, 500), hashed
    assert backend.client.get(LIST).status_code == 200


@ours_only
def test_a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not(backend: Backend) -> None:
    body = json.dumps(signal_body()).encode()
    headers = {"Content-Type": "application/json"}
    full = body + b" " * (BODY_BYTES_MAX - len(body))

    def send(content: Any) -> int:
        return backend.client.post(SIGNAL, content=content, headers=headers).status_code

    assert send(full + b" ") == 413
    assert send(b" " * 4 * BODY_BYTES_MAX) == 413
    assert send(iter([full, b" "])) == 413  # chunked: no length is announced
    assert send(full) == STORED


@ours_only
def test_the_list_pages_through_all_rows(backend: Backend, server: AlpineServer) -> None:
    for _ in range(3):
        backend.send(signal_body())
    rows = server.rows()
    found: list[Json] = []
    after: int | None = 0
    for _ in range(len(rows)):
        page = backend.client.get(LIST, params={"limit": 7, "after": after}).json()
        assert len(page["signals"]) <= 7
        found += page["signals"]
        after = page["next"]
        if after is None:
            break
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert {row["verification_hash"] for row in found} == server.hashes()
    assert set(found[0]) == set(rows[0])
    for limit in ("0", "1001", "-1", "x"):
        assert backend.client.get(LIST, params={"limit": limit}).status_code == 422
    past = backend.client.get(LIST, params={"after": 2**63 - 1}).json()
    assert past == {"signals": [], "next": None}


@ours_only
def test_without_the_flag_there_is_nothing_to_misbehave(backend: Backend) -> None:
    assert backend.client.get(CONTROL).status_code == 404
    assert backend.client.post(CONTROL, json={"lose": 1}).status_code == 404


@ours_only
def test_it_can_be_told_to_fail_to_poison_and_to_reject(unruly: AlpineServer) -> None:
    unruly.restart()  # counts from 0
    before = unruly.hashes()
    with client_of(unruly.url, unruly.key) as client:
        bodies = [signal_body() for _ in range(3)]
        headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
        unruly.control(fail={"count": 2, "status": 429, "headers": headers})
        answers = [client.post(SIGNAL, json=bodies[0]) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [429, 429, 201]
        assert unruly.counters()["by_signal"] == {bodies[0]["signal_id"]: 3}
        assert answers[0].headers["Retry-After"] == headers["Retry-After"]
        unruly.control(poison=[bodies[1]["signal_id"]])
        unruly.restart()  # poison is for ever
        assert [client.post(SIGNAL, json=body).status_code for body in bodies[1:]] == [500, 201]
        unruly.control(reject=True, health_status=503)
        assert client.post(SIGNAL, json=signal_body()).json() == REFUSED
        assert client.get(HEALTH).status_code == 503
        unruly.control(reject=False, health_status=200)
        assert unruly.hashes() - before == {bodies[0]["sha256"], bodies[2]["sha256"]}
        by_signal = unruly.counters()["by_signal"]
        assert [by_signal.get(body["signal_id"], 0) for body in bodies] == [0, 1, 1]
        for wrong in ({"los": 1}, {"fail": {"count": 1, "status": 200}}, {"lose": -1}):
            assert client.post(CONTROL, json=wrong).status_code == 422
    with client_of(unruly.url, b"wrong") as stranger:
        assert stranger.get(CONTROL).status_code == 401
        assert stranger.post(SIGNAL, json=bodies[0]).status_code == 401
    assert unruly.counters()["answers"]["401"] == 1


@ours_only
def test_an_answer_that_is_lost_was_stored_before(unruly: AlpineServer) -> None:
    body = signal_body()
    unruly.control(lose=2)
    with client_of(unruly.url, unruly.key) as client:
        for _ in range(2):  # stored; then known, and lost again
            with pytest.raises(httpx.RemoteProtocolError):
                client.post(SIGNAL, json=body)
            assert body["sha256"] in unruly.hashes()
        assert is_duplicate(client.post(SIGNAL, json=body))
    assert "Traceback" not in unruly.output()


@ours_only
def test_it_counts_how_many_are_in_flight_at_once(unruly: AlpineServer) -> None:
    unruly.restart()  # counts from 0
    unruly.control(delay_s=0.3)
    with client_of(unruly.url, unruly.key) as client, ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda body: client.post(SIGNAL, json=body), [signal_body()] * 6))
        assert unruly.counters()["in_flight_max"] == 6
        # Who gives up has nothing in flight any more, however slow the answer would have been.
        unruly.control(delay_s=300)
        with pytest.raises(httpx.ReadTimeout):
            client.post(SIGNAL, json=signal_body(), timeout=0.3)
        until(lambda: unruly.counters()["in_flight"] == 0)
    unruly.control(delay_s=0)


@ours_only
def test_what_was_stored_outlives_the_server(unruly: AlpineServer) -> None:
    body = signal_body()
    with client_of(unruly.url, unruly.key) as client:
        assert client.post(SIGNAL, json=body).status_code == STORED
        unruly.kill()
        with pytest.raises(httpx.ConnectError):
            client.post(SIGNAL, json=body)
        assert body["sha256"] in unruly.hashes()
        unruly.start()
        assert is_duplicate(client.post(SIGNAL, json=body))
        assert unruly.stop() == 0
        unruly.start()


@ours_only
@pytest.mark.slow
def test_a_stop_comes_through_beside_a_request_that_hangs(unruly: AlpineServer) -> None:
    unruly.control(delay_s=300)
    with client_of(unruly.url, unruly.key) as client:
        outcome: list[str] = []

        def hang() -> None:
            try:
                client.post(SIGNAL, json=signal_body())
            except httpx.TransportError:
                outcome.append("cut off")

        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: unruly.counters()["in_flight"] == 1)
        assert unruly.stop() == 0
        thread.join(WAIT_SECONDS_MAX)
    unruly.start()
    unruly.control(delay_s=0)


@ours_only
@pytest.mark.slow
def test_health_tells_when_postgres_is_away_and_heals_with_it() -> None:
    with AlpineServer() as alone, client_of(alone.url, alone.key) as client:
        body = signal_body()
        assert client.post(SIGNAL, json=body).status_code == STORED
        alone.stop_postgres()
        assert client.get(HEALTH).status_code == 503
        assert client.post(SIGNAL, json=signal_body()).status_code == 500


# The command itself.


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m tools.alpine` as a user runs it, killed at the end in any case."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.alpine", "--port", "0", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def url_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = read_line(process.stdout, WAIT_SECONDS_MAX).decode()
    assert line.startswith("listening on http://127.0.0.1:"), line
    return line.removeprefix("listening on ").strip()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that PostgreSQL's own account may pass through; pytest's are private."""
    directory = Path(tempfile.mkdtemp(prefix="alpine-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@ours_only
@pytest.mark.parametrize(
    ("arguments", "key", "says"),
    [
        ([], "", "EXTERNAL_SIGNAL_API_KEY is not set"),
        (["--development"], "", "--key-file"),
        ([], " k", "white space"),
        (["--host", "0.0.0.0"], "k", "--allow-remote"),
        (["--host", "::"], "k", "--allow-remote"),
        (["--host", "0.0.0.0", "--allow-remote", "--misbehave"], "k", "this machine alone"),
        (["--host", "example.com"], "k", "no IP address"),
    ],
    ids=str,
)
def test_it_refuses_to_start_unsafely(arguments: list[str], key: str, says: str) -> None:
    with command(*arguments, EXTERNAL_SIGNAL_API_KEY=key) as process:
        output, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
        assert process.returncode == 3
    assert says in errors.decode()
    assert b"Traceback" not in errors + output


@ours_only
def test_it_tells_nothing_of_a_database_url_that_does_not_work() -> None:
    url = "postgresql://user:pass-word@127.0.0.1:1/database"
    with command(EXTERNAL_SIGNAL_API_KEY="the-key", DATABASE_URL=url) as process:
        _, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
        assert process.returncode == 3
    assert b"check DATABASE_URL" in errors
    assert b"pass-word" not in errors
    assert b"the-key" not in errors


@ours_only
@pytest.mark.slow
def test_a_development_key_is_made_once_for_its_owner_alone(
    tmp_path: Path, postgres: EmbeddedPostgres
) -> None:
    file = tmp_path / "key"
    options = ("--development", "--key-file", str(file))
    keys = set()
    for word in ("was made", "is the one in"):
        with command(*options, DATABASE_URL=postgres.url) as process:
            url = url_of(process)
            keys.add(file.read_bytes().strip())
            with client_of(url, max(keys)) as client:
                assert client.get(LIST).status_code == 200
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
            assert process.returncode == 0
        assert word in errors.decode()
        assert max(keys) not in errors
    assert len(keys) == 1
    file.chmod(0o644)
    with command(*options, DATABASE_URL=postgres.url) as process:
        assert process.wait(WAIT_SECONDS_MAX) == 3


@ours_only
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_the_embedded_postgres(place: Path, number: signal.Signals) -> None:
    with command(EXTERNAL_SIGNAL_API_KEY="k", TMPDIR=str(place)) as process:
        url_of(process)
        [pid_file] = place.glob("alpine-postgres-*/data/postmaster.pid")
        postmaster = int(pid_file.read_text().splitlines()[0])
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS_MAX) == (-9 if number == signal.SIGKILL else 0)
    until(lambda: is_gone(postmaster) and not list(place.iterdir()))


@ours_only
@pytest.mark.slow
def test_a_data_directory_keeps_the_rows_even_through_sigkill(place: Path) -> None:
    data = place / "data"
    body = signal_body()
    for expected in ("success", "duplicate"):
        with (
            command("--data-dir", str(data), EXTERNAL_SIGNAL_API_KEY="k") as process,
            client_of(url_of(process), b"k") as client,
        ):
            assert client.post(SIGNAL, json=body).json()["status"] == expected
    postmaster = data / "data" / "postmaster.pid"
    until(lambda: not postmaster.exists())


@ours_only
def test_postgres_is_never_put_into_a_home(place: Path) -> None:
    (place / "logs").mkdir()
    (place / "logs" / ".lock").touch()
    with command("--data-dir", str(place / "pg"), EXTERNAL_SIGNAL_API_KEY="k") as process:
        _, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
        assert process.returncode == 3
    assert f"{place} is the home of a log" in errors.decode()


@ours_only
@pytest.mark.skipif(os.geteuid() != 0, reason="only as root is there anything to open")
def test_as_root_no_private_directory_is_opened(place: Path) -> None:
    private = place / "private"
    private.mkdir(mode=0o700)
    (private / "something").touch()
    with command("--data-dir", str(private / "pg"), EXTERNAL_SIGNAL_API_KEY="k") as process:
        _, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
        assert process.returncode == 3
    assert f"would open {private}" in errors.decode()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
