"""The `eventlog` command: what it prints, where, and with which exit code (contract 6)."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eventlog import EventLog
from eventlog.cli.main import cli
from tests.harness.command import Done, command_line, eventlog, jsonl, pipe
from tests.harness.log_checks import (
    assert_receipts_kept,
    assert_valid_log,
    entries_in,
    lines_in,
    segments_in,
    tree_contents,
)
from tests.harness.requirements import CHECKOUT
from tests.harness.signals import a_signal, closed, signals

OWN_COMMANDS = ("append", "cat", "repair", "tail", "verify")
READING = (
    *(("cat",), ("cat", "--after", "3"), ("tail",), ("tail", "-n", "0"), ("tail", "--json")),
    *(("tail", "-f"), ("verify",), ("verify", "--json"), ("status",), ("status", "--json")),
    *(("repair",), ("repair", "--json"), ("top",), ("top", "--once")),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def filled(home: Path) -> Path:
    """A home with seven entries in several segments."""
    with EventLog(home, segment_bytes=1000) as log:
        for items in (signals(3), [closed(1)], signals(3, start=4)):
            log.append_many(items)
    return home


def flip(path: Path, byte_offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte_offset] ^= 1
    path.write_bytes(data)


# -- help and usage


def all_commands() -> list[str]:
    return cli.list_commands(click.Context(cli))


def below(command: str) -> list[str]:
    found = cli.get_command(click.Context(cli), command)
    return [f"{command} {name}" for name in getattr(found, "commands", ())]


@pytest.mark.parametrize(
    "command", [None, *all_commands(), *(name for top in all_commands() for name in below(top))]
)
def test_each_command_has_help_with_an_example(command: str | None) -> None:
    words = [] if command is None else command.split()
    done = eventlog(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert b"Example:\n" in done.out
    assert f"eventlog {command or ''}".encode() in done.out
    short, long = (CliRunner().invoke(cli, [*words, option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)


def test_the_help_lists_each_command_with_what_it_does() -> None:
    text = eventlog("--help").out.decode()
    for command in OWN_COMMANDS:
        assert any(line.split()[:1] == [command] and line.split()[2:] for line in text.splitlines())


def test_python_dash_m_runs_the_same_command(filled: Path) -> None:
    for words in (("--help",), ("cat", "--limit", "2"), ("cat", "--limit", "x")):
        module = subprocess.run(
            [sys.executable, "-m", "eventlog", "--home", str(filled), *words],
            capture_output=True,
            check=False,
        )
        done = eventlog(*words, home=filled)
        assert (module.returncode, module.stdout) == (done.code, done.out)
        assert module.stderr.decode() == done.err


def test_version_is_that_of_the_installed_package() -> None:
    done = eventlog("--version")
    assert (done.code, done.out.decode()) == (0, f"eventlog {version('signal-eventlog')}\n")


def test_python_m_eventlog_runs_the_same_command() -> None:
    words = (sys.executable, "-m", "eventlog", "--version")
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert (done.returncode, done.stdout) == (0, f"eventlog {version('signal-eventlog')}\n")


@pytest.mark.parametrize(
    "words",
    [
        *(("nonsense",), ("--nonsense", "cat"), ("cat", "--after", "-1"), ("cat", "--limit", "x")),
        *(("tail", "-n", "-1"), ("append", "--segment-bytes", "0"), ("append", "no such file")),
        *(("append", "/"), ("append", "a", "b"), ("--log-format", "xml", "cat")),
        ("repair", "--from", "no such directory"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_with_the_reason(home: Path, words: tuple[str, ...]) -> None:
    done = eventlog(*words, home=home)
    assert (done.code, done.out) == (2, b"")
    assert (
        done.err.startswith("error: ") and "\ndo:    " in done.err and "Traceback" not in done.err
    )
    assert not home.exists()


def test_the_command_without_arguments_shows_its_help() -> None:
    done = eventlog()
    assert done.code == 2
    assert "Commands:" in done.out.decode() + done.err


# -- which home


@pytest.mark.parametrize("words", READING, ids=" ".join)
@pytest.mark.parametrize(
    "there",
    [
        "empty logs",
        pytest.param("nothing", marks=pytest.mark.slow),
        pytest.param("an empty directory", marks=pytest.mark.slow),
    ],
)
def test_a_home_without_a_log_exits_3_and_nothing_is_created(
    home: Path, words: tuple[str, ...], there: str
) -> None:
    if there != "nothing":
        home.mkdir()
    if there == "empty logs":
        (home / "logs").mkdir()
    before = home.exists() and tree_contents(home)
    done = eventlog(*words, home=home)
    assert (done.code, done.out) == (3, b"")
    what, where, do = done.err.splitlines()
    assert what == "error: there is no log at this home"
    assert where == f"where: {home}"
    assert do.startswith("do:    name the right home with --home or EVENTLOG_HOME")
    assert (home.exists() and tree_contents(home)) == before


def last_seqs(done: Done) -> list[int]:
    return [answer["seq"] for answer in done.answers]


def test_the_home_is_the_option_else_the_variable_else_the_current_directory(
    tmp_path: Path,
) -> None:
    option, variable, here = (tmp_path / name for name in ("option", "variable", "here"))
    here.mkdir()
    for number, home in enumerate((option, variable, here), 1):
        eventlog("append", home=home, stdin=jsonl(signals(number)))
    env = {"EVENTLOG_HOME": str(variable)}
    assert len(eventlog("cat", home=option, env=env, cwd=here).answers) == 1
    assert len(eventlog("cat", env=env, cwd=here).answers) == 2
    assert len(eventlog("cat", cwd=here).answers) == 3
    assert len(eventlog("cat", env={"EVENTLOG_HOME": ""}, cwd=here).answers) == 3, "empty is unset"
    assert len(eventlog("cat", home="../option", cwd=here).answers) == 1


# -- cat and tail


def test_cat_prints_the_bytes_of_the_log(filled: Path) -> None:
    done = eventlog("cat", home=filled)
    assert (done.code, done.err) == (0, "")
    assert done.out == b"".join(path.read_bytes() for path in segments_in(filled))


@pytest.mark.parametrize(
    ("options", "seqs"),
    [
        (("--after", 4), [5, 6, 7]),
        (("--after", 0, "--limit", 2), [1, 2]),
        (("--after", 3, "--limit", 1), [4]),
        (("--limit", 0), []),
        (("--limit", 99), [1, 2, 3, 4, 5, 6, 7]),
        (("--after", 7), []),
        (("--after", 99), []),
    ],
    ids=str,
)
def test_cat_starts_and_ends_at_the_given_seqs(
    filled: Path, options: tuple[object, ...], seqs: list[int]
) -> None:
    done = eventlog("cat", *options, home=filled)
    assert done.code == 0
    assert done.out == b"".join(lines_in(filled)[seq - 1] for seq in seqs)


def test_tail_json_prints_the_last_lines_raw(filled: Path) -> None:
    for count in (0, 1, 3, 7, 99):
        done = eventlog("tail", "-n", count, "--json", home=filled)
        assert done.code == 0
        assert done.out == b"".join(lines_in(filled)[max(0, 7 - count) :] if count else [])


def test_tail_shows_one_readable_line_for_each_entry(filled: Path) -> None:
    shown = eventlog("tail", "-n", 4, home=filled).out.decode().splitlines()
    assert [line.split()[0] for line in shown] == ["4", "5", "6", "7"]
    assert "closed" in shown[0] and "exit_price=161.0" in shown[0] and "s-1" in shown[0]
    for word in ("signal", "AAPL", "BUY", "154.0", "85.5", "momentum", "s-4"):
        assert word in shown[1]


def test_tail_shows_ten_entries_by_default(home: Path) -> None:
    eventlog("append", home=home, stdin=jsonl(signals(12)))
    assert len(eventlog("tail", home=home).out.splitlines()) == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_tail_f_shows_new_entries_until_it_is_stopped(filled: Path, number: signal.Signals) -> None:
    words = command_line(("tail", "-n", 1, "-f", "--json"), filled, ())
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["seq"] == 7
        for seq in (8, 9):
            eventlog("append", home=filled, stdin=jsonl([a_signal(seq)]))
            assert json.loads(process.stdout.readline())["seq"] == seq
        process.send_signal(number)
        assert process.stdout.read() == b""
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(60) in (0, 130)


def test_tail_f_in_the_background_of_a_script_can_be_stopped(filled: Path) -> None:
    """A shell lets what it starts there ignore Ctrl-C."""
    under = ("sh", "-c", 'trap "" INT && exec "$@"', "sh")
    with pipe(filled, "-n", 1, "-f", "--json", command="tail", under=under) as tail:
        assert tail.read_answers()[0]["seq"] == 7
        tail.send(signal.SIGTERM)
        assert (tail.read_all_answers(), tail.wait()) == ([], 130)
        assert tail.err == ""


# -- verify and status


def test_verify_reports_an_undamaged_log(filled: Path) -> None:
    done = eventlog("verify", "--json", home=filled)
    assert (done.code, done.err) == (0, "")
    (report,) = done.answers
    last = entries_in(filled)[-1]
    assert {key: report[key] for key in ("ok", "entries", "segments", "last_seq", "chain")} == {
        "ok": True,
        "entries": 7,
        "segments": len(segments_in(filled)),
        "last_seq": 7,
        "chain": last["chain"],
    }
    assert (report["findings"], report["torn_bytes"]) == ([], 0)
    text = eventlog("verify", home=filled).out.decode()
    assert "7 entries" in text and last["chain"] in text and "DAMAGED" not in text


def test_verify_names_damage_and_exits_1(filled: Path) -> None:
    second = segments_in(filled)[1]
    byte_offset = second.read_bytes().index(b"161.0")
    flip(second, byte_offset)
    done = eventlog("verify", "--json", home=filled)
    (report,) = done.answers
    assert (done.code, report["ok"]) == (1, False)
    finding = report["findings"][0]
    assert set(finding) >= {"segment", "byte_offset", "seq", "problem"}
    assert (finding["segment"], finding["byte_offset"]) == (second.name, 0)
    assert finding["seq"] == int(second.stem)
    done = eventlog("verify", home=filled)
    assert done.code == 1
    assert f"{second.name} at byte 0, seq {finding['seq']}: " in done.out.decode()


def test_commands_output_the_good_entries_then_exit_3_with_the_place_of_damage(
    filled: Path,
) -> None:
    second = segments_in(filled)[1]
    good = segments_in(filled)[0].read_bytes()
    flip(second, 100)
    done = eventlog("cat", home=filled)
    assert (done.code, done.out) == (3, good)
    assert f"where: {second.name} at byte 0, seq {int(second.stem)}" in done.err
    assert "eventlog verify" in done.err


def test_a_torn_tail_is_not_an_error(filled: Path) -> None:
    with segments_in(filled)[-1].open("ab") as segment:
        segment.write(b'{"v":1,"seq":8')
    (report,) = eventlog("verify", "--json", home=filled).answers
    assert (report["ok"], report["torn_bytes"], report["findings"]) == (True, 14, [])
    assert last_seqs(eventlog("cat", home=filled)) == [1, 2, 3, 4, 5, 6, 7]


def test_status_shows_the_size_and_end_of_the_log(filled: Path) -> None:
    done = eventlog("status", "--json", home=filled)
    assert (done.code, done.err) == (0, "")
    last = entries_in(filled)[-1]
    assert done.answers[0]["log"] == {
        "first_seq": 1,
        "last_seq": 7,
        "signals": 6,
        "segments": len(segments_in(filled)),
        "bytes": sum(path.stat().st_size for path in segments_in(filled)),
        "disk_bytes": sum(path.stat().st_size for path in segments_in(filled)),
        "last_recorded_at": last["recorded_at"],
        "chain": last["chain"],
    }
    text = eventlog("status", home=filled).out.decode()
    assert last["chain"] in text
    assert last["recorded_at"].replace("Z", "+00:00") in text


def test_progress_is_shown_on_a_terminal_only(filled: Path) -> None:
    assert eventlog("verify", home=filled).err == ""
    terminal, stderr = os.openpty()
    words = command_line(("verify",), filled, ())
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, check=False)
    os.close(stderr)
    shown = b""
    while True:
        try:
            more = os.read(terminal, 65_536)
        except OSError:  # the terminal has gone: that was all
            break
        if not more:
            break
        shown += more
    os.close(terminal)
    assert done.returncode == 0
    assert b"verifying [" in shown and b"100%" in shown
    assert b"\r" not in done.stdout


# -- messages


def torn(home: Path) -> None:
    """Leaves something that the next append warns of."""
    with segments_in(home)[-1].open("ab") as segment:
        segment.write(b"torn")


def warned(home: Path, *options: str) -> str:
    torn(home)
    return eventlog(*options, "append", home=home, stdin=jsonl([a_signal(1)])).err


def test_messages_go_to_stderr_with_a_stable_name_and_keys(filled: Path) -> None:
    err = warned(filled)
    time_text, _, rest = err.partition(" ")
    assert is_recent_with_offset(time_text)
    assert rest.startswith("WARNING eventlog.append.recovery torn_tail_cut segment=")
    assert " bytes=4 " in err
    assert_valid_log(filled)


def test_quiet_logs_errors_only(filled: Path) -> None:
    assert warned(filled, "-q") == ""
    assert "error: there is no log" in eventlog("-q", "cat", home=filled / "nowhere").err


@pytest.mark.parametrize("options", [("-v",), ("-vv",), ("-v", "-v")])
def test_verbose_logs_at_least_as_much(filled: Path, options: tuple[str, ...]) -> None:
    assert "torn_tail_cut" in warned(filled, *options)


def test_messages_may_be_json_lines(filled: Path) -> None:
    (message,) = (json.loads(line) for line in warned(filled, "--log-format", "json").splitlines())
    assert message["level"] == "warning"
    assert message["logger"] == "eventlog.append.recovery"
    assert message["message"].startswith("torn_tail_cut ")
    assert is_recent_with_offset(message["time"])


def is_recent_with_offset(text: str) -> bool:
    """Whether it is an RFC 3339 time with offset, of the last minutes, wherever the machine is."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", text)
    return abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 600


