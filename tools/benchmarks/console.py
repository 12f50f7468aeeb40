"""B16 and B17: the console in Chromium: paint, pages, live rows; and the memory of its server.

Times in a page are those of the page's own clock, from the start of the navigation.

Invariant: each console and each Chromium ends with the measurement that started it.
"""

from __future__ import annotations

import json
import random
import re
import selectors
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, NamedTuple

from eventlog import EventLog
from tools.benchmarks.ours import command
from tools.benchmarks.peers import command_s, running
from tools.benchmarks.runner import ROUNDS_MIN, Bench, NotMeasured, Rounds
from tools.benchmarks.signals import Signals
from tools.benchmarks.trading_log import trading_home

if TYPE_CHECKING:
    from tests.browser.driver import Browser

STREAMS = 100  # open ones, that of the page included
ROUND_PAGES, ROUND_QUICK_PAGES = 60, 20
ROUND_ROWS, ROUND_QUICK_ROWS = 60, 20
PACE_S = 0.05  # between two appends, and up to as much more: no phase of the server is preferred
SMALL_HOME_SIGNALS = 100
TIMEOUT_S = 300.0
POLL_S = 0.25  # as the page asks
PRINTED_URL = re.compile(r"(http://127\.0\.0\.1:(\d+))/")

# When the rows of the page Signals have been drawn, in ms from the start of the navigation.
WATCH_PAINT = """new MutationObserver((_, observer) => {
    if (!document.querySelector("#signals tbody tr[data-seq]")) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => { globalThis.paintedMs = performance.now(); }));
}).observe(document, { childList: true, subtree: true })"""
# The first contentful paint, in ms from the start of the navigation.
FIRST_CONTENT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
# Goes to each depth as the Back button does; ms until its rows are in the page.
TURN_PAGES = """(async (depths) => {
    const main = document.querySelector("main");
    const took = [];
    for (const before of depths) {
        history.pushState({}, "", `/signals?before=${before}`);
        const startedMs = performance.now();
        const drawn = new Promise((resolve) => new MutationObserver((_, observer) => {
            if (!main.hasAttribute("data-ready")) return;
            observer.disconnect();
            resolve();
        }).observe(main, { attributes: true }));
        dispatchEvent(new PopStateEvent("popstate"));
        await drawn;
        took.push(performance.now() - startedMs);
        const row = document.querySelector("#signals tbody tr[data-seq]");
        if (Number(row.dataset.seq) >= before) throw new Error(`not the page before ${before}`);
    }
    return took;
})(%s)"""
# When each row came into the page Log, in ms since 1970.
WATCH_ROWS = """globalThis.seenMs = {};
new MutationObserver(() => {
    const now = performance.timeOrigin + performance.now();
    for (const row of document.querySelectorAll("#tail tbody tr[data-seq]"))
        globalThis.seenMs[row.dataset.seq] ??= now;
}).observe(document, { childList: true, subtree: true })"""


def first_paint_ms(bench: Bench) -> Rounds:
    """B16-paint: ms from the navigation until the rows of the page Signals are drawn."""
    home, count = trading_home(bench)
    found, contents = [], []
    with _console(bench, home) as server, _chromium() as browser:
        rounds = bench.rounds_of_commands
        for number in range(rounds + 1):  # the first one fills the caches of files
            bench.progress(f"round {number} of {rounds}")
            with browser.context() as context:
                page = context.page()
                page.call("addInitScript", {"content": WATCH_PAINT})
                page.goto(f"{server.url}/signals")
                page.wait("globalThis.paintedMs")
                found.append(float(page.js("globalThis.paintedMs")))
                contents.append(float(page.js(FIRST_CONTENT)))
    return Rounds(
        ours=tuple(found[1:]),
        note=f"{count:,} signals, an empty cache of the browser; first contentful paint "
        f"{median(contents[1:]):.0f} ms",
    )


def page_ms(bench: Bench) -> Rounds:
    """B16-page: p95 of the ms until a page of signals, at any depth, is drawn."""
    home, count = trading_home(bench)
    depths, found, alone = random.Random(16), [], list[float]()
    with EventLog(home) as log:
        last_seq = log.last_seq
    pages = ROUND_QUICK_PAGES if bench.quick else ROUND_PAGES
    with _console(bench, home) as server, _chromium() as browser, browser.context() as context:
        page = context.page()
        page.goto(f"{server.url}/signals")
        for number in range(ROUNDS_MIN):
            bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
            wanted = [depths.randrange(1_000, last_seq) for _ in range(pages)]
            found.append(_p95(page.js(TURN_PAGES % json.dumps(wanted))))
            alone += [server.get_ms(f"/api/signals?limit=50&before={before}") for before in wanted]
    return Rounds(
        ours=tuple(found),
        note=f"{pages} pages a round, of {count:,} signals; the answer of the server without a "
        f"browser p95 {_p95(alone):.1f} ms",
    )


def row_ms(bench: Bench) -> Rounds:
    """B17-row: p95 of the ms from the return of `append` until the row is in the page Log."""
    home = bench.fresh_dir("b17") / "home"
    count = ROUND_QUICK_ROWS if bench.quick else ROUND_ROWS
    signals, pauses, found = Signals(seed=17), random.Random(17), []
    with EventLog(home) as log, ExitStack() as ending:
        log.append_many(signals.take(SMALL_HOME_SIGNALS))
        server = ending.enter_context(_console(bench, home))
        browser = ending.enter_context(_chromium())
        page = ending.enter_context(browser.context()).page()
        page.call("addInitScript", {"content": WATCH_ROWS})
        page.goto(f"{server.url}/log")
        page.wait("document.querySelector('#live[data-state=on]')")
        ending.enter_context(_streams(server.port, STREAMS - 1))
        for number in range(ROUNDS_MIN):
            bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
            returned_ms = {}
            for signal in signals.take(count):
                seq = log.append(signal).seq
                returned_ms[seq] = 1_000 * time.time()
                time.sleep(PACE_S * (1 + pauses.random()))
            page.wait(f"globalThis.seenMs[{log.last_seq}]")
            seen_ms = page.js("globalThis.seenMs")
            found.append(_p95([seen_ms[str(seq)] - ms for seq, ms in returned_ms.items()]))
    return Rounds(ours=tuple(found), note=f"{count} signals a round, {STREAMS} streams")


