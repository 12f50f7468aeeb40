"""Every page, light and dark, wide and on a phone: no error, no barrier, nothing from elsewhere.

Each test leaves two pictures in .browser/shots, for people to look at.
"""

import pytest

from tests.browser.driver import PHONE, READY, Browser, Page
from tests.browser.shown import PAGES, Shown

pytestmark = pytest.mark.slow

SCHEMES = ("light", "dark")
FOCUSABLE = """[...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex]")].filter((each) =>
    each.tabIndex >= 0 && !each.disabled && each.checkVisibility({visibilityProperty: true}))"""
# The browser itself marks the button inside a field for a date, and nothing around it.
SHOWS_FOCUS = """((focused) => focused === document.body || /^date/.test(focused.type) ||
    getComputedStyle(focused).outlineStyle !== "none" ||
    getComputedStyle(focused).boxShadow !== "none")(document.activeElement)"""
# Contents of the latest entries that their cells have no room for.
CUT_OFF = """[...document.querySelectorAll("#latest .says")].filter((each) =>
    each.scrollWidth > each.clientWidth)"""


def name_of(page: str) -> str:
    """`signal` for /signals/SEQ."""
    return page.replace("s/SEQ", "").strip("/") or "overview"


def wide_things(page: Page) -> list[str]:
    """The elements beyond the right edge, if the page scrolls to the side."""
    script = """[...document.querySelectorAll("body *")].filter((each) =>
        each.getBoundingClientRect().right > innerWidth + 0.5 && !each.closest(".scroll"))
        .map((each) => `${each.tagName}#${each.id}.${each.className}`)"""
    is_wider = page.js("document.documentElement.scrollWidth > innerWidth")
    return (page.js(script) or ["the page"]) if is_wider else []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_has_no_error_no_barrier_and_nothing_from_elsewhere(
    shown: Shown, path: str, scheme: str
) -> None:
    with shown.context(colorScheme=scheme) as context:
        page = context.page()
        page.goto(shown.address(path))
        page.trim()
        page.shot(f"{name_of(path)}-1360-{scheme}")
        assert page.js(f"{CUT_OFF}.length") == 0
        assert page.axe() == []
        page.call("setViewportSize", PHONE)
        page.call("reload")
        page.wait(READY)
        page.trim()
        page.shot(f"{name_of(path)}-390-{scheme}")
        assert page.axe() == []
        assert wide_things(page) == []
        assert context.problems() == []
        assert [url for url in context.requests() if not url.startswith(f"{shown.url}/")] == []


def test_the_first_question_of_a_page_is_asked_once(shown: Shown) -> None:
    for address in ("/", "/signals?symbol=AAPL&outcome=win&as_of_seq=400", "/outcomes"):
        with shown.context() as context:
            context.page().goto(shown.url + address)
            requests = [url.removeprefix(shown.url) for url in context.requests()]
            asked = [url for url in requests if url.startswith("/api/") and "live" not in url]
            assert len(asked) == 1, asked
            assert requests.count("/static/signals.js") == address.startswith("/signals")
            assert context.problems() == []


@pytest.mark.parametrize("path", ["/outcomes", "/signals/SEQ"], ids=name_of)
def test_the_theme_can_be_chosen_against_that_of_the_system(shown: Shown, path: str) -> None:
    """The choice is kept: the next page has it from the first paint."""
    with shown.context(colorScheme="light") as context:
        page = context.page()
        page.goto(shown.address(path))
        background = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.js(background)
        page.call("click", "#theme")
        for _ in range(2):  # the button goes round: system, light, dark
            if page.js(background) == light:
                page.call("click", "#theme")
        dark = page.js(background)
        assert dark != light
        page.call("reload")
        page.wait(READY)
        page.trim()
        assert page.js(background) == dark
        assert page.axe() == []
        assert context.problems() == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_each_control_is_reached_by_the_key_tab_and_shows_it(shown: Shown, path: str) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(shown.address(path))
        page.trim()
        page.js(f"{FOCUSABLE}.forEach((each, number) => each.dataset.stop = number)")
        stops = page.js(f"{FOCUSABLE}.length")
        reached: set[str] = set()
        for _ in range(stops + 20):  # inputs of dates have stops of their own
            page.press("Tab")
            reached.add(page.js("document.activeElement.dataset.stop ?? ''"))
            assert page.js(SHOWS_FOCUS), page.js("document.activeElement.outerHTML")
        assert {str(number) for number in range(stops)} - reached == set()


def test_the_first_stop_leads_past_the_navigation(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/signals")
        page.press("Tab", "Enter", "Tab")
        assert page.js("document.activeElement.closest('main') !== null")


def test_the_pages_lead_to_each_other_by_keyboard(shown: Shown) -> None:
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/")
        for path in ("/log", "/signals", "/outcomes", "/delivery", "/evidence"):
            page.call("focus", f"nav a[href^='{path}']")
            page.press("Enter")
            page.wait(f"location.pathname === '{path}' && {READY}")
            assert page.js("document.querySelector('nav [aria-current=page]').pathname") == path


def test_markup_is_refused_by_the_pages_themselves(shown: Shown, browser: Browser) -> None:
    """Trusted Types: even a mistake in our scripts could not turn text into elements."""
    with shown.context() as context:
        page = context.page()
        page.goto(f"{shown.url}/")
        page.js("void setTimeout(() => { document.createElement('p').innerHTML = '<b>x</b>' })")
        page.wait("true")
        assert any("TrustedHTML" in problem for problem in context.problems())
