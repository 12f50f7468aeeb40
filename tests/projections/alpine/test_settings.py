"""Environment variables of delivery: known words in any dress, and nothing sent for others (C6)."""

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import Done, eventlog
from tests.harness.daemon import daemon
from tests.harness.signals import signals

ON = ("1", "true", "t", "yes", "y", "on", "enabled")
OFF = ("0", "false", "f", "no", "n", "off", "disabled")
DRESSES = ("{}", '"{}"', "'{}'", " {} ", '" {} "', "\t{}\n")
UNKNOWN = (
    *(
        "flase",
        "disable",
        "enable",
        "nope",
        "2",
        "-1",
        "none",
        "null",
        "ja",
        "00",
        "0.0",
        "truefalse",
    ),
    *('"false', "false'", "\"'false'\"", '""false""', "false # for now", "{false}", "no thanks"),
)
SUCCESS = {"status": "success", "signal_id": 1, "alpine_signal_id": 1, "external_signal_id": "s"}


class Backend(ThreadingHTTPServer):
    """Stores whatever comes, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers["X-API-Key"])
        body = json.dumps(SUCCESS).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "home") as log:
        log.append_many(signals(2))
    return tmp_path / "home"


def deliver(home: Path, backend: Backend, *, words: tuple[str, ...] = (), **env: str) -> Done:
    """Runs delivery once, with a key and the variables."""
    found = {"ALPINE_API_URL": backend.url, "ALPINE_API_KEY": "k", **env}
    done = eventlog("project", *(words or ("alpine",)), "--once", home=home, env=found)
    assert "Traceback" not in done.err
    return done


def assert_refused(done: Done, backend: Backend, variable: str) -> None:
    assert done.code == 3, done.err
    assert variable in done.err
    assert backend.keys == []


# -- words


@pytest.mark.slow
@pytest.mark.parametrize("word", [*OFF, "False", "FALSE", "Disabled", "N", "oFF"])
def test_a_word_for_off_sends_nothing(home: Path, backend: Backend, word: str) -> None:
    done = deliver(home, backend, ALPINE_SYNC_ENABLED=word)
    assert backend.keys == []
    assert (done.code, "ALPINE_SYNC_ENABLED" in done.err) == (3, True), (
        "asked for alone, it says so"
    )


@pytest.mark.parametrize("dress", DRESSES)
def test_blanks_and_quotes_around_a_word_for_off_change_nothing(
    home: Path, backend: Backend, dress: str
) -> None:
    for word in ("false", "N"):
        deliver(home, backend, ALPINE_SYNC_ENABLED=dress.format(word))
    assert backend.keys == []


@pytest.mark.slow
@pytest.mark.parametrize("word", [*ON, "True", "YES", "Enabled", '"true"', "' on '", " 1 ", ""])
def test_a_word_for_on_delivers(home: Path, backend: Backend, word: str) -> None:
    done = deliver(home, backend, ALPINE_SYNC_ENABLED=word)
    assert (done.code, len(backend.keys)) == (0, 2), done.err


@pytest.mark.slow
@pytest.mark.parametrize("word", UNKNOWN)
def test_any_other_word_is_refused_by_name_and_sends_nothing(
    home: Path, backend: Backend, word: str
) -> None:
    done = deliver(home, backend, ALPINE_SYNC_ENABLED=word)
    assert_refused(done, backend, "ALPINE_SYNC_ENABLED")
    assert done.err.startswith("error: ")


@pytest.mark.parametrize("words", [("all",), ("sqlite", "alpine")], ids=" ".join)
def test_an_unknown_word_is_refused_beside_other_projections_too(
    home: Path, backend: Backend, words: tuple[str, ...]
) -> None:
    done = deliver(home, backend, words=words, ALPINE_SYNC_ENABLED="flase")
    assert_refused(done, backend, "ALPINE_SYNC_ENABLED")


def test_a_daemon_with_an_unknown_word_ends_at_once(home: Path, backend: Backend) -> None:
    env = {"ALPINE_API_URL": backend.url, "ALPINE_API_KEY": "k", "ALPINE_SYNC_ENABLED": "flase"}
    with daemon(home, "alpine", env=env) as d:
        assert d.wait() == 3
        assert "ALPINE_SYNC_ENABLED" in d.err
    assert backend.keys == []


@pytest.mark.parametrize("words", [("parked", "retry", "s-1"), ("reconcile", "--replay")])
def test_other_commands_that_would_send_refuse_an_unknown_word(
    home: Path, backend: Backend, words: tuple[str, ...]
) -> None:
    env = {"ALPINE_API_URL": backend.url, "ALPINE_API_KEY": "k", "ALPINE_SYNC_ENABLED": "flase"}
    done = eventlog(*words, home=home, env=env)
    assert "Traceback" not in done.err
    assert backend.keys == []


@pytest.mark.parametrize(
    "words", [("status",), ("append",), ("cat",), ("signals",), ("project", "sqlite", "--once")]
)
def test_commands_that_send_nothing_do_not_mind_an_unknown_word(
    home: Path, words: tuple[str, ...]
) -> None:
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    done = eventlog(*words, home=home, env={"ALPINE_SYNC_ENABLED": "flase"})
    assert done.code == 0, done.err


# -- its siblings: what docker's --env-file quotes


@pytest.mark.parametrize("dress", ['"{}"', "'{}'", " {} "])
def test_a_quoted_url_reaches_the_backend_or_is_refused_by_name(
    home: Path, backend: Backend, dress: str
) -> None:
    done = deliver(home, backend, ALPINE_API_URL=dress.format(backend.url))
    if backend.keys:
        assert (done.code, len(backend.keys)) == (0, 2)
    else:
        assert_refused(done, backend, "ALPINE_API_URL")


def test_a_key_is_sent_as_it_was_given_or_refused_by_name(home: Path, backend: Backend) -> None:
    done = deliver(home, backend, ALPINE_API_KEY='"secret-key"')
    if backend.keys:
        assert set(backend.keys) == {"secret-key"}
    else:
        assert_refused(done, backend, "ALPINE_API_KEY")
    assert "secret-key" not in done.err


@pytest.mark.parametrize("dress", ['"{}"', "'{}'"])
def test_a_quoted_key_file_is_found_or_refused_by_name(
    home: Path, backend: Backend, tmp_path: Path, dress: str
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("secret-key\n")
    key_file.chmod(0o600)
    named = dress.format(key_file)
    done = deliver(home, backend, ALPINE_API_KEY_FILE=named, ALPINE_API_KEY="")
    if backend.keys:
        assert set(backend.keys) == {"secret-key"}
    else:
        assert_refused(done, backend, "ALPINE_API_KEY_FILE")


def test_a_quoted_home_is_not_made_beside_the_real_one(home: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    done = eventlog("cat", env={"EVENTLOG_HOME": f'"{home}"'}, cwd=tmp_path)
    assert done.code in (0, 3)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("path", ["/nonexistent/keys", "/proc/1/keys", "/"])
def test_an_unwritable_sslkeylogfile_does_not_keep_delivery_from_starting(
    home: Path, backend: Backend, path: str
) -> None:
    done = deliver(home, backend, SSLKEYLOGFILE=path)
    assert (done.code, len(backend.keys)) == (0, 2), done.err


@pytest.mark.slow
def test_an_unwritable_sslkeylogfile_does_not_stop_https_either(home: Path) -> None:
    """Nobody listens there: it is unreachable, and not stopped by an error of ssl."""
    env = {"ALPINE_API_URL": "https://127.0.0.1:9", "ALPINE_API_KEY": "k"}
    other = home.with_name("other")
    shutil.copytree(home, other)
    words = ("project", "alpine", "--once")
    with ThreadPoolExecutor(1) as threads:  # both try for a while
        without = threads.submit(eventlog, *words, home=other, env=env)
        env_with = {**env, "SSLKEYLOGFILE": "/nonexistent/keys"}
        done = eventlog(*words, home=home, env=env_with)
        plain = without.result()
    assert "Traceback" not in done.err
    assert "/nonexistent/keys" not in done.err
    assert done.code == plain.code
