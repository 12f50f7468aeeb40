"""One Chromium for all tests of a run, and one home that they only look at."""

from collections.abc import Iterator

import pytest

from tests.browser.driver import Browser, chromium
from tests.browser.shown import Shown, shown_home


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def shown(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The home with two years of trades: no test changes it."""
    with shown_home(browser, tmp_path_factory.mktemp("shown") / "home") as found:
        yield found
