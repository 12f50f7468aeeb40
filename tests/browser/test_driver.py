"""The driver itself: what it reports, and what it says where something is missing."""

from pathlib import Path

import pytest

from tests.browser import driver
from tests.browser.driver import Browser, needs_packages

BARRIER = "<!doctype html><html lang=en><title>t</title><main data-ready><img src='data:,'></main>"


@pytest.mark.slow
def test_axe_finds_a_barrier_and_the_console_an_error(browser: Browser) -> None:
    with browser.context() as context:
        page = context.page()
        page.call("setContent", BARRIER)
        page.js("console.error('it broke')")
        (found,) = page.axe()
        assert found["rule"] == "image-alt"
        assert any("it broke" in problem for problem in context.problems())


@pytest.mark.slow
def test_no_other_machine_can_be_reached(browser: Browser) -> None:
    with browser.context() as context:
        page = context.page()
        with pytest.raises(driver.BrowserError, match="ERR_NAME_NOT_RESOLVED"):
            page.call("goto", "http://example.com/")


@pytest.mark.parametrize(("ci", "outcome"), [("true", "Failed"), ("", "Skipped")])
def test_missing_packages_skip_by_name_and_fail_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(driver, "PACKAGES", tmp_path)
    monkeypatch.setattr(driver, "needs_tool", lambda command, **_: command)
    with pytest.raises(BaseException, match="axe-core and playwright-core of npm") as raised:
        needs_packages()
    assert raised.typename == outcome
