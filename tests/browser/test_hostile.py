"""Hostile text in every field of the log, of the table and of Alpine's answers.

Invariant: it is shown as text, with escapes for what would steer a terminal or turn a line around.
"""

from collections.abc import Iterator

import pytest

from tests.browser.driver import PHONE, Browser
from tests.browser.homes import (
    HOSTILE_ID,
    HOSTILE_ORIGIN,
    HOSTILE_SYMBOL,
    MARKUP,
    SCRIPT,
    write_hostile,
)
from tests.browser.shown import Shown, shown_home

pytestmark = pytest.mark.slow

# What each page must show, to the letter: nothing that is left out could be shown wrongly.
SHOWN = {
    "/": (HOSTILE_ID, HOSTILE_SYMBOL),
    "/log": (HOSTILE_ID, HOSTILE_SYMBOL, "\\u202e"),
    "/signals": (HOSTILE_SYMBOL, SCRIPT, "\\u202e"),
    "/signals/1": (HOSTILE_ID, HOSTILE_SYMBOL, MARKUP, SCRIPT, "\\u202e", "\\u001b"),
    "/outcomes": (HOSTILE_SYMBOL, SCRIPT, "\\u202e"),
    "/evidence": (HOSTILE_ORIGIN,),
    "/delivery": (HOSTILE_ID, HOSTILE_SYMBOL, MARKUP, SCRIPT),
}
# Elements and attributes that only the text could have made.
MADE_BY_TEXT = """document.querySelectorAll(
    "main img, main script, main iframe, [onerror], [onload], a[href^=javascript i]"
).length"""
# Control and bidi characters are in no text, attribute or title of the page.
RAW = """[document.title, ...[...document.querySelectorAll("body, body *")].flatMap((each) =>
    [...each.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data)
    .concat([...each.attributes].filter((a) => a.name !== "value" && !a.name.startsWith("data-"))
    .map((a) => a.value)))].filter((text) =>
    /[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]/.test(text))"""


@pytest.fixture(scope="module")
def hostile(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    home = tmp_path_factory.mktemp("hostile") / "home"
    with shown_home(browser, home, write=write_hostile) as found:
        yield found


@pytest.mark.parametrize("path", SHOWN)
def test_hostile_text_is_shown_as_text(hostile: Shown, path: str) -> None:
    with hostile.context(viewport=PHONE) as context:
        page = context.page()
        page.goto(hostile.url + path)
        text = page.text()
        assert [each for each in SHOWN[path] if each not in text] == []
        assert page.js(MADE_BY_TEXT) == 0
        assert page.js(RAW) == []
        assert page.js("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.axe() == []
        assert context.problems() == []  # a dialog would be one
        assert [url for url in context.requests() if not url.startswith(f"{hostile.url}/")] == []


@pytest.mark.parametrize("path", ["/signals", "/outcomes"])
def test_hostile_text_in_an_address_is_shown_as_text(hostile: Shown, path: str) -> None:
    with hostile.context() as context:
        page = context.page()
        page.goto(
            f"{hostile.url}{path}?symbol=%3CSVG%2FONLOAD%3DALERT%3E&strategy=%3Cimg%20src%3Dx%3E"
        )
        assert page.js(MADE_BY_TEXT) == 0
        assert context.problems() == []


def test_the_chain_of_a_hostile_line_is_recomputed_in_the_browser(hostile: Shown) -> None:
    with hostile.context() as context:
        page = context.page()
        page.goto(f"{hostile.url}/signals/1")
        page.wait("document.querySelector('#proof[data-state=ok]')")


def test_a_line_that_was_changed_on_its_way_is_not_called_proven(hostile: Shown) -> None:
    with hostile.context() as context:
        page = context.page()
        page.call("addInitScript", CHANGED.replace("CHANGE", CHANGED_BYTE))
        page.goto(f"{hostile.url}/signals/1")
        page.wait("document.querySelector('#proof[data-state=bad]')")


@pytest.mark.parametrize("key", ["line", "previous"])
def test_a_line_that_the_log_lost_is_called_neither_proven_nor_changed(
    hostile: Shown, key: str
) -> None:
    """Accepted damage leaves a signal in the table without its line, or the one before it."""
    with hostile.context() as context:
        page = context.page()
        page.call("addInitScript", CHANGED.replace("CHANGE", f"body.chain.{key} = null;"))
        page.goto(f"{hostile.url}/signals/1")
        page.wait("document.querySelector('#proof[data-state=none]')")
        assert "The log no longer has this line or the one before it." in page.text("#proof")
        assert context.problems() == []


CHANGED_BYTE = 'body.chain.line = body.chain.line.replace("150", "151");'
# The answer with a change in the line or its chain.
CHANGED = """
const before = window.fetch;
window.fetch = async (...words) => {
    const answer = await before(...words);
    if (!String(words[0]?.url ?? words[0]).includes("/api/signals/")) return answer;
    const body = await answer.json();
    CHANGE
    return new Response(JSON.stringify(body), {headers: {"Content-Type": "application/json"}});
};
"""
