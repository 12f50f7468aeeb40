"""Runs an application on an address, in the event loop of the caller.

    async with serving(app, Address("127.0.0.1", 0), names=host_names(address)) as bound:
        ...

Invariant: when the block has ended, so has every connection and every task of a request.
"""

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.server import ServerState

from projections.errors import ProjectionError
from projections.serving.address import Address
from projections.serving.connection import Connection, Connections
from projections.serving.exchange import guarded
from projections.serving.limits import Limits

logger = logging.getLogger(__name__)

DEFAULT_LIMITS = Limits()
BACKLOG = 100  # connections that the kernel accepts before we do, also the most at one time
# After a stop: answers in progress are completed, then everything is ended. Together below 2 s.
FINISH_S_MAX = 0.5
CANCEL_S_MAX = 1.0


@asynccontextmanager
async def serving(
    app: ASGIApp, address: Address, *, names: frozenset[str], limits: Limits = DEFAULT_LIMITS
) -> AsyncIterator[tuple[Address, ...]]:
    """Serves `app` during the block; yields the addresses. Raises ProjectionError.

    A request is passed on if its Host header is one of `names` or an IP address. A handler is
    cancelled when its client goes away or its answer has not started within `answer_s_max`. A
    stream may stay open: the application limits their number, well below `connections_max`.
    """
    config = _config(guarded(app, names, limits), limits)
    state, connections = ServerState(), Connections(limits.connections_max)
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(config, state, connections, limits),
            address.host,
            address.port,
            backlog=BACKLOG,
        )
    except (OSError, UnicodeError) as error:
        raise ProjectionError(
            f"cannot listen on {address}: {_listen_problem(error)}",
            do="give --listen an address of this machine and a port that is not in use",
        ) from None
    bound = tuple(Address(*socket.getsockname()[:2]) for socket in server.sockets)
    for each in bound:
        logger.info("listening url=http://%s", each)
    try:
        yield bound
    finally:
        server.close()
        await _end_connections(connections, state.tasks)


async def _end_connections(connections: Connections, tasks: set[asyncio.Task[None]]) -> None:
    connections.emptied.clear()
    for connection in list(connections.open):
        connection.finish()
    if connections.open:
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S_MAX):
                await connections.emptied.wait()
    for connection in list(connections.open):
        connection.abort()
    if tasks:
        await asyncio.wait(set(tasks), timeout=CANCEL_S_MAX)


def _config(app: ASGIApp, limits: Limits) -> Config:
    config = Config(
        app,
        interface="asgi3",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,  # else each client that speaks no HTTP writes a warning
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        h11_max_incomplete_event_size=limits.head_bytes_max,
        timeout_keep_alive=math.ceil(limits.keep_alive_s_max),
    )
    config.load()
    return config


def _listen_problem(error: OSError | UnicodeError) -> str:
    # asyncio's own text repeats the address; a host name that is not found has no errno.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(error)
