"""An Alpine of a few lines for commands, whose refusals and whose list a test determines.

    with tiny_alpine() as alpine:
        eventlog("project", "alpine", "--once", home=home, env=alpine.env)
        alpine.received            the signal_ids that came in
        alpine.refused["s-1"] = b"no"   answers 422 with this text, until it is removed

Invariant: it listens on this machine only and ends with its block.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STORED = b'{"status":"success","signal_id":1,"alpine_signal_id":1,"external_signal_id":"s-1"}'
Pages = Callable[[int], object]  # the page for `after`: bytes as they are, anything else as JSON


@dataclass(kw_only=True)
class TinyAlpine:
    """Where it listens, and what came in."""

    url: str
    received: list[str] = field(default_factory=list)
    refused: dict[str, bytes] = field(default_factory=dict)
    pages: int = 0

    @property
    def env(self) -> dict[str, str]:
        """The settings of a command that uses it."""
        return {"ALPINE_API_URL": self.url, "ALPINE_API_KEY": "key"}


@contextmanager
def tiny_alpine(pages: Pages | None = None) -> Iterator[TinyAlpine]:
    """Runs until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            signal_id = json.loads(body)["signal_id"]
            found.received.append(signal_id)
            refusal = found.refused.get(signal_id)
            if refusal is None:
                self._answer(201, STORED)
            else:
                self._answer(422, refusal)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if pages is None or "after" not in parts.query:
                self._answer(200, b'{"status":"healthy"}')
                return
            found.pages += 1
            page = pages(int(parse_qs(parts.query)["after"][0]))
            self._answer(200, page if isinstance(page, bytes) else json.dumps(page).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = TinyAlpine(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
