"""The live pages: each entry once and in order, in twelve tabs, through a restart.

EVENTLOG_TEST_CONSOLE_S sets how long entries are appended at full rate: 60 for a run by hand.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.browser.console import Console, console
from tests.browser.driver import Browser, Context, Page
from tests.browser.shown import shown_home
from tests.harness.daemon import daemon
from tests.harness.signals import a_signal, signals

pytestmark = pytest.mark.slow

TABS = 12
RATE, CALM_RATE = 500, 30  # entries a second
CALM_S = 6  # three samples of the status
RATE_S = float(os.environ.get("EVENTLOG_TEST_CONSOLE_S", "6" if "CI" in os.environ else "15"))
WARM_UP_S = 2
BATCH = 10
ROWS_MAX = 500  # in a page
FULL = "document.querySelectorAll('#tail tbody tr[data-seq]').length === 500"
HEAP_GROWTH_BYTES_MAX = 150_000  # rows that are kept take three times that in 6 s

LIVE = "document.querySelector('#live[data-state=on]')"
NOT_LIVE = "document.querySelector('#live:not([data-state=on])')"
ENTRIES = """Number(document.querySelector("[data-figure='log.entries']").dataset.value)"""
TOP = "Number(document.querySelector('#tail tbody tr[data-seq]')?.dataset.seq ?? 0)"


@contextmanager
def live_log(browser: Browser, home: Path) -> Iterator[tuple[Console, Context, Page]]:
    """A console of a home with ten signals, and its page Log."""
    with EventLog(home) as log:
        log.append_many(signals(10))
    with daemon(home, "sqlite"), console(home) as found, browser.context() as context:
        page = context.page()
        page.goto(found.enter_url)
        page.goto(f"{found.url}/log")
        page.wait(LIVE)
        yield found, context, page


def descends_by_one(seqs: list[int]) -> bool:
    return seqs == list(range(seqs[0], seqs[0] - len(seqs), -1))


def test_a_restart_of_the_server_loses_and_repeats_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    with live_log(browser, tmp_path / "home") as (found, context, page):
        with EventLog(tmp_path / "home") as log:
            for how, first in ((signal.SIGKILL, 11), (signal.SIGTERM, 41)):
                log.append_many(signals(10, start=first))
                page.wait(f"{TOP} === {first + 9}")
                found.end(how)
                page.wait(NOT_LIVE)
                log.append_many(signals(10, start=first + 10))  # no console runs
                found.start()
                log.append_many(signals(10, start=first + 20))
                page.wait(LIVE)
                page.wait(f"{TOP} === {first + 29}")
        seqs = page.seqs("tail")
        assert len(seqs) == 70
        assert descends_by_one(seqs)
        # The browser itself reports each request that found no server.
        problems = [p for p in context.problems() if "/api/" not in p or "net::ERR_" not in p]
        assert problems == []


def test_a_tab_shows_another_home_that_is_served_at_its_address(
    browser: Browser, tmp_path: Path
) -> None:
    """Without a login: with one, its session is of the other home."""
    homes = (tmp_path / "home", tmp_path / "other")
    for home, first in zip(homes, (1, 101), strict=True):
        with EventLog(home) as log:
            log.append_many(signals(10, start=first))
    with console(homes[0], "--no-login") as found, browser.context() as context:
        page = context.page()
        page.goto(f"{found.url}/log")
        page.wait(LIVE)
        assert "s-10" in page.text("#tail")
        found.end()
        found.home = homes[1]
        found.start()
        page.wait(f"document.querySelector('#tail').textContent.includes('s-110') && {LIVE}")
        assert "s-10 " not in page.text("#tail")


def test_a_server_that_hangs_is_not_called_live(browser: Browser, tmp_path: Path) -> None:
    with live_log(browser, tmp_path / "home") as (found, _, page):
        found.send(signal.SIGSTOP)
        began_s = time.monotonic()
        page.wait(NOT_LIVE)
        took_s = time.monotonic() - began_s
        found.send(signal.SIGCONT)
        page.wait(LIVE)
        assert took_s < 8  # 5 s of silence, a clock of the page that ticks, a slow machine


def test_twelve_tabs_share_one_stream(browser: Browser, tmp_path: Path) -> None:
    """A browser holds six connections to a host: a stream for each tab would freeze the seventh."""
    with live_log(browser, tmp_path / "home") as (found, context, first):
        pages = [first]
        for _ in range(TABS - 1):
            pages.append(context.page())
            pages[-1].goto(f"{found.url}/log")
            pages[-1].wait(LIVE)
        with EventLog(tmp_path / "home") as log:
            last = log.append(a_signal(11)).seq
            for page in pages:
                page.wait(f"{TOP} === {last}")
            assert len([url for url in context.requests() if "/api/live" in url]) <= 2
            pages.pop(0).call("close")  # it held the stream
            last = log.append_many(signals(3, start=12))[-1].seq
        for page in pages:
            page.wait(f"{TOP} === {last}")
            page.wait(LIVE)
            assert page.seqs("tail") == list(range(last, 0, -1))
        assert context.problems() == []


def test_full_rate_keeps_the_page_bounded_in_order_and_honest(
    browser: Browser, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with live_log(browser, home) as (_, context, page):
        page.js(f"{WATCH_ORDER}")
        with appending(home):
            page.wait(FULL)
            time.sleep(WARM_UP_S)
        early = calm_heap_bytes(page, home)
        with appending(home, first=1_000_000):
            time.sleep(RATE_S)
        late = calm_heap_bytes(page, home)
        with EventLog(home) as log:
            last_seq = log.last_seq
        assert late - early < HEAP_GROWTH_BYTES_MAX, (early, late)
        seqs = page.seqs("tail")
        assert len(seqs) <= ROWS_MAX
        assert seqs == sorted(set(seqs), reverse=True)
        assert page.js("globalThis.outOfOrder") == 0
        assert page.js("document.querySelector('#live').dataset.state") == "on"
        # The page says how many it left out: with those that it showed, that is all of them.
        left_out, shown = page.js("[globalThis.leftOut(), globalThis.shown]")
        assert left_out + shown == last_seq - 10
        assert context.problems() == []


def test_the_overview_counts_and_measures_what_comes(browser: Browser, tmp_path: Path) -> None:
    """The axis of the rate reaches beyond 20, in a page that was not loaded again."""
    with shown_home(browser, tmp_path / "home") as shown, shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/")
        before = page.figures()["log.entries"]
        with appending(shown.home, CALM_RATE):
            page.wait(f"{ENTRIES} > {before} + {CALM_RATE * CALM_S}")
            page.wait("/[234]0/.test(document.querySelector('#rate svg').textContent)")
        with EventLog(shown.home) as log:
            last_seq = log.last_seq
        page.wait(f"{ENTRIES} === {last_seq}")
        page.shot("overview-live-1360-light")
        assert context.problems() == []


def test_a_paused_page_counts_what_waits_and_then_shows_it(
    browser: Browser, tmp_path: Path
) -> None:
    with live_log(browser, tmp_path / "home") as (_, context, page):
        page.call("focus", "#pause")
        page.press("Space")
        with EventLog(tmp_path / "home") as log:
            log.append_many(signals(7, start=11))
        page.wait("document.querySelector('#count').textContent.includes('7')")
        assert page.seqs("tail")[0] == 10
        page.press("Space")
        page.wait(f"{TOP} === 17")
        assert descends_by_one(page.seqs("tail"))
        assert context.problems() == []


def test_a_filter_of_the_log_shows_one_event_and_goes_on(browser: Browser, tmp_path: Path) -> None:
    with live_log(browser, tmp_path / "home") as (_, context, page):
        page.call("selectOption", "#kind", "executed")
        with EventLog(tmp_path / "home") as log:
            log.append(a_signal(11))
            log.append({"event": "executed", "signal_id": "s-11", "order_id": "o-11"})
            log.append(a_signal(12))
        page.wait(f"{TOP} === 12")
        visible = """[...document.querySelectorAll("#tail tbody tr[data-seq]")].filter((row) =>
            row.checkVisibility()).map((row) => Number(row.dataset.seq))"""
        page.wait(f"({visible}).length === 1")
        assert page.js(visible) == [12]
        assert context.problems() == []


def calm_heap_bytes(page: Page, home: Path) -> int:
    """The memory of the page's scripts once it shows the last entry and nothing comes."""
    with EventLog(home) as log:
        page.wait(f"{TOP} === {log.last_seq}")
    page.heap_bytes()  # the first collection leaves what finalizers hold
    return page.heap_bytes()


@contextmanager
def appending(home: Path, rate: int = RATE, first: int = 1_000) -> Iterator[None]:
    """Another thread appends `rate` entries a second until the end of the block."""
    stop = threading.Event()

    def run() -> None:
        with EventLog(home) as log:
            began_s, number = time.monotonic(), 0
            while not stop.is_set():
                log.append_many(signals(BATCH, start=first + number))
                number += BATCH
                stop.wait(max(0.0, began_s + number / rate - time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# Counts the rows that are added, and those that are not newer than the row below them.
WATCH_ORDER = """(() => {
    globalThis.shown = 0;
    globalThis.outOfOrder = 0;
    globalThis.leftOut = () =>
        Number(document.querySelector("[data-figure='log.left_out']")?.dataset.value ?? 0);
    new MutationObserver((changes) => {
        for (const row of changes.flatMap((change) => [...change.addedNodes])) {
            globalThis.shown += 1;
            const below = Number(row.nextElementSibling?.dataset.seq ?? 0);
            if (below >= Number(row.dataset.seq)) globalThis.outOfOrder += 1;
        }
    }).observe(document.querySelector("#tail tbody"), {childList: true});
})()"""
