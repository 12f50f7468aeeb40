"""The answers of Alpine, as a table that runs against any of them.

Against another one: set ALPINE_CONTRACT_URL, and ALPINE_CONTRACT_KEY_FILE to a file with its key.
It then stores a few dozen signals there, each with an id that begins with `contract-`.

Invariant: no case needs more than HTTP. test_server.py has the promises of
our backend alone.
"""

import json
import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.harness.backend import (
    HEALTH,
    HOSTILE,
    LIST,
    REFUSED,
    SIGNAL,
    STORED,
    Backend,
    Json,
    client_of,
    is_duplicate,
    own_backend,
    sha256_of,
    signal_body,
)
from tests.harness.requirements import TEST_DATA
from tools.alpine.postgres import EmbeddedPostgres

pytestmark = pytest.mark.slow  # a PostgreSQL of its own takes its time

OTHER_URL = os.environ.get("ALPINE_CONTRACT_URL")
OTHER_KEY_FILE = os.environ.get("ALPINE_CONTRACT_KEY_FILE")


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


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """The other Alpine where one is named, else ours."""
    if OTHER_URL is None:
        with EmbeddedPostgres() as postgres, own_backend(postgres) as found:
            yield found
        return
    assert OTHER_KEY_FILE, "ALPINE_CONTRACT_KEY_FILE must name the file with that Alpine's key"
    with client_of(OTHER_URL, Path(OTHER_KEY_FILE).read_bytes().strip()) as client:
        yield Backend(client=client, server=None)


# The table: a request, and what it is answered.

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
    # What the contract says of PostgreSQL's checks, which another Alpine may check earlier.
    Case(promise="an empty reasoning", status=500, sent={"reasoning": ""}, ours=True),
    Case(promise="a price of 0", status=500, hashed={"entry_price": 0.0}, ours=True),
    Case(promise="a price below 0", status=500, hashed={"entry_price": -1.0}, ours=True),
    Case(promise="confidence over 100", status=500, hashed={"confidence": 100.5}, ours=True),
    Case(promise="confidence below 0", status=500, hashed={"confidence": -0.5}, ours=True),
    Case(promise="a NUL", status=422, sent={"reasoning": "r" * 20 + "\0"}, ours=True),
    Case(promise="neither BUY nor SELL", status=422, hashed={"action": "HOLD"}, ours=True),
    Case(promise="two hashes", status=400, sent={"sha256": "0" * 64}, detail=REFUSED, ours=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.promise)
def test_each_signal_gets_the_answer_defined_by_the_contract(backend: Backend, case: Case) -> None:
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
        stored = answer.json()
        assert stored["status"] == "success"
        assert stored["signal_id"] == stored["alpine_signal_id"]
        assert stored["external_signal_id"] == body["signal_id"]
    if backend.server is not None:
        listed = backend.client.get(LIST, params={"limit": 1_000}).json()["signals"]
        hashes = {row["verification_hash"] for row in listed}
        assert (body["verification_hash"] in hashes) == (case.status == STORED)


def test_each_hash_vector_is_accepted(backend: Backend) -> None:
    """The vectors say of themselves that a running Alpine took them one by one."""
    vectors = json.loads((TEST_DATA / "hash_vectors.json").read_text())
    assert vectors
    for vector in vectors:
        assert sha256_of(vector["signal"]) == vector["sha256"], vector["name"]
        hashes = {"sha256": vector["sha256"], "verification_hash": vector["sha256"]}
        assert backend.send(vector["signal"] | hashes).status_code == STORED, vector["name"]
        # The backend also takes what validation would normalise, where only the types differ. The
        # id is new, because a known hash is a duplicate with any body.
        given = vector.get("given", vector["signal"])
        if given["timestamp"] == vector["signal"]["timestamp"]:
            new = {"signal_id": f"contract-{uuid.uuid4()}"}
            body = signal_body(vector["signal"] | new) | given | new
            answer = backend.send(body)
            assert (answer.status_code, answer.json()["status"]) == (STORED, "success"), vector


def test_a_known_hash_is_a_duplicate_regardless_of_the_body(backend: Backend) -> None:
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
def test_requests_without_the_right_key_are_refused(backend: Backend, key: bytes | None) -> None:
    headers = {} if key is None else {b"X-API-Key": key}
    with httpx.Client(base_url=backend.client.base_url, trust_env=False) as stranger:
        body = signal_body()
        assert stranger.post(SIGNAL, json=body, headers=headers).status_code == 401
        assert stranger.get(HEALTH, headers=headers).status_code == 200
    assert backend.send(body).json()["status"] == "success"


def test_a_body_that_is_not_a_json_object_fails_validation(backend: Backend) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"{", b"[]", b'"text"', b"null", b""):
        answer = backend.client.post(SIGNAL, content=content, headers=headers)
        assert answer.status_code == 422, content
