"""Runs the console until SIGTERM or SIGINT.

Invariant: it ends within two seconds, with all its streams.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eventlog.plumbing import require_home
from projections.hosts import is_loopback
from projections.runtime.stop_signals import ignore_stop_signals, stop_by_signal
from projections.serving.address import LOCALHOST, Address, normalize_name
from projections.serving.limits import Limits
from projections.serving.server import serving
from projections.web.access.guard import Guard
from projections.web.access.login import Login
from projections.web.console import Console
from projections.web.live import STREAMS_MAX
from projections.web.routes import make_app

logger = logging.getLogger(__name__)

LIMITS = Limits(
    connections_max=STREAMS_MAX + 144,  # below the 1,024 files that a process may have open
    head_bytes_max=16 * 1024,  # a browser sends about 1 KiB, and the cookies of this host
    body_bytes_max=16 * 1024,  # an action on 2,000 signals
)
LOOPBACK_NAMES = ("127.0.0.1", "::1", LOCALHOST)
_WILDCARDS = ("0.0.0.0", "::")  # no name of a machine


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """The options of a console."""

    address: Address
    names: tuple[str, ...] = ()  # further host names
    is_read_only: bool = False
    login: Login | None = None  # None: every client that can connect


def console_names(address: Address, given: tuple[str, ...]) -> frozenset[str]:
    """The host names that the console answers to."""
    own = () if address.host in _WILDCARDS else (address.host,)
    return frozenset(normalize_name(name) for name in (*LOOPBACK_NAMES, *own, *given))


def run(home: Path, config: WebConfig, announce: Callable[[str], object]) -> None:
    """Serves the console until it is stopped; `announce` gets the URL to open.

    Raises LogNotFound, ProjectionError where it cannot listen.
    """
    require_home(home)
    try:
        asyncio.run(_run(home, config, announce))
    finally:
        ignore_stop_signals()


async def _run(home: Path, config: WebConfig, announce: Callable[[str], object]) -> None:
    stop = asyncio.Event()
    console = Console(home, is_read_only=config.is_read_only)
    stop_by_signal(stop)
    names = console_names(config.address, config.names)
    app = Guard(make_app(console, config.login), names, config.login)
    async with console.running(), serving(app, config.address, names=names, limits=LIMITS) as bound:
        announce(_url(config, bound[0].port))
        if config.login is None:
            logger.warning("no_login: every account that can reach the port can use the console")
        await stop.wait()
        console.log.stop()


def _url(config: WebConfig, port: int) -> str:
    host = LOCALHOST if config.address.host in _WILDCARDS else config.address.host
    url = f"http://{Address(host, port)}/"
    code = None if config.login is None else config.login.code
    return url if code is None else f"{url}enter?code={code}"


def require_token(address: Address, *, has_token: bool) -> None:
    """Raises ValueError for an address that others can reach, without a password."""
    if not has_token and not is_loopback(address.host):
        raise ValueError(f"{address} is reachable from other machines, so it needs a password")
