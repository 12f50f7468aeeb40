"""Bodies that Python's JSON parser lets pass and PostgreSQL cannot hold: 422, never 500."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.backend import (
    LIST,
    SIGNAL,
    STORED,
    Backend,
    own_backend,
    signal_body,
)
from tools.alpine.postgres import EmbeddedPostgres

pytestmark = pytest.mark.slow  # a PostgreSQL of its own takes its time

NUMBERS = ("entry_price", "target_price", "stop_price", "confidence")
TEXTS = ("signal_id", "symbol", "strategy", "timestamp")
UNHASHED_TEXTS = ("asset_type", "data_source", "reasoning", "regime", "sha256", "verification_hash")
HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as running:
        yield running


@pytest.fixture(scope="module")
def backend(postgres: EmbeddedPostgres) -> Iterator[Backend]:
    with own_backend(postgres) as found:
        yield found


def status_of(backend: Backend, body: object) -> int:
    """Python writes NaN and lone surrogates into JSON, as they came."""
    content = json.dumps(body).encode()
    return backend.client.post(SIGNAL, content=content, headers=HEADERS).status_code


def assert_nothing_was_stored(backend: Backend, before: object) -> None:
    assert backend.client.get(LIST).json() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_none_is_refused_with_422(
    backend: Backend, name: str, value: float
) -> None:
    before = backend.client.get(LIST).json()
    assert status_of(backend, signal_body({name: value})) == 422
    assert_nothing_was_stored(backend, before)


@pytest.mark.parametrize("text", ["\ud800", "A\udfff", "A\0B", "\0"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_utf_8_or_postgresql_cannot_hold_is_refused_with_422(
    backend: Backend, name: str, text: str
) -> None:
    before = backend.client.get(LIST).json()
    assert status_of(backend, signal_body({name: text})) == 422
    assert_nothing_was_stored(backend, before)


@pytest.mark.parametrize("text", ["\ud800 and twenty characters", "\0 and twenty characters"])
@pytest.mark.parametrize("name", UNHASHED_TEXTS)
def test_the_same_holds_for_texts_that_the_hash_leaves_out(
    backend: Backend, name: str, text: str
) -> None:
    before = backend.client.get(LIST).json()
    assert status_of(backend, signal_body(None, **{name: text})) == 422
    assert_nothing_was_stored(backend, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, 2**70])
def test_a_consensus_that_is_no_number_is_refused_with_422(backend: Backend, value: Any) -> None:
    before = backend.client.get(LIST).json()
    assert status_of(backend, signal_body(consensus_agreement=value)) in (
        (422,) if value != 2**70 else (422, STORED)
    )
    if value != 2**70:
        assert_nothing_was_stored(backend, before)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "1" + "0" * 400, "NaN", "Infinity"])
def test_a_price_beyond_a_float_in_the_text_of_the_body_is_refused_with_422(
    backend: Backend, text: str
) -> None:
    content = json.dumps(signal_body()).replace("150.5", text, 1).encode()
    answer = backend.client.post(SIGNAL, content=content, headers=HEADERS)
    assert answer.status_code == 422


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"null"])
def test_a_body_that_is_no_object_is_refused_with_422(backend: Backend, content: bytes) -> None:
    answer = backend.client.post(SIGNAL, content=content, headers=HEADERS)
    assert answer.status_code in (400, 422), answer.text[:200]


@pytest.mark.parametrize("query", ["limit=NaN", "after=%00", "after=%ED%A0%80", "after=1e9"])
def test_a_query_that_is_none_is_refused_with_422(backend: Backend, query: str) -> None:
    assert backend.client.get(f"{LIST}?{query}").status_code == 422


def test_it_goes_on_answering(backend: Backend) -> None:
    assert status_of(backend, signal_body({"entry_price": float("nan")})) == 422
    assert status_of(backend, signal_body()) == STORED