@pytest.mark.parametrize(
    ("words", "code", "message", "parts"),
    [
        (("cat",), 3, "there is no log at this home", {"where", "do"}),
        (("cat", "--after", "x"), 2, "--after must be a whole number", {"where", "do"}),
        (("nonsense",), 2, "there is no command nonsense", {"where", "do"}),
    ],
)
def test_with_the_json_format_an_error_is_json_too_and_printed_once(
    home: Path, words: tuple[str, ...], code: int, message: str, parts: set[str]
) -> None:
    done = eventlog("--log-format", "json", *words, home=home)
    assert done.code == code
    (found,) = (json.loads(line) for line in done.err.splitlines())
    assert found["level"] == "error"
    assert message in found["message"]
    assert parts == {"where", "do"} & found.keys()
    assert is_recent_with_offset(found["time"])


def test_stdout_never_contains_log_messages(filled: Path) -> None:
    torn(filled)
    done = eventlog("-vv", "append", home=filled, stdin=jsonl([a_signal(8)]))
    assert [set(answer) >= {"seq", "chain"} for answer in done.answers] == [True]
    assert_receipts_kept(filled, done.answers)


# -- plug-ins


@pytest.fixture
def plugins(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Installs a package with commands; gives the environment in which it is found."""

    def install(code: str, **commands: str) -> dict[str, str]:
        site = tmp_path / "site"
        info = site / "theirs-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "theirs.py").write_text(code)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        points = "".join(f"{name} = {target}\n" for name, target in commands.items())
        (info / "entry_points.txt").write_text(f"[eventlog.commands]\n{points}")
        return {"PYTHONPATH": str(site)}

    return install


HELLO = """
import click

@click.command()
@click.pass_obj
def hello(obj):
    "Say hello."
    click.echo(f"hello from {obj.home}")

@click.command()
def cat():
    "Not ours."
    click.echo("stolen")

text = "no command"
"""


def test_another_package_adds_a_command(home: Path, plugins: Callable[..., dict[str, str]]) -> None:
    env = plugins(HELLO, hello="theirs:hello")
    done = eventlog("hello", home=home, env=env)
    assert (done.code, done.out.decode(), done.err) == (0, f"hello from {home}\n", "")
    assert "Say hello." in eventlog("--help", env=env).out.decode()


def test_no_plugin_replaces_a_builtin_command(
    filled: Path, plugins: Callable[..., dict[str, str]]
) -> None:
    env = plugins(HELLO, cat="theirs:cat")
    assert len(eventlog("cat", home=filled, env=env).answers) == 7


BROKEN = {
    "cannot be imported": "import nothing_like_this",
    "is no Python": "def",
    "raises": "raise RuntimeError('boom')",
    "wants to exit": "raise SystemExit(7)",
    "lacks the object": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_logs_a_warning_and_breaks_nothing_else(
    filled: Path, plugins: Callable[..., dict[str, str]], code: str
) -> None:
    env = plugins(code, broken="theirs:broken")
    for words in (("cat",), ("--version",), ("verify",)):
        done = eventlog(*words, home=filled, env=env)
        assert (done.code, done.err) == (0, ""), "it is not even loaded"
    done = eventlog("--help", env=env)
    assert done.code == 0
    assert b"verify" in done.out
    assert "plugin_broken name=broken" in done.err
    assert "Traceback" not in done.err
    done = eventlog("broken", home=filled, env=env)
    assert done.code == 2
    assert "plugin_broken name=broken" in done.err
    assert "there is no command broken" in done.err


def test_a_plugin_that_is_not_a_click_command_is_ignored(
    home: Path, plugins: Callable[..., dict[str, str]]
) -> None:
    env = plugins(HELLO, text="theirs:text")
    done = eventlog("text", home=home, env=env)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_an_expected_failure_also_of_a_plugin_prints_what_where_do(
    home: Path, plugins: Callable[..., dict[str, str]]
) -> None:
    code = """
import click
from eventlog import LogDiverged

@click.command()
def fails():
    raise LogDiverged("what happened", where="somewhere", do="this")
"""
    done = eventlog("fails", env=plugins(code, fails="theirs:fails"))
    assert done.code == 3
    assert done.err == "error: what happened\nwhere: somewhere\ndo:    this\n"


def test_lines_that_were_never_durable_are_not_the_last_ones(home: Path) -> None:
    """R2: the first sectors of the last batch are missing, its last line is there."""
    with EventLog(home) as log:
        log.append_many(signals(5))
    mark = (home / "logs" / ".durable").read_bytes()
    with EventLog(home) as log:
        log.append_many(signals(3, start=6))
    (home / "logs" / ".durable").write_bytes(mark)
    (home / "logs" / ".lock").unlink()  # as after a reboot
    lines = lines_in(home)
    lines[5] = bytes(len(lines[5]) - 1) + b"\n"
    segments_in(home)[0].write_bytes(b"".join(lines))
    assert eventlog("tail", "-n", 2, "--json", home=home).out == b"".join(lines[3:5])
    assert eventlog("status", "--json", home=home).answers[0]["log"]["last_seq"] == 5


@pytest.mark.parametrize("boot", ["the same", "another"])
def test_cat_after_a_seq_hidden_by_damage_reports_it(home: Path, boot: str) -> None:
    """R6: two segments that were swapped."""
    with EventLog(home, segment_bytes=1000) as log:
        log.append_many(signals(3))
        log.append_many(signals(3, start=4))
        log.append_many(signals(3, start=7))
    _, one, two = segments_in(home)
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    if boot == "another":
        (home / "logs" / ".lock").unlink()
    done = eventlog("cat", "--after", 4, home=home)
    assert (done.code, done.out) == (3, b"")
    assert f"where: {one.name} at byte 0, seq 4\n" in done.err
    assert eventlog("cat", "--after", 20, home=home).code == 3, "no evidence decides it"
    done = eventlog("append", home=home, stdin=jsonl([a_signal(10)]))
    assert done.code == 3
    assert f"where: {one.name} at byte 0, seq 4\n" in done.err, "named for what it is"


def test_a_non_blocking_stdout_receives_all_output(filled: Path) -> None:
    """A pipe from a program that reads and writes by events, and reads late."""
    with EventLog(filled) as log:
        log.append_many([a_signal(n, note="x" * 1000) for n in range(100, 300)])
    lines = b"".join(lines_in(filled))
    for words in (["cat"], ["tail", "-n", 1000, "--json"]):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with subprocess.Popen(command_line(words, filled, ()), stdout=writer) as process:
            os.close(writer)
            time.sleep(0.5)  # by now the pipe is full
            with open(reader, "rb") as file:
                assert file.read() == lines
        assert process.returncode == 0


def test_cutting_a_torn_tail_is_logged_once(filled: Path) -> None:
    """R1."""
    with segments_in(filled)[-1].open("ab") as file:
        file.write(b'{"v":1,"seq":8')
    (filled / "logs" / ".lock").unlink()
    said = [
        eventlog("append", home=filled, stdin=jsonl([a_signal(n)])).err.count("torn_tail_cut")
        for n in (50, 51)
    ]
    assert said == [1, 0]


@pytest.mark.parametrize("words", [["cat"], ["verify"], ["tail"], ["append"]], ids=" ".join)
def test_a_short_command_does_not_load_asyncio(tmp_path: Path, words: list[str]) -> None:
    """It would be a third of the time that such a command takes."""
    with EventLog(tmp_path) as log:
        log.append(a_signal(1))
    words = [sys.executable, "-X", "importtime", "-m", "eventlog", "--home", str(tmp_path), *words]
    done = subprocess.run(words, capture_output=True, text=True, check=True, input="")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "eventlog.cli.main" in loaded
    assert loaded.isdisjoint({"asyncio", "ssl", "importlib.metadata"})
