"""A server of NATS for each module, and a stream for each test."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.harness.nats import NatsServers, nats_server

NUMBERS = count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServers]:
    with nats_server() as running:
        yield running


@pytest.fixture
def stream(server: NatsServers) -> str:
    """The name of a new stream."""
    name = f"stream-{next(NUMBERS)}"
    server.create_stream(name)
    return name
