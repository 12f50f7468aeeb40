"""Access to the console: host names, origins, logins, limits, and what no answer holds."""

import os
import re
import stat
import time
from pathlib import Path

import httpx
import pytest

from projections.serving.address import Address
from projections.serving.app import Headers
from projections.web.access.guard import SECURITY_HEADERS
from projections.web.access.login import ATTEMPTS_MAX, Login
from projections.web.access.login_routes import network_of
from projections.web.answers import Redactor
from projections.web.console import Console
from projections.web.pages import PAGES
from projections.web.server import LIMITS, console_names
from tests.harness.command import eventlog
from tests.harness.console import WebConsole, console

PATHS = (
    *(page.replace("{seq:int}", "1") for page in PAGES),
    *(
        "/login",
        "/static/page.html",
        "/api/status",
        "/api/live",
        "/api/log",
        "/api/signals",
        "/api/parked",
    ),
    *("/api/signals/1", "/api/prices", "/api/outcomes", "/enter", "/nothing"),
)
PASSWORD = "correct horse"
AS_PAGE = {"Accept": "text/html,*/*"}


@pytest.fixture(scope="module")
def guarded(full_home: Path, tmp_path_factory: pytest.TempPathFactory) -> "object":
    """A console with a password; its client has no cookie."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.touch(mode=0o600)
    token.write_text(f"{PASSWORD}\nsecond line\n")
    with console(full_home, "--token-file", token, "--name", "Log.Example.com") as found:
        yield found


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_answered_under_another_name(web: WebConsole, path: str) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "192.0.2.1", "localhost:x", "[::1"):
        assert web.request(path, headers={"Host": host}).status_code == 421, host


def test_loopback_and_the_given_names_are_answered(guarded: WebConsole) -> None:
    port = guarded.port
    for host in ("127.0.0.1", f"LOCALHOST:{port}", "[::1]:1", "localhost.", "log.example.com"):
        assert guarded.request("/login", headers={"Host": host}).status_code == 200, host
    assert guarded.request("/login", headers={"Host": "example.com"}).status_code == 421
    assert "0.0.0.0" not in console_names(Address("0.0.0.0", 1), ())


@pytest.mark.parametrize("prefix", ["/signals/", "/api/signals/", "/static/", "/api/nothing/"])
def test_a_path_of_any_length_gets_an_answer(web: WebConsole, prefix: str) -> None:
    for digits in (250, 5_000, 15_000):
        assert web.request(prefix + "9" * digits).status_code in (200, 404, 414)
    assert "Traceback" not in web.err


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_security_headers(guarded: WebConsole, path: str) -> None:
    answer = guarded.request(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value, name
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy


def test_without_a_session_only_the_login_and_files_are_answered(guarded: WebConsole) -> None:
    for path in PATHS:
        answer = guarded.request(path)
        if path == "/login" or path.startswith("/static/"):
            assert answer.status_code == 200, path
        elif path.startswith("/api/") or path == "/enter":
            assert answer.status_code == 401, path
            assert answer.json()["do"]
        else:
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path


def test_a_console_with_a_password_has_a_page_that_asks_for_it(guarded: WebConsole) -> None:
    assert 'type="password"' in guarded.request("/login").text
    answer = guarded.request("/enter?code=x", headers=AS_PAGE)
    assert (answer.status_code, 'type="password"' in answer.text) == (401, True)


def test_a_console_with_a_one_time_url_says_how_to_enter(full_home: Path) -> None:
    with console(full_home) as c:
        cookie = c.log_in().headers["set-cookie"].partition(";")[0]
        c.client.cookies.clear()
        page = c.request("/login").text
        assert "eventlog web" in page
        assert "<input" not in page
        path = c.printed.removeprefix(c.origin)
        used = c.request(path, headers=AS_PAGE)
        assert (used.status_code, used.text) == (401, page)
        again = c.request(path, headers={**AS_PAGE, "Cookie": cookie})
        assert (again.status_code, again.headers["location"]) == (303, "/")


def test_a_person_who_opens_an_unknown_path_gets_a_page(web: WebConsole) -> None:
    answer = web.request("/nothing", headers=AS_PAGE)
    assert answer.status_code == 404
    assert answer.text == web.request("/").text


def test_the_password_begins_a_session_and_no_other_does(guarded: WebConsole) -> None:
    assert guarded.act("/login", {"password": PASSWORD + "x"}).status_code == 401
    assert guarded.act("/login", {"password": ["x"]}).status_code == 422
    answer = guarded.act("/login", {"password": PASSWORD})
    guarded.client.cookies.clear()
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    pair = cookie.partition(";")[0]
    assert guarded.request("/api/status", headers={"Cookie": pair}).status_code == 200
    name, _, value = pair.partition("=")
    for wrong in (value[:-1] + "0", "0" + value, value.partition(".")[0] + ".", "9" * 12 + "."):
        if wrong != value:
            headers = {"Cookie": f"{name}={wrong}"}
            assert guarded.request("/api/status", headers=headers).status_code == 401, wrong


@pytest.mark.slow
def test_a_session_outlives_the_server_and_the_printed_url_works_once(full_home: Path) -> None:
    with console(full_home) as first:
        assert "/enter?code=" in first.printed
        answer = first.log_in()
        cookie = answer.headers["set-cookie"].partition(";")[0]
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        first.client.cookies.clear()
        assert first.log_in().status_code == 401
        assert first.request("/api/status", headers={"Cookie": cookie}).status_code == 200
    with console(full_home) as second:
        assert second.request("/api/status", headers={"Cookie": cookie}).status_code == 200
    key = full_home / "run" / "web.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    with console(full_home) as third:
        assert third.request("/api/status", headers={"Cookie": cookie}).status_code == 401


def test_the_sixth_wrong_attempt_within_a_minute_is_not_looked_at() -> None:
    login = Login(b"k" * 32, PASSWORD)

    def attempt(password: str, address: str = "192.0.2.1") -> int:
        from projections.web.answers import Refusal

        try:
            login.check_password(password, address)
        except Refusal as refusal:
            return refusal.status
        return 200

    assert attempt(PASSWORD) == 200
    assert [attempt("wrong") for _ in range(ATTEMPTS_MAX)] == [401] * ATTEMPTS_MAX
    assert attempt(PASSWORD) == 429  # not even the right one
    assert attempt(PASSWORD, "192.0.2.2") == 200


def test_wrong_attempts_are_limited_over_http(full_home: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(PASSWORD)
    with console(full_home, "--token-file", token) as c:
        for _ in range(ATTEMPTS_MAX):
            assert c.act("/login", {"password": "wrong password"}).status_code == 401
        refused = c.act("/login", {"password": PASSWORD})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_a_new_password_ends_all_sessions() -> None:
    old, new = Login(b"k" * 32, "old password"), Login(b"k" * 32, "new password")
    pair = old.cookie().partition(";")[0]
    assert old.is_valid(Headers({"cookie": pair}))
    assert not new.is_valid(Headers({"cookie": pair}))
    late = Login(b"k" * 32, "old password", now_s=lambda: time.time() + 40 * 86_400)
    assert not late.is_valid(Headers({"cookie": pair}))


@pytest.mark.parametrize(
    "other", ['prefs={"a": "b"}', "a=b c", "nothing", "a=\xe9", '"', "; ;", "=", "a=b=c"]
)
def test_cookies_of_other_servers_on_the_host_do_not_hide_a_session(other: str) -> None:
    login = Login(b"k" * 32, PASSWORD)
    pair = login.cookie().partition(";")[0]
    forged = f"{login.cookie_name}=1.2"
    for cookies in (f"{other}; {pair}", f"{pair}; {other}", f"{forged}; {pair}; {forged}"):
        assert login.is_valid(Headers({"cookie": cookies})), cookies
    assert not login.is_valid(Headers({"cookie": f"{other}; {forged}"}))


@pytest.mark.parametrize("part", ["\\", "\\1", '\\"', "=", ";", " "])
def test_a_hostile_cookie_is_read_in_milliseconds(part: str) -> None:
    login = Login(b"k" * 32, PASSWORD)
    cookies = 'a="' + part * (LIMITS.head_bytes_max // len(part)) + '"'
    started_s = time.monotonic()
    assert not login.is_valid(Headers({"cookie": cookies}))
    assert time.monotonic() - started_s < 0.5


def test_consoles_on_one_host_do_not_replace_the_cookies_of_each_other() -> None:
    names = {Login(key * 32, text).cookie_name for key in (b"k", b"j") for text in (None, PASSWORD)}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::2:3", True),
        ("fe80::a:b:c:d", "fe80::1:2:3:4", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("2001:db8:1:2::5", "2001:db8:1:2:3:4:5:6", True),
        ("2001:db8:1:2::5", "2001:db8:1:3::5", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "testclient", False),
    ],
)
def test_wrong_attempts_are_counted_by_address_or_network_of_ipv6(
    first: str, second: str, is_one: bool
) -> None:
    assert (network_of(first) == network_of(second)) is is_one


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": None},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": None},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"X_Eventlog": None},
        {"X_Eventlog": "0"},
        {"Content_Type": None},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
    ],
)
def test_an_action_is_accepted_only_from_a_page_of_the_console(
    web: WebConsole, headers: dict[str, str | None]
) -> None:
    body = {"action": "retry", "seqs": [1]}
    assert web.act("/api/parked", body).status_code == 202
    assert web.act("/api/parked", body, **headers).status_code == 403


def test_another_site_can_read_nothing(web: WebConsole) -> None:
    for site in ("cross-site", "same-site"):
        assert web.request("/api/status", headers={"Sec-Fetch-Site": site}).status_code == 403
    for site in ("same-origin", "none"):
        assert web.request("/api/status", headers={"Sec-Fetch-Site": site}).status_code == 200


def test_a_body_beyond_16_kib_is_refused(web: WebConsole) -> None:
    small, large = b" " * (16 * 1024 - 2) + b"{}", b" " * (16 * 1024) + b"{}"
    assert web.act("/api/parked", small).status_code == 422
    assert web.act("/api/parked", large).status_code == 413

    def parts() -> "object":
        yield large[:10_000]
        yield large[10_000:]

    chunked = httpx.post(
        web.origin + "/api/parked",
        content=parts(),  # type: ignore[arg-type]
        headers={
            "Sec-Fetch-Site": "same-origin",
            "Origin": web.origin,
            "X-Eventlog": "1",
            "Content-Type": "application/json",
        },
    )
    assert chunked.status_code == 413


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/nothing", "/static/../guard.py", "/static/nothing.js"]
)
def test_an_unknown_path_is_404_and_a_wrong_method_405(web: WebConsole, path: str) -> None:
    assert web.request(path).status_code == 404
    assert web.act("/api/status", {}).status_code == 405


@pytest.mark.slow
def test_no_answer_holds_a_key_a_variable_or_the_path_of_the_home(
    full_home: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("secret-alpine-key")
    env = {
        "ALPINE_API_URL": "http://secret-alpine.example",
        "ALPINE_API_KEY_FILE": str(key),
        "ARGO_API_KEY": "secret-argo-key",
    }
    broken = tmp_path / "home"
    assert eventlog("append", home=broken, stdin=b'{"event":"a.note"}').code == 0
    (broken / "data" / "signals.db").write_bytes(b"not a database" * 100)
    for home in (full_home, broken):
        with console(home, "--no-login", env=env) as c:
            texts = [
                c.request(path).text
                for path in (*PATHS, "/api/log?event=%00")
                if path != "/api/live"
            ]
            with c.stream() as events:
                texts.append(str(next(events)))
            cookie_key = home / "run" / "web.key"
            for text in texts:
                assert str(home) not in text
                assert "secret" not in text
                assert os.environ["PATH"] not in text
            assert not cookie_key.exists() or cookie_key.read_bytes().hex() not in "".join(texts)


def test_the_path_of_the_home_is_replaced_in_texts_of_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    redactor = Redactor(Path("link"))
    assert Console(Path("link"), is_read_only=True).home == link  # and texts have no other form
    text = f"the link {link}/data/alpine.db is not at {tmp_path}/data"
    assert redactor.text(text) == "the link HOME/data/alpine.db is not at HOME/data"


def test_a_stale_file_of_a_browser_is_asked_for_again(web: WebConsole) -> None:
    answer = web.request("/static/page.html")
    assert answer.headers["cache-control"] == "no-cache"
    again = web.request("/static/page.html", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_shell_loads_nothing_from_another_host(web: WebConsole) -> None:
    shell = web.request("/").text
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", shell) == []
