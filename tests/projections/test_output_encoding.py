"""Data on stdout is UTF-8 whatever the locale; a terminal gets escapes for what it lacks (C10)."""

import json
import os
from pathlib import Path

import pytest

from eventlog import EventLog
from tests.harness.command import COMMAND, Done, eventlog, jsonl
from tests.harness.signals import a_signal, closed
from tests.harness.terminal import terminal

STRATEGY = "移動平均 ✓ é"
ENCODINGS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "locale C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "locale latin-1": {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
}
COMMANDS = (
    *(("signals",), ("signals", "--json"), ("tail",), ("tail", "--json"), ("cat",), ("export",)),
    *(("top", "--once"), ("stats",), ("stats", "--json"), ("status",), ("status", "--json")),
    *(("verify",), ("parked", "list"), ("digest",), ("doctor",), ("signals", "--help")),
)
WITH_THE_STRATEGY = (
    *(("signals",), ("signals", "--json"), ("tail",), ("tail", "--json"), ("cat",), ("export",)),
    ("top", "--once"),
)


@pytest.fixture(params=ENCODINGS)
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    return ENCODINGS[request.param]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("encoding") / "日本"
    with EventLog(home) as log:
        log.append_many([a_signal(1, strategy=STRATEGY, symbol="ÄÖ✓", signal_id="識別-1")])
        log.append({**closed(1), "signal_id": "識別-1"})
        log.append({"event": "closed", "signal_id": "知らない", "exit_price": 1.0})
    assert eventlog("project", "sqlite", "--once", home=home).code == 0
    return home


def run(*words: object, home: object, env: dict[str, str], stdin: bytes = b"") -> Done:
    done = eventlog(*words, home=home, env=env, stdin=stdin)
    assert "Traceback" not in done.err and "UnicodeEncodeError" not in done.err, done.err
    return done


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_data_is_the_same_bytes_in_every_encoding(
    home: Path, env: dict[str, str], words: tuple[str, ...]
) -> None:
    expected = eventlog(*words, home=home, env={"PYTHONIOENCODING": "utf-8"})
    done = run(*words, home=home, env=env)
    assert done.code == expected.code
    if words[0] not in ("doctor", "status", "top"):  # their figures change from run to run
        assert done.out == expected.out
    else:
        done.out.decode("utf-8")


@pytest.mark.parametrize("words", WITH_THE_STRATEGY, ids=" ".join)
@pytest.mark.parametrize("name", ["latin-1", "locale C"])
def test_text_that_the_encoding_lacks_comes_out_as_utf_8(
    home: Path, words: tuple[str, ...], name: str
) -> None:
    done = run(*words, home=home, env=ENCODINGS[name])
    assert done.code == 0
    assert "移動平均" in done.out.decode("utf-8")


def test_receipts_and_refusals_are_utf_8(tmp_path: Path, env: dict[str, str]) -> None:
    lines = jsonl([a_signal(1, signal_id="識別"), a_signal(2, action="買い")])
    done = run("append", "--skip-invalid", home=tmp_path / "home", env=env, stdin=lines)
    assert done.code == 1
    first, second = done.answers
    assert first["signal_id"] == "識別"
    assert "買い" in second["error"]


def test_messages_about_a_home_of_any_name_are_no_traceback(
    tmp_path: Path, env: dict[str, str]
) -> None:
    for name in ("日本", "\udcff"):
        done = run("cat", home=tmp_path / name, env=env)
        assert done.code == 3
        assert done.err.startswith("error: ")


def test_a_bad_option_with_any_text_is_no_traceback(home: Path, env: dict[str, str]) -> None:
    for words in (("signals", "--as-of", "昨日"), ("日本",), ("project", "日本", "--once")):
        assert run(*words, home=home, env=env).code in (2, 3)


def test_an_export_to_a_file_is_utf_8(home: Path, tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "出力.csv"
    assert run("export", "--output", path, home=home, env=env).code == 0
    assert STRATEGY in path.read_text(encoding="utf-8")
    metadata = json.loads(path.with_name("出力.csv.meta.json").read_text(encoding="utf-8"))
    assert metadata["rows"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [("signals",), ("tail",), ("top", "--once")], ids=" ".join)
def test_a_terminal_without_the_character_gets_an_escape(
    home: Path, words: tuple[str, ...]
) -> None:
    env = {"PYTHONIOENCODING": "latin-1"}
    with terminal(COMMAND, "--home", os.fspath(home), *words, columns=200, env=env) as t:
        assert t.wait() == 0, t.text
        t.until("\\u79fb")
        assert "Traceback" not in t.text


@pytest.mark.slow
def test_the_running_view_survives_a_terminal_without_the_character(home: Path) -> None:
    env = {"PYTHONIOENCODING": "latin-1"}
    with terminal(COMMAND, "--home", os.fspath(home), "top", columns=200, env=env) as t:
        t.until("sqlite")
        t.press("\x03")
        t.wait()
        assert "Traceback" not in t.text and "UnicodeEncodeError" not in t.text
