"""Filters, paging, slider, back and reload: the address holds the whole state of a page."""

import pytest

from tests.browser.driver import READY
from tests.browser.shown import Shown, newest_first

pytestmark = pytest.mark.slow

OLDER = """Boolean(document.querySelector(
    "#older:not([disabled], [aria-disabled=true], [hidden])"))"""

SEQS = """[...document.querySelectorAll('#signals tr[data-seq]')]
    .map((row) => row.dataset.seq).join()"""


def test_filters_are_kept_in_the_address_and_survive_back_and_reload(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/signals")
        every = page.seqs("signals")
        page.call("fill", "[name=symbol]", "nvda")  # in any case, as the command takes it
        page.press("Enter")
        page.wait("location.search.toLowerCase().includes('symbol=nvda')")
        page.wait(READY)
        rows = shown.ask("signals", "--symbol", "NVDA", "--limit", 10_000)
        nvda = newest_first(rows)[: len(every)]
        page.wait(f"{SEQS} === '{','.join(map(str, nvda))}'")
        page.call("reload")
        page.wait(READY)
        assert page.seqs("signals") == nvda
        assert page.js("document.querySelector('[name=symbol]').value.toUpperCase()") == "NVDA"
        page.call("goBack")
        page.wait(f"{SEQS} === '{','.join(map(str, every))}'")  # both may begin with one row
        assert page.js("document.querySelector('[name=symbol]').value") == ""
        assert context.problems() == []


def test_paging_shows_each_signal_once_down_to_the_first(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/signals?strategy=breakout")
        found = page.seqs("signals")
        while page.js(OLDER):
            last = found[-1]
            page.call("focus", "#older")
            page.press("Enter")
            page.wait(
                f"Number(document.querySelector('#signals tr[data-seq]')?.dataset.seq) < {last}"
            )
            page.wait(READY)
            found += page.seqs("signals")
        rows = shown.ask("signals", "--strategy", "breakout", "--limit", 10_000)
        assert len(rows) > 150
        assert found == newest_first(rows)
        end = page.seqs("signals")
        page.call("goBack")
        page.wait(f"document.querySelector('#signals tr[data-seq]').dataset.seq > {end[0]}")
        assert context.problems() == []


def test_a_row_leads_to_its_signal_and_back(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/signals?symbol=AAPL&action=SELL")
        seqs = page.seqs("signals")
        page.call("focus", f"#signals tr[data-seq='{seqs[3]}'] a")
        page.press("Enter")
        page.wait(f"location.pathname === '/signals/{seqs[3]}' && {READY}")
        page.wait("document.querySelector('#proof[data-state=ok]')")
        page.call("goBack")
        page.wait(f"location.pathname === '/signals' && {READY}")
        assert page.seqs("signals") == seqs
        assert context.problems() == []


def test_the_slider_sets_the_moment_of_the_whole_console(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/outcomes")
        now = page.figures()["total_signals"]
        page.call("focus", "#asof")
        page.press(*["PageDown"] * 4)
        page.wait(f"location.search.includes('as_of') && {READY}")
        then = page.figures()["total_signals"]
        assert then < now
        search = page.js("location.search")
        page.call("reload")
        page.wait(READY)
        assert page.figures()["total_signals"] == then
        page.call("focus", "nav a[href^='/signals']")
        page.press("Enter")
        page.wait(f"location.pathname === '/signals' && {READY}")
        assert page.js("location.search") == search
        assert context.problems() == []


def test_outcomes_without_an_outcome_say_so(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/outcomes?as_of_seq=1")
        assert "No signal of this selection has an outcome" in page.text("#nothing")
        page.goto(f"{shown.url}/outcomes")
        assert page.text("#nothing") == ""
        assert context.problems() == []


def test_drag_zooms_the_chart_and_escape_shows_all_again(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/outcomes")
        box = page.js(
            """(({x, y, width, height}) => [x, y, width, height])(
                document.querySelector("main [data-chart=line]").getBoundingClientRect())"""
        )
        labels = "document.querySelector('main [data-chart=line] svg').textContent"
        before = page.js(labels)
        y = box[1] + box[3] / 2
        page.call("mouse.move", box[0] + box[2] * 0.4, y)
        page.call("mouse.down")
        page.call("mouse.move", box[0] + box[2] * 0.5, y, {"steps": 4})
        page.call("mouse.up")
        page.wait(f"{labels} !== {before!r}")
        page.call("focus", "main [data-chart=line]")
        page.press("Escape")
        page.wait(f"{labels} === {before!r}")
        assert context.problems() == []
