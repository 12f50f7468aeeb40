"""A running `eventlog web`, and a client that speaks to it as a page does.

    with console(home, "--no-login") as c:
        assert c.get("/api/status")["log"]["entries"] == 3

Invariant: no console outlives the test that started it.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlencode

import httpx

from tests.harness.command import command_line
from tests.harness.daemon import read_shared
from tests.harness.deadline import DEADLINE_S, until


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    id: str
    data: dict[str, Any]


class WebConsole:
    """One process, the URL that it printed, and a client without cookies at first."""

    def __init__(
        self, process: subprocess.Popen[bytes], stderr: IO[bytes], url: str, client: httpx.Client
    ) -> None:
        self.process = process
        self._stderr = stderr
        self.printed = url  # with the one-time code, if any
        self.origin = url[: url.index("/", len("http://"))]
        self.port = int(self.origin.rpartition(":")[2])
        self.client = client

    def request(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        return self.client.request(method, self.origin + path, **more)

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """The JSON of an answer with status 200; waits while it is still loading."""
        query = {key: value for key, value in query.items() if value is not None}
        path = f"{path}?{urlencode(query)}" if query else path
        answers: list[httpx.Response] = []

        def is_complete() -> bool:
            answers.append(self.request(path))
            return answers[-1].status_code != 202

        until(is_complete)
        assert answers[-1].status_code == 200, answers[-1].text
        found: dict[str, Any] = answers[-1].json()
        return found

    def act(self, path: str, body: object, **headers: str | None) -> httpx.Response:
        """An action as a page sends it; a header of None is left out."""
        given = {
            "Sec-Fetch-Site": "same-origin",
            "Origin": self.origin,
            "X-Eventlog": "1",
            "Content-Type": "application/json",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kept = {name: value for name, value in given.items() if value is not None}
        return self.request(path, "POST", content=content, headers=kept)

    def log_in(self) -> httpx.Response:
        """Opens the printed URL; the client then has the cookie."""
        return self.client.get(self.printed)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    @property
    def err(self) -> str:
        """Its stderr so far."""
        return read_shared(self._stderr)

    @property
    def rss_bytes(self) -> int:
        """Its resident memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @contextmanager
    def stream(self, **headers: str) -> Iterator[Iterator[Event]]:
        """The events of /api/live."""
        url = f"{self.origin}/api/live"
        with self.client.stream("GET", url, headers=headers, timeout=DEADLINE_S) as answer:
            assert answer.status_code == 200, answer.read()
            yield events_of(answer.iter_lines())


def events_of(lines: Iterator[str]) -> Iterator[Event]:
    """The events in the lines of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


@contextmanager
def console(
    home: Path,
    *options: object,
    listen: str = "127.0.0.1:0",
    env: Mapping[str, str] | None = None,
    under: Sequence[object] = (),
) -> Iterator[WebConsole]:
    """A running console, killed at the end if it is still running."""
    with tempfile.TemporaryFile() as stderr, httpx.Client(trust_env=False) as client:
        process = subprocess.Popen(
            command_line(("web", "--listen", listen, *options), home, under),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            assert url, read_shared(stderr)
            yield WebConsole(process, stderr, url, client)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
