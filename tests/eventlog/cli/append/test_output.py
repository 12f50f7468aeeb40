"""What `append` says to a person: a log that it created, its progress, what a terminal may type."""

import subprocess
from pathlib import Path

import pytest

from eventlog import EventLog, LogNotFound
from tests.harness.command import COMMAND, eventlog, jsonl, pipe
from tests.harness.deadline import until
from tests.harness.log_checks import tree_contents
from tests.harness.signals import a_signal, signals
from tests.harness.terminal import CTRL_C, terminal


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


# -- a new log


def test_a_new_log_is_reported_once_and_as_soon_as_it_is_there(home: Path) -> None:
    message = f"created a new log at {home}\n"
    with pipe(home, "--skip-invalid") as p:
        p.send_items(b"nonsense")
        p.read_answers()
        assert "created" not in p.err_so_far
        p.send_items(a_signal(1))
        p.read_answers()
        until(lambda: message in p.err_so_far, lambda: p.err_so_far)
        p.send_items(a_signal(2))
        p.close_stdin()
        assert p.wait() == 1
    assert p.err.count("created") == 1
    assert eventlog("append", home=home, stdin=jsonl([a_signal(3)])).err == ""


def test_a_quiet_append_does_not_report_the_new_log(home: Path) -> None:
    done = eventlog("-q", "append", home=home, stdin=jsonl([a_signal(1)]))
    assert (done.code, done.err, len(done.answers)) == (0, "", 1)


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["append", "check"])
def test_no_create_refuses_a_home_without_a_log(tmp_path: Path, options: tuple[str, ...]) -> None:
    home = tmp_path / "mistyped" / "home"
    done = eventlog("append", "--no-create", *options, home=home, stdin=jsonl([a_signal(1)]))
    assert (done.code, done.out) == (3, b"")
    assert done.err.startswith("error: there is no log at this home")
    assert str(home) in done.err
    assert not list(tmp_path.iterdir())


def test_no_create_appends_to_a_log_that_is_there(home: Path) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1))
    done = eventlog("append", "--no-create", home=home, stdin=jsonl([a_signal(2)]))
    assert (done.code, done.err, done.answers[0]["seq"]) == (0, "", 2)


def test_a_handle_that_may_not_create_the_log_refuses_and_creates_nothing(home: Path) -> None:
    with pytest.raises(LogNotFound, match="none was created"):
        EventLog(home, create=False)
    assert not home.exists()
    home.joinpath("logs").mkdir(parents=True)  # without a segment
    before = tree_contents(home)
    with pytest.raises(LogNotFound):
        EventLog(home, create=False)
    assert tree_contents(home) == before


def test_a_handle_knows_whether_it_created_the_log(home: Path) -> None:
    with EventLog(home) as first, EventLog(home) as second:
        assert not first.created
        second.append(a_signal(1))
        first.append(a_signal(2))
        assert (first.created, second.created) == (False, True)
        assert first.home == str(home)


# -- progress


def test_the_progress_of_a_file_is_shown_on_a_terminal(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "signals.jsonl"
    file.write_bytes(jsonl(signals(3)))
    with terminal(COMMAND, "--home", home, "append", file) as t:
        assert t.wait() == 0
        t.until("appending [################] 100%  3 lines")
        t.until("/s\x1b[?25h")
    with terminal("sh", "-c", f"{COMMAND} --home {home} append < {file} > /dev/null") as t:
        assert t.wait() == 0
        t.until("appending [################] 100%  3 lines")


@pytest.mark.parametrize("options", ["-q append {file}", "append {file} 2>&1 | cat", "append"])
def test_no_progress_is_shown_elsewhere(home: Path, tmp_path: Path, options: str) -> None:
    file = tmp_path / "signals.jsonl"
    file.write_bytes(jsonl(signals(3)))
    words = options.format(file=file)
    with terminal("sh", "-c", f"cat {file} | {COMMAND} --home {home} {words}; echo END") as t:
        t.until("END")
        assert "appending" not in t.text
        assert t.text.count('"seq":') == 3


def test_receipts_on_the_same_terminal_are_whole_lines(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "signals.jsonl"
    file.write_bytes(jsonl([a_signal(1), b"nonsense"]))
    with terminal(COMMAND, "--home", home, "append", file) as t:
        assert t.wait() == 1
        t.until("lines")
        shown = t.text.replace("\r\n", "\n").splitlines()
    assert any(line.startswith('{"seq":1') for line in shown)
    assert any(line.startswith("line 2: ") for line in shown)


def test_an_error_of_the_log_is_printed_once_for_all_lines() -> None:
    done = eventlog("append", "--skip-invalid", home="/proc/home", stdin=jsonl(signals(3)))
    assert done.code == 3
    assert len(done.out.splitlines()) == 3
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["error", "where", "do"]


def test_a_named_pipe_shows_lines_and_rate_without_a_share(home: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    subprocess.run(["mkfifo", fifo], check=True)
    with terminal(COMMAND, "--home", home, "append", fifo) as t:
        with fifo.open("wb") as writing:
            writing.write(jsonl(signals(2)))
        assert t.wait() == 0
        t.until("2 lines")
        assert "%" not in t.text


# -- a terminal as input


def test_append_on_a_terminal_says_what_it_reads_and_how_to_end(home: Path) -> None:
    with terminal(COMMAND, "--home", home, "append") as t:
        t.until("reading JSON Lines from the terminal")
        t.until("Ctrl-D")
        t.press('{"event": "note"}\n')
        t.until('"seq":1')
        t.press(CTRL_C)
        assert t.wait() == 130
    with terminal(COMMAND, "--home", home, "append") as t:
        t.until("reading JSON Lines from the terminal")
        t.press("\x04")  # Ctrl-D
        assert t.wait() == 0
