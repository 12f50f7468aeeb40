"""The login by one-time URL, cookie and password; pages of other sites are kept out.

Invariant: no test changes a home, so that an action that got through would be seen.
"""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.browser.console import Console, console
from tests.browser.driver import PHONE, Browser
from tests.browser.shown import Shown
from tests.harness.read_side import append, project
from tests.harness.signals import signals

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery staple"
ATTEMPTS = 5


@pytest.fixture
def home(tmp_path: Path, browser: Browser) -> Path:
    append(tmp_path / "home", *signals(3))
    project(tmp_path / "home")
    return tmp_path / "home"


def test_the_one_time_url_opens_once_and_its_cookie_survives_a_restart(
    browser: Browser, home: Path
) -> None:
    with console(home) as found, browser.context() as context, browser.context() as other:
        page, stranger = context.page(), other.page()
        stranger.call("goto", f"{found.url}/signals")
        assert "s-3" not in stranger.text("body")
        assert stranger.js("fetch('/api/status').then((answer) => answer.status)") == 401

        page.goto(found.enter_url)
        assert page.js("location.pathname + location.search") == "/"
        assert page.js("document.cookie") == ""  # HttpOnly
        (cookie,) = context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"

        stranger.call("goto", found.enter_url)
        assert stranger.js("fetch('/api/status').then((answer) => answer.status)") == 401

        found.end(signal.SIGTERM)
        found.start()
        page.goto(f"{found.url}/signals")
        assert page.seqs("signals") == [3, 2, 1]
        stranger.goto(found.enter_url)  # each start prints another


def test_a_password_is_typed_and_five_wrong_ones_make_the_page_wait(
    browser: Browser, home: Path
) -> None:
    file = home.parent / "token"
    file.touch(mode=0o600)
    file.write_text(f"{PASSWORD}\nanother line\n")
    with console(home, "--token-file", file) as found, browser.context() as context:
        page = context.page()
        page.call("goto", f"{found.url}/log")
        page.wait("location.pathname === '/login'")
        page.call("waitForSelector", "input[type=password]")
        assert page.axe() == []
        page.call("setViewportSize", PHONE)
        assert page.js("document.documentElement.scrollWidth") == PHONE["width"]
        page.call("focus", "input[type=password]")
        page.type(f"{PASSWORD}x")
        page.press("Enter")
        page.wait("document.querySelector('[role=status]').textContent.trim()")
        assert page.text("[role=status]").startswith("The password is wrong. The password is ")
        page.call("fill", "input[type=password]", PASSWORD)
        page.press("Enter")
        page.wait("location.pathname !== '/login' && document.querySelector('main[data-ready]')")
    with console(home, "--token-file", file) as found, browser.context() as context:
        page = context.page()
        page.call("goto", f"{found.url}/login")
        statuses = [page.js(f"({TRY_PASSWORD})('wrong')") for _ in range(ATTEMPTS + 1)]
        assert statuses == [401] * ATTEMPTS + [429]
        assert page.js(f"({TRY_PASSWORD})({PASSWORD!r})") == 429  # not even the right one
        page.call("fill", "input[type=password]", PASSWORD)
        page.press("Enter")
        page.wait("document.querySelector('[role=status]').textContent.trim()")
        said = page.text("[role=status]")
        assert re.fullmatch(r"Too many wrong attempts from this address\. Wait \d+ s\.", said)


def test_a_page_under_a_name_that_was_not_given_gets_nothing(browser: Browser, home: Path) -> None:
    """DNS rebinding: a name of another site leads to the console's address."""
    with console(home, "--no-login") as found, browser.context() as context:
        page = context.page()
        for path in ("/", "/signals", "/api/status", "/api/live", "/static/style.css", "/login"):
            page.call("goto", f"http://rebound.test:{found.port}{path}")
            assert page.js("performance.getEntriesByType('navigation')[0].responseStatus") == 421
            assert "s-3" not in page.text("html")
    with (
        console(home, "--no-login", "--name", "rebound.test") as found,
        browser.context() as context,
    ):
        page = context.page()
        page.goto(f"http://rebound.test:{found.port}/signals")
        assert page.seqs("signals") == [3, 2, 1]
        # A header that only https and this machine may set is passed over elsewhere, and reported.
        assert [p for p in context.problems() if "Cross-Origin-Opener-Policy" not in p] == []


def test_a_page_of_another_site_can_neither_act_nor_read_nor_frame(shown: Shown) -> None:
    before = shown.ask("parked", "list")
    assert before
    with (
        console(shown.home, "--no-login") as found,  # a browser would not send a cookie from there
        another_site(found) as site,
        shown.browser.context() as context,
    ):
        page = context.page()
        page.call("goto", site)
        page.wait("document.title === 'done'")
        assert page.js("globalThis.read") == "TypeError"  # what can be read is a text
        assert any("frame-ancestors" in problem for problem in context.problems())
        page.call("evaluate", "document.forms[0].submit()")
        page.call("waitForURL", f"{found.url}/api/parked")
        assert page.js("performance.getEntriesByType('navigation')[0].responseStatus") == 403
    assert shown.ask("parked", "list") == before


@contextmanager
def another_site(console: Console) -> Iterator[str]:
    """A page at localhost, which is another site than 127.0.0.1, that attacks the console."""
    attack = ATTACK.replace("CONSOLE", console.url).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(attack)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


TRY_PASSWORD = """(password) => fetch("/login", {
    method: "POST",
    headers: {"Content-Type": "application/json", "X-Eventlog": "1"},
    body: JSON.stringify({password}),
}).then((answer) => answer.status)"""

ATTACK = """<!doctype html><html lang=en><title>attack</title>
<form method=post enctype=text/plain action="CONSOLE/api/parked">
<input name='{"action":"discard","all":true,"x":"' value='"}'></form>
<iframe src="CONSOLE/delivery"></iframe>
<script>
const all = JSON.stringify({action: "discard", all: true});
const post = (options) => fetch("CONSOLE/api/parked", {
    method: "POST", credentials: "include", body: all, ...options});
const sent = [
    post({mode: "no-cors"}),
    post({headers: {"Content-Type": "application/json", "X-Eventlog": "1"}}),
];
const loaded = new Promise((resolve) => { document.querySelector("iframe").onload = resolve; });
Promise.allSettled([...sent, loaded]).then(async () => {
    globalThis.read = await fetch("CONSOLE/api/parked", {credentials: "include"})
        .then((answer) => answer.text(), (error) => error.name);
    document.title = "done";
});
</script></html>
"""
