"""A home that is shown whole: its log, a daemon that delivers, a console, a login.

    with shown_home(browser, home) as shown, shown.context() as context:
        context.page().goto(f"{shown.url}/log")

Invariant: when it is given, everything in the log is in the table, delivered or parked.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.browser.console import Console, console
from tests.browser.driver import Browser, Context
from tests.browser.homes import write_trades
from tests.harness.command import eventlog
from tests.harness.daemon import daemon
from tests.harness.deadline import until
from tests.harness.tiny_alpine import TinyAlpine, tiny_alpine

# The addresses of the pages; SEQ stands for a signal.
PAGES = ("/", "/log", "/signals", "/signals/SEQ", "/outcomes", "/delivery", "/evidence")


def newest_first(rows: list[dict[str, Any]]) -> list[int]:
    """The entries of signals in the order of the console: the command orders by timestamp."""
    return sorted((row["id"] for row in rows), reverse=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A home, what runs on it, and the cookie of a session."""

    home: Path
    browser: Browser
    console: Console
    alpine: TinyAlpine
    cookies: list[dict[str, Any]]

    @property
    def url(self) -> str:
        return self.console.url

    def context(self, **options: object) -> AbstractContextManager[Context]:
        """A context that is logged in."""
        return self.browser.context(
            storageState={"cookies": self.cookies, "origins": []}, **options
        )

    def ask(self, *words: object) -> Any:
        """The JSON output of a command."""
        done = eventlog(*words, "--json", home=self.home, env=self.alpine.env)
        assert done.code == 0, done.err
        return json.loads(done.out)

    def address(self, page: str) -> str:
        """The address of one of PAGES; SEQ is the newest closed trade of AAPL."""
        if "SEQ" not in page:
            return self.url + page
        (row,) = self.ask("signals", "--limit", 1, "--outcome", "win", "--symbol", "AAPL")
        return self.url + page.replace("SEQ", str(row["id"]))


@contextmanager
def shown_home(
    browser: Browser, home: Path, *, write: Callable[[Path], dict[str, bytes]] = write_trades
) -> Iterator[Shown]:
    """Writes a home and shows it until the end of the block.

    `write` returns how Alpine answers to some signals, by signal_id: it refuses them.
    """
    refused = write(home)
    with tiny_alpine() as alpine:
        alpine.refused.update(refused)
        with daemon(home, "all", env=alpine.env):
            until(lambda: _is_done(home), "the table and delivery at the end of the log")
            assert eventlog("verify", home=home).code == 0  # the page Overview shows when
            with console(home, env=alpine.env) as found, browser.context() as first:
                first.page().goto(found.enter_url)
                cookies = first.cookies()
                yield Shown(
                    home=home, browser=browser, console=found, alpine=alpine, cookies=cookies
                )


def _is_done(home: Path) -> bool:
    """Whether every entry is in the table, and every signal delivered or parked."""
    found = json.loads(eventlog("status", "--json", home=home).out)["projections"]
    return not any(found[name]["lag_entries"] for name in ("sqlite", "alpine"))