def outcomes_mb(bench: Bench) -> Rounds:
    """B17-memory: the peak memory of the server after the page Outcomes."""
    home, count = trading_home(bench)
    found, first_s, again_ms, past_ms = [], [], [], []
    with EventLog(home) as log:
        last_seq = log.last_seq
    for number in range(ROUNDS_MIN):
        bench.progress(f"round {number + 1} of {ROUNDS_MIN}")
        with _console(bench, home) as server:
            first_s.append(server.outcomes_s(""))
            again_ms.append(1_000 * server.outcomes_s(""))
            past_ms += [
                1_000 * server.outcomes_s(f"?as_of_seq={last_seq * share // 10}")
                for share in range(1, 10)
            ]
            found.append(server.memory_mb("VmHWM"))
    return Rounds(
        ours=tuple(found),
        note=f"{count:,} signals; the first answer after {median(first_s):.1f} s, again "
        f"{median(again_ms):.0f} ms, as of an entry {median(past_ms):.0f} ms",
    )


def idle_mb(bench: Bench) -> Rounds:
    """B17-idle: the memory of the server of a small home, after its pages were opened."""
    home = bench.fresh_dir("b17") / "home"
    with EventLog(home) as log:
        log.append_many(Signals(seed=18).take(SMALL_HOME_SIGNALS))
    command_s(command("--home", home, "rebuild-database"))
    found = []
    for _ in range(ROUNDS_MIN):
        with _console(bench, home) as server:
            for path in ("/", "/api/status", "/api/log", "/api/signals"):
                server.get(path)
            server.outcomes_s("")
            found.append(server.memory_mb("VmRSS"))
    return Rounds(ours=tuple(found), note=f"{SMALL_HOME_SIGNALS} signals")


class _Server(NamedTuple):
    """A running console."""

    pid: int
    url: str
    port: int

    def get(self, path: str) -> int:
        """Asks for a path; returns the status."""
        with urllib.request.urlopen(self.url + path, timeout=TIMEOUT_S) as answer:
            answer.read()
            return int(answer.status)

    def get_ms(self, path: str) -> float:
        """The ms until an answer is read."""
        started_s = time.perf_counter()
        self.get(path)
        return 1_000 * (time.perf_counter() - started_s)

    def outcomes_s(self, query: str) -> float:
        """The seconds until the figures of the page Outcomes are there."""
        started_s = time.perf_counter()
        while self.get(f"/api/outcomes{query}") == 202:
            if time.perf_counter() - started_s > TIMEOUT_S:
                raise NotMeasured(f"/api/outcomes has no answer after {TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        return time.perf_counter() - started_s

    def memory_mb(self, name: str) -> float:
        """A size of its process that Linux knows by this name, in MB."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except FileNotFoundError:
            raise NotMeasured("/proc does not show the memory of a process here") from None
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


@contextmanager
def _console(bench: Bench, home: Path) -> Iterator[_Server]:
    """`eventlog web` of a home, without a login."""
    output = bench.fresh_dir("console") / "output"
    words = command("--home", home, "web", "--listen", "127.0.0.1:0", "--no-login")
    with running(words, output) as process:
        give_up_s = time.monotonic() + TIMEOUT_S
        while (printed := PRINTED_URL.search(output.read_text())) is None:
            if process.poll() is not None or time.monotonic() > give_up_s:
                raise NotMeasured(f"the console does not start: {output.read_text()[-400:]}")
            time.sleep(0.01)
        yield _Server(process.pid, printed[1], int(printed[2]))


@contextmanager
def _chromium() -> Iterator[Browser]:
    """The Chromium of the browser tests."""
    # Here, because the other targets need neither pytest nor a browser.
    from tests.browser.driver import PACKAGES, chromium

    for program, package in (("node", "nodejs"), ("chromium", "chromium")):
        if shutil.which(program) is None:
            raise NotMeasured(f"{program} is not installed: sudo apt-get install {package}")
    if not (PACKAGES / "playwright-core").is_dir():
        raise NotMeasured("playwright-core of npm is not installed: run tools/bench")
    with chromium() as browser:
        yield browser


@contextmanager
def _streams(port: int, count: int) -> Iterator[None]:
    """Open streams of the live log, read and thrown away by a thread."""
    with ExitStack() as ending:
        selector = ending.enter_context(selectors.DefaultSelector())
        request = f"GET /api/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        for _ in range(count):
            stream = ending.enter_context(socket.create_connection(("127.0.0.1", port)))
            stream.sendall(request)
            if not stream.recv(65_536).startswith(b"HTTP/1.1 200"):
                raise NotMeasured("the console refuses a stream")
            selector.register(stream, selectors.EVENT_READ)
        is_over = threading.Event()
        thread = threading.Thread(target=_drain, args=(selector, is_over.is_set))
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def _drain(selector: selectors.BaseSelector, is_over: Callable[[], bool]) -> None:
    while not is_over():
        for key, _ in selector.select(0.2):
            assert isinstance(key.fileobj, socket.socket)
            if not key.fileobj.recv(65_536):
                selector.unregister(key.fileobj)


def _p95(taken_ms: Sequence[float]) -> float:
    return quantiles(taken_ms, n=20)[18]
