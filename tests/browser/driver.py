"""A Chromium of the tests: contexts, which share nothing, and pages in them.

    with chromium() as browser, browser.context(colorScheme="dark") as context:
        page = context.page()
        page.goto(f"{url}/log")
        assert page.axe() == []

One node process drives it; see driver.cjs for its requests.

Invariant: neither process outlives the test run, and nothing is fetched from another machine.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.requirements import CHECKOUT, needs_tool

PACKAGES = CHECKOUT / ".browser/node_modules"
SHOTS = CHECKOUT / ".browser/shots"
WIDE = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}
ROWS_KEPT = 20  # of each table, where a test looks at every element
READY = "document.querySelector('main[data-ready]')"


class BrowserError(AssertionError):
    """The browser could not execute the command of a test."""


class Browser:
    """One Chromium, and the process that drives it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version = self._answer()

    def do(self, what: str, **arguments: object) -> Any:
        """The answer to one request of driver.cjs."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BrowserError(f"node ended with {self._process.wait()}: see its stderr")
        answer = json.loads(line)
        if "error" in answer:
            raise BrowserError(answer["error"])
        return answer["value"]

    @contextmanager
    def context(self, **options: object) -> "Iterator[Context]":
        """Cookies, storage and connections of their own; `options` are those of playwright."""
        number = self.do("context", options={"viewport": WIDE, **options})
        found = Context(browser=self, number=number)
        try:
            yield found
        finally:
            self.do("close", context=found.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A browser profile of its own: cookies, storage, pages."""

    browser: Browser
    number: int

    def page(self) -> "Page":
        """A new tab."""
        return Page(browser=self.browser, number=self.browser.do("page", context=self.number))

    def problems(self) -> list[str]:
        """Errors and warnings in the console of the browser."""
        return self._seen()["problems"]

    def requests(self) -> list[str]:
        """The addresses that its pages have requested."""
        return self._seen()["requests"]

    def cookies(self) -> list[dict[str, Any]]:
        """Its cookies, as the option `storageState` of another context takes them."""
        found: list[dict[str, Any]] = self.browser.do("cookies", context=self.number)
        return found

    def _seen(self) -> dict[str, list[str]]:
        seen: dict[str, list[str]] = self.browser.do("seen", context=self.number)
        return seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One tab."""

    browser: Browser
    number: int

    def call(self, method: str, *args: object) -> Any:
        """Calls a method of playwright's Page, `keyboard.press` for example; returns its answer."""
        return self.browser.do("call", page=self.number, method=method, args=args)

    def goto(self, url: str) -> None:
        """Opens an address; waits until the page has drawn its first answer."""
        self.call("goto", url)
        self.wait(READY)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.call("evaluate", expression)

    def wait(self, expression: str) -> None:
        """Waits until an expression is true in the page."""
        self.browser.do("wait", page=self.number, until=expression)

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other: `Tab`, `Shift+Tab`, `a`."""
        for key in keys:
            self.call("keyboard.press", key)

    def type(self, text: str) -> None:
        """Types a text into what has the focus."""
        self.call("keyboard.type", text)

    def text(self, selector: str = "main") -> str:
        """The text of the first element that fits."""
        return str(self.js(f"document.querySelector({json.dumps(selector)}).textContent"))

    def figures(self, selector: str = "main") -> dict[str, Any]:
        """The figures below an element, by path, as the JSON values that they were made from.

        Those of a group in a table are below its row only.
        """
        script = """(selector) => {
            const root = document.querySelector(selector);
            const group = (element) => element.closest("[data-group]");
            const found = [...root.querySelectorAll("[data-figure]")];
            return Object.fromEntries(found.filter((each) => group(each) === group(root))
                .map((each) => [each.dataset.figure, JSON.parse(each.dataset.value)]));
        }"""
        found: dict[str, Any] = self.js(f"({script})({json.dumps(selector)})")
        return found

    def seqs(self, table: str) -> list[int]:
        """The entries of a table's rows, from the top."""
        rows = f"#{table} tbody tr[data-seq]"
        script = f"[...document.querySelectorAll('{rows}')].map((row) => Number(row.dataset.seq))"
        return [int(seq) for seq in self.js(script)]

    def trim(self) -> None:
        """Removes all but the first rows of each table: the others are made in the same way."""
        rows = f"document.querySelectorAll('tbody tr:nth-child(n + {ROWS_KEPT + 1})')"
        self.js(f"{rows}.forEach((row) => row.remove())")

    def axe(self) -> list[dict[str, Any]]:
        """Violations of WCAG 2.2, levels A and AA, that axe-core finds."""
        found: list[dict[str, Any]] = self.browser.do("axe", page=self.number)
        return found

    def heap_bytes(self) -> int:
        """The memory of its scripts after a collection."""
        return int(self.browser.do("heap", page=self.number))

    def shot(self, name: str) -> None:
        """Writes a picture of the whole page for people to look at."""
        self.call("screenshot", {"path": str(SHOTS / f"{name}.png"), "fullPage": True})


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium until the end of the block; skips, or fails in CI, where something is missing."""
    node = needs_tool("node", apt="nodejs")
    binary = needs_tool("chromium", apt="chromium")
    needs_packages()
    SHOTS.mkdir(parents=True, exist_ok=True)
    words: list[str | Path] = [node, Path(__file__).with_name("driver.cjs"), PACKAGES, binary]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield Browser(process)
        assert process.stdin is not None
        process.stdin.close()


def needs_packages() -> None:
    """Skips where the packages of npm are not installed; fails in CI."""
    needs_tool("npm", apt="npm")
    missing = [name for name in ("axe-core", "playwright-core") if not (PACKAGES / name).is_dir()]
    if missing:
        reason = f"{' and '.join(missing)} of npm are not installed: run tools/test"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
