"""Delivery by keyboard alone: retry, discard behind a dialog, and a console that only reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.console import console
from tests.browser.driver import Browser, Page
from tests.browser.shown import Shown, shown_home
from tests.harness.deadline import until
from tests.harness.read_side import append
from tests.harness.signals import signals

pytestmark = pytest.mark.slow

SIGNALS = 6
OPEN = "document.querySelector('dialog[open]')"


def write_parked(home: Path) -> dict[str, bytes]:
    """Six signals, all of which Alpine refuses."""
    found = signals(SIGNALS)
    append(home, *found)
    return {signal["signal_id"]: b'{"detail":"not today"}' for signal in found}


@pytest.fixture
def parked(browser: Browser, tmp_path: Path) -> Iterator[Shown]:
    with shown_home(browser, tmp_path / "home", write=write_parked) as found:
        until(lambda: len(seqs_of(found)) == SIGNALS, "parked signals")
        yield found


def seqs_of(shown: Shown) -> list[int]:
    return [row["seq"] for row in shown.ask("parked", "list")]


def choose(page: Page, *seqs: int) -> None:
    for seq in seqs:
        page.call("focus", f"#parked tr[data-seq='{seq}'] input[type=checkbox]")
        page.press("Space")


def rows(page: Page, count: int) -> None:
    page.wait(f"document.querySelectorAll('#parked tbody tr[data-seq]').length === {count}")


def test_chosen_signals_are_retried_and_discarded_by_keyboard(parked: Shown) -> None:
    with parked.context() as context:
        page = context.page()
        page.goto(f"{parked.url}/delivery")
        rows(page, SIGNALS)
        assert "not today" in page.text("#parked")
        parked.alpine.refused.clear()  # Alpine takes them from now on

        choose(page, 2, 3)
        page.call("focus", "#retry")
        page.press("Enter")
        until(lambda: seqs_of(parked) == [1, 4, 5, 6], "the retry")
        rows(page, SIGNALS - 2)
        assert parked.alpine.received.count("s-2") == 2

        choose(page, 4)
        page.call("focus", "#discard")
        page.press("Enter")
        page.wait(OPEN)
        assert "1" in page.text("dialog")  # it says how many
        assert page.js("document.activeElement.closest('dialog') !== null")
        page.press("Escape")
        page.wait(f"!{OPEN}")
        assert page.js("document.activeElement.id") == "discard"
        assert seqs_of(parked) == [1, 4, 5, 6]

        page.press("Enter")
        page.wait(OPEN)
        for _ in range(5):
            if page.js("document.activeElement.id") == "sure-yes":
                break
            page.press("Tab")
        page.press("Enter")
        until(lambda: seqs_of(parked) == [1, 5, 6], "the discard")
        rows(page, SIGNALS - 3)
        assert parked.alpine.received.count("s-4") == 1
        assert page.axe() == []
        assert context.problems() == []


def test_the_dialog_has_no_barrier_and_names_the_number_of_all(parked: Shown) -> None:
    with parked.context(colorScheme="dark") as context:
        page = context.page()
        page.goto(f"{parked.url}/delivery")
        rows(page, SIGNALS)
        choose(page, *range(1, SIGNALS + 1))
        page.call("focus", "#discard")
        page.press("Enter")
        page.wait(OPEN)
        assert str(SIGNALS) in page.text("dialog")
        assert page.axe() == []
        page.shot("discard-1360-dark")
        assert context.problems() == []


def test_a_console_that_only_reads_offers_no_action_and_refuses_it(parked: Shown) -> None:
    with (
        console(parked.home, "--read-only", "--no-login") as found,
        parked.browser.context() as context,
    ):
        page = context.page()
        page.goto(f"{found.url}/delivery")
        rows(page, SIGNALS)
        assert page.js(
            """[...document.querySelectorAll("#retry, #discard")].every((button) =>
                button.disabled || button.hidden)"""
        )
        assert context.problems() == []
        assert page.js(RETRY_ALL) == 403
    assert len(seqs_of(parked)) == SIGNALS


RETRY_ALL = """fetch("/api/parked", {
    method: "POST",
    headers: {"Content-Type": "application/json", "X-Eventlog": "1"},
    body: JSON.stringify({action: "retry", all: true}),
}).then((answer) => answer.status)"""
