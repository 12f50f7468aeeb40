"""A backend under test, the reference or another: its paths, a body, a client with its key.

Invariant: the hash of a body is computed here, without the code of the packages.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.harness.alpine_server import AlpineServer
from tests.harness.deadline import DEADLINE_S
from tools.alpine.postgres import EmbeddedPostgres

SIGNAL = "/api/v1/external-signals/sync/signal"
HEALTH = "/api/v1/external-signals/sync/health"
LIST = "/api/v1/signals"
STORED = 201
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend under test: a client that has its key, and the server if we started it."""

    client: httpx.Client
    server: AlpineServer | None

    def send(self, body: object) -> httpx.Response:
        return self.client.post(SIGNAL, json=body)


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


def client_of(url: str, key: bytes) -> httpx.Client:
    headers = {b"X-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=DEADLINE_S)


@contextmanager
def own_backend(postgres: EmbeddedPostgres) -> Iterator[Backend]:
    """The reference backend, started as a user starts it."""
    with AlpineServer(postgres=postgres, key=KEY, misbehave=False) as server:
        with client_of(server.url, KEY) as client:
            yield Backend(client=client, server=server)
        assert KEY.decode() not in server.output()  # after all requests, S3
        assert "Traceback" not in server.output()


def is_duplicate(answer: httpx.Response) -> bool:
    return answer.status_code == 409 or (
        answer.status_code == STORED and answer.json()["status"] == "duplicate"
    )
