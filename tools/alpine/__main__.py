"""The command: reads options and environment, starts PostgreSQL and the server, stops both.

Invariant: the key is in no argument, no line of output and no message.
"""

import argparse
import asyncio
import ipaddress
import logging
import os
import secrets
import signal
import socket
import stat
import sys
import threading
from pathlib import Path
from typing import NoReturn

import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp

from tools.alpine import __doc__ as about
from tools.alpine.errors import CannotStart
from tools.alpine.misbehave import Misbehaver, Misbehaviour
from tools.alpine.postgres import EmbeddedPostgres
from tools.alpine.server import create_app
from tools.alpine.store import Store

EXIT_CANNOT_START = 3
GRACE_SECONDS = 2  # for requests under way; then they are cut, so that a stop takes seconds
CONNECTIONS_MAX = 200  # 503 beyond it; delivery has at most ten
KEY_BYTES_MAX = 1_024  # a header line must stay well under the 64 KiB that h11 takes


class Server(uvicorn.Server):
    """uvicorn, which prints its address on stdout when it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the line that other programs wait for."""
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; return 0 after a clean stop, 3 if it could not start."""
    options = _options(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s"
    )
    # uvicorn stops gracefully and raises the signal again; our handler then closes everything, also
    # if the signal comes before uvicorn is up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if options.stop_at_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()
    try:
        _run(options)
    except CannotStart as error:
        print(f"error: {error.what}\n  do: {error.do}", file=sys.stderr)
        return EXIT_CANNOT_START
    return 0


def _run(options: argparse.Namespace) -> None:
    key = _key(options)
    database_url = os.environ.get("DATABASE_URL") or None
    if database_url and options.data_dir:
        raise CannotStart(
            "--data-dir and DATABASE_URL exclude each other",
            do="unset DATABASE_URL for the embedded PostgreSQL, or leave --data-dir out",
        )
    with _listener(options) as listener:
        if database_url:
            asyncio.run(_serve(database_url, key, listener, options.misbehave))
        else:
            with EmbeddedPostgres(options.data_dir) as postgres:
                asyncio.run(_serve(postgres.url, key, listener, options.misbehave))


async def _serve(
    database_url: str, key: bytes, listener: socket.socket, misbehaviour: Misbehaviour | None
) -> None:
    store = await Store.open(database_url)
    try:
        app: ASGIApp = create_app(store, key)
        if misbehaviour is not None:
            app = Misbehaver(app, key, misbehaviour)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        await Server(config).serve([listener])
    finally:
        await store.close()


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.alpine",
        description=about,
        epilog="environment: EXTERNAL_SIGNAL_API_KEY, the key that clients must send; "
        "DATABASE_URL, a PostgreSQL of yours (default: an embedded one)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="0 chooses a free one (default: %(default)s)")
    add("--allow-remote", action="store_true", help="permit a --host that others can reach")
    add("--data-dir", type=Path, metavar="DIR", help="keep the embedded PostgreSQL here")
    add("--development", action="store_true", help="without a key in the environment, make one")
    add("--key-file", type=Path, metavar="FILE", help="where --development keeps the key it made")
    add("--stop-at-eof", action="store_true", help="stop when standard input ends, too")
    add(
        "--misbehave",
        nargs="?",
        const="{}",
        type=_misbehaviour,
        metavar="JSON",
        help="for tests: open /_misbehave, and start with these settings",
    )
    return parser.parse_args(arguments)


def _misbehaviour(text: str) -> Misbehaviour:
    try:
        return Misbehaviour.model_validate_json(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _key(options: argparse.Namespace) -> bytes:
    """The key as bytes, so that it need not be ASCII, or even UTF-8."""
    key = os.fsencode(os.environ.get("EXTERNAL_SIGNAL_API_KEY", ""))
    if not key and not options.development:
        raise CannotStart(
            "there is no key: EXTERNAL_SIGNAL_API_KEY is not set",
            do="set it, or use --development --key-file FILE to have one made",
        )
    if not key:
        key = _development_key(options.key_file)
    # HTTP strips white space around a header and has no way to send a control character.
    if key != key.strip() or any(byte < 0x20 or byte == 0x7F for byte in key):
        raise CannotStart(
            "no client could send this key: it has control characters, or white space around it",
            do="set EXTERNAL_SIGNAL_API_KEY without them",
        )
    if len(key) > KEY_BYTES_MAX:
        raise CannotStart(
            f"the key has more than {KEY_BYTES_MAX} bytes",
            do="set a shorter EXTERNAL_SIGNAL_API_KEY",
        )
    return key


def _development_key(file: Path | None) -> bytes:
    """The key in `file`; without such a file, a new one that only its owner can read."""
    if file is None:
        raise CannotStart(
            "--development has no place for the key that it makes", do="add --key-file FILE"
        )
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return _key_from(file)
    except OSError as error:
        raise CannotStart(
            f"the key file {file} cannot be made: {error.strerror}", do="give another --key-file"
        ) from None
    key = secrets.token_urlsafe(32).encode()
    with open(descriptor, "wb") as stream:
        stream.write(key + b"\n")
    print(f"development: a random key was made and written to {file}", file=sys.stderr)
    return key


def _key_from(file: Path) -> bytes:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            key = stream.read(KEY_BYTES_MAX + 2).strip() if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise CannotStart(
            f"the key file {file} cannot be read: {error.strerror}", do="give another --key-file"
        ) from None
    if not key or mode & 0o077:
        raise CannotStart(
            f"the key file {file} is empty, no regular file, or open to others",
            do="remove it to have one made, or `chmod 600` it",
        )
    print(f"development: the key is the one in {file}", file=sys.stderr)
    return key


def _listener(options: argparse.Namespace) -> socket.socket:
    """A bound socket, so that a port in use is reported before PostgreSQL starts."""
    host = "127.0.0.1" if options.host == "localhost" else options.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise CannotStart(f"--host {host} is no IP address", do="use 127.0.0.1 or ::1") from None
    if not address.is_loopback and not options.allow_remote:
        raise CannotStart(
            f"--host {host} would let other machines in, over plain HTTP",
            do="use 127.0.0.1, or add --allow-remote if that is what you want",
        )
    if not address.is_loopback and options.misbehave is not None:
        raise CannotStart("--misbehave is for this machine alone", do="use --host 127.0.0.1")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    # asyncio turns Nagle's delay off (40 ms an answer) only where the socket names its protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, options.port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise CannotStart(
            f"cannot listen on {host} port {options.port}: {error}",
            do="give another --port; 0 chooses a free one",
        ) from None
    return listener


def _stop(*_: object) -> NoReturn:
    raise SystemExit(0)


def _stop_at_eof() -> None:
    # Not sys.stdin: the interpreter aborts at its end while a thread reads from it.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
