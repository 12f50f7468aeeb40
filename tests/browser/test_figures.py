"""Every figure of a page equals that of the command of the same name, at the same entry."""

from typing import Any

import pytest

from eventlog import EventLog
from tests.browser.homes import FIRST_DAY, SYMBOLS
from tests.browser.shown import PAGES, Shown, newest_first

pytestmark = pytest.mark.slow

MIDDLE = f"{FIRST_DAY.year + 1}-01-15T12:00:00Z"
MOMENTS = (None, MIDDLE)


def as_of(moment: str | None, mark: str = "?") -> str:
    return f"{mark}as_of={moment}" if moment else ""


def options(moment: str | None, **chosen: str) -> list[str]:
    """The options of a command for a moment and a choice."""
    words = ["--as-of", moment] if moment else []
    return words + [word for name, value in chosen.items() for word in (f"--{name}", value)]


def assert_equal_figures(found: dict[str, Any], answer: dict[str, Any], least: int) -> None:
    """The page shows at least so many figures of the answer, and no other value."""
    assert len(found) >= least, found
    assert found == {name: answer.get(name, "no such figure") for name in found}


def test_the_overview_has_the_figures_of_status(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/")
        status = shown.ask("status")
        table, delivery = (status["projections"][name] for name in ("sqlite", "alpine"))
        answer = {f"log.{name}": value for name, value in status["log"].items()}
        answer["log.entries"] = status["log"]["last_seq"] - status["log"]["first_seq"] + 1
        answer |= {f"table.{name}": value for name, value in table.items()}
        answer |= {f"delivery.{name}": value for name, value in delivery.items()}
        assert_equal_figures(page.figures(), answer, 6)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("chosen", [{}, {"strategy": "breakout"}, {"symbol": SYMBOLS[0]}])
def test_outcomes_have_the_figures_of_stats(
    shown: Shown, moment: str | None, chosen: dict[str, str]
) -> None:
    with shown.context() as context:
        page = context.page()
        query = "&".join(f"{name}={value}" for name, value in chosen.items())
        page.goto(f"{shown.url}/outcomes?{query}{as_of(moment, '&')}")
        answer = shown.ask("stats", *options(moment, **chosen))
        assert_equal_figures(page.figures(), answer, 8)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("by", ["strategy", "symbol", "month"])
def test_the_tables_of_outcomes_have_the_figures_of_stats_by(
    shown: Shown, moment: str | None, by: str
) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/outcomes{as_of(moment)}")
        answer = shown.ask("stats", "--by", by, *options(moment))
        rows = f"""document.querySelectorAll("tr[data-group^='{by}:']")"""
        groups = page.js(f"[...{rows}].map((row) => row.dataset.group)")
        assert sorted(groups) == sorted(f"{by}:{row[by]}" for row in answer)
        for row in answer:
            found = page.figures(f"tr[data-group='{by}:{row[by]}']")
            assert_equal_figures(found, row, 3)


@pytest.mark.parametrize("moment", MOMENTS)
def test_signals_are_those_of_the_command(shown: Shown, moment: str | None) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/signals?action=BUY&outcome=loss{as_of(moment, '&')}")
        found = page.seqs("signals")
        words = options(moment, action="buy", outcome="loss", limit="10000")
        assert len(found) >= 20
        listed = newest_first(shown.ask("signals", *words))
        assert found == listed[: len(found)]
        page.wait(f"document.querySelector('#found').textContent === '{len(listed):,} signals'")


def test_no_page_shows_anything_recorded_later(shown: Shown) -> None:
    with EventLog(shown.home) as log:
        last_seq = max(entry.seq for entry in log.read() if entry.recorded_at <= MIDDLE)
    with shown.context() as context:
        page = context.page()
        for path in PAGES:
            (row,) = shown.ask("signals", "--limit", 1, *options(MIDDLE, outcome="win"))
            page.goto(shown.url + path.replace("SEQ", str(row["id"])) + as_of(MIDDLE))
            seqs = page.js(
                "[...document.querySelectorAll('[data-seq]')].map((e) => +e.dataset.seq)"
            )
            assert max(seqs, default=0) <= last_seq, path
            days = page.js(
                "document.querySelector('main').textContent.match(/20\\d\\d-\\d\\d-\\d\\d/g)"
            )
            assert max(days or [""]) <= MIDDLE[:10], path
            # Every link of the console keeps the moment, but that which leads back to now.
            lost = page.js(
                """[...document.querySelectorAll("a[href^='/']")].filter((each) =>
                    !each.search.includes("as_of") && !each.closest("#as-of-note"))
                    .map((each) => each.href)"""
            )
            assert lost == [], path
        assert context.problems() == []


def test_evidence_has_the_figures_of_status(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/evidence")
        found = shown.ask("status")["evidence"]
        answer = {f"evidence.{name}": value for name, value in found.items()}
        assert_equal_figures(page.figures(), answer, 2)
        assert (shown.home / "evidence" / "vkey").read_text().strip() in page.text()
        assert "\\u000a" not in page.text()


@pytest.mark.parametrize("path", ["/", "/delivery", "/evidence"])
def test_what_has_no_history_says_so(shown: Shown, path: str) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}{path}{as_of(MIDDLE)}")
        assert "no history" in page.text().lower()


def test_a_signal_that_is_recorded_later_is_not_found(shown: Shown) -> None:
    (row,) = shown.ask("signals", "--limit", 1)
    with shown.context() as context:
        page = context.page()
        page.call("goto", f"{shown.url}/signals/{row['id']}{as_of(MIDDLE)}")
        page.wait("document.querySelector('main').textContent.length > 20")
        assert row["signal_id"] not in page.text()
