"""A usage error says what is wrong, where, and what to do, with suggestions."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eventlog.cli.main import cli
from eventlog.cli.usage import as_event_log_error
from tests.harness.forked import forked

ERRORS = {
    # words: what, where, and the first words of what to do
    "signal": ("there is no command signal", "eventlog", "did you mean signals? see"),
    "rebuild": ("there is no command rebuild", "eventlog", "did you mean rebuild-database? see"),
    "imp": ("there is no command imp", "eventlog", "did you mean import-legacy? see"),
    "ver": (
        "there is no command ver",
        "eventlog",
        "did you mean verify or --version or --verbose?",
    ),
    "verfy": ("there is no command verfy", "eventlog", "did you mean verify? see `eventlog help`"),
    "verison": ("there is no command verison", "eventlog", "did you mean --version or verify?"),
    "version": ("there is no command version", "eventlog", "did you mean --version"),
    "xyz": ("there is no command xyz", "eventlog", "see `eventlog help`"),
    "help verfy": ("there is no command verfy", "eventlog", "did you mean verify? see"),
    "help cat verfy": ("there is no command verfy", "eventlog cat", "see `eventlog help cat`"),
    "parked retyr": (
        *("there is no command retyr", "eventlog parked"),
        "did you mean retry? see `eventlog help parked`",
    ),
    "--versoin": ("there is no option --versoin", "eventlog", "did you mean --version? see"),
    "--json status": (
        *("there is no option --json", "eventlog"),
        "see `eventlog help`; the options of a command stand after it",
    ),
    "cat --limt 3": ("there is no option --limt", "eventlog cat", "did you mean --limit? see"),
    "cat --hoem x": ("there is no option --hoem", "eventlog cat", "did you mean --home? see"),
    "cat -x": ("there is no option -x", "eventlog cat", "see `eventlog help cat`"),
    "parked list --jsno": (
        *("there is no option --jsno", "eventlog parked list"),
        "did you mean --json? see `eventlog help parked list`",
    ),
    "cat --limit abc": (
        *("--limit must be a whole number, 0 or more (got 'abc')", "eventlog cat"),
        "see `eventlog help cat`",
    ),
    "cat --limit -1": (
        "--limit must be a whole number, 0 or more (got -1)",
        *("eventlog cat", "see `eventlog help cat`"),
    ),
    "tail -n 1.5": (
        "--lines must be a whole number, 0 or more (got '1.5')",
        *("eventlog tail", "see `eventlog help tail`"),
    ),
    "parked retry 1 0": (
        "SEQ must be a whole number, 1 or more (got 0)",
        *("eventlog parked retry", "see `eventlog help parked retry`"),
    ),
    "project sqlite --batch-timeout x": (
        "--batch-timeout must be a number of seconds, 0 or more (got 'x')",
        *("eventlog project", "see `eventlog help project`"),
    ),
    "project sqlite --batch-timeout nan": (
        "--batch-timeout must be a number of seconds, 0 or more (got nan)",
        *("eventlog project", "see `eventlog help project`"),
    ),
    "cat --log-format xml": (
        "--log-format must be text or json (got 'xml')",
        *("eventlog cat", "see `eventlog help cat`"),
    ),
    "schema signl": (
        "KIND must be signal or fact (got 'signl')",
        *("eventlog schema", "did you mean signal? see `eventlog help schema`"),
    ),
    "repair --from nowhere": (
        "--from: directory 'nowhere' does not exist",
        *("eventlog repair", "see `eventlog help repair`"),
    ),
    "signals --since yesterday": (
        "--since needs a time with a UTC offset, not yesterday",
        *("eventlog signals", "give it like 2025-11-18T02:00:00Z"),
    ),
    "signals --as-of 2025-11-18": (
        "--as-of needs a time with a UTC offset, not 2025-11-18",
        *("eventlog signals", "give it like 2025-11-18T00:00:00Z"),
    ),
    "cat --limit": (
        "option '--limit' requires an argument",
        *("eventlog cat", "see `eventlog help cat`"),
    ),
    "cat --after=": (
        "--after must be a whole number, 0 or more (got '')",
        *("eventlog cat", "see `eventlog help cat`"),
    ),
    "verify --json=1": (
        "option '--json' does not take a value",
        *("eventlog verify", "see `eventlog help verify`"),
    ),
    "show": ("SIGNAL_ID is missing", "eventlog show", "call it as: eventlog show [OPTIONS]"),
    "append a b": (
        "got unexpected extra argument (b)",
        *("eventlog append", "call it as: eventlog append [OPTIONS] [FILE]"),
    ),
    "append nowhere": (
        "cannot read nowhere: No such file or directory",
        *("eventlog append", "name a file of JSON Lines, or none to read standard input"),
    ),
    "parked retry": (
        "no signal is named",
        *("eventlog parked retry", "give SEQs, as `eventlog parked list` shows them, or --all"),
    ),
    "doctor --seconds 3": (
        "--seconds needs --disk DIR",
        *("eventlog doctor", "name a directory to test with --disk"),
    ),
    "project sqlit": (
        "there is no projection sqlit",
        *("eventlog project", "choose from: alpine, mirror, sqlite, tree, all"),
    ),
    "project sqlite --listen x": (
        "--listen: 'x' is not HOST:PORT, for example 127.0.0.1:9464 or [::1]:9464",
        *("eventlog project", "name an address and a free port"),
    ),
    "import-legacy": (
        "no file to import from is named",
        *("eventlog import-legacy", "give --log, --db or both"),
    ),
}


@pytest.mark.parametrize("words", ERRORS)
@pytest.mark.usefixtures("logging_as_it_was")
def test_a_usage_error_says_what_where_and_what_to_do(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    what, where, do = ERRORS[words]
    done = CliRunner().invoke(cli, words.split(" "), prog_name="eventlog", standalone_mode=False)
    assert isinstance(done.exception, click.UsageError) and done.exception.exit_code == 2
    found = as_event_log_error(done.exception)
    assert (found.what, found.where) == (what, where)
    assert found.do.startswith(do), found.do


def test_the_command_prints_it_and_exits_2(tmp_path: Path) -> None:
    done = forked("parked", "retyr", home=tmp_path)
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "error: there is no command retyr\n"
        "where: eventlog parked\n"
        "do:    did you mean retry? see `eventlog help parked`\n"
    )


@pytest.mark.parametrize("words", ["--log-format json cat --bad", "cat --bad --log-format=json"])
def test_a_usage_error_is_json_wherever_the_format_is_given(words: str) -> None:
    done = forked(*words.split(), home="home")
    assert done.code == 2
    found = json.loads(done.err)
    assert found["message"] == "there is no option --bad"
    assert (found["where"], found["do"]) == ("eventlog cat", "see `eventlog help cat`")


def test_no_argument_can_control_the_terminal() -> None:
    for words in (("\x1b[31mred",), ("cat", "--limit", "\x1b[31mred"), ("cat", "--\x1b[31mred")):
        done = forked(*words, home="home")
        assert done.code == 2 and "red" in done.err
        assert "\x1b" not in done.err


KINDS = [
    (click.IntRange(1, 64), "x", "must be a whole number from 1 to 64 (got 'x')"),
    (click.IntRange(max=9), "10", "must be a whole number, 9 or less (got 10)"),
    (click.FloatRange(0, 1), "x", "must be a number from 0 to 1 (got 'x')"),
    (click.INT, "x", "must be a whole number (got 'x')"),
    (click.FLOAT, "x", "must be a number (got 'x')"),
    (click.Choice(["a"]), "is not b", "must be a (got 'is not b')"),
    (click.BOOL, "x", ": 'x' is not a valid boolean"),
    (click.UUID, "x", ": 'x' is not a valid UUID"),
    (click.Path(exists=True), "/no/x", ": path '/no/x' does not exist"),
]


@pytest.mark.parametrize(("kind", "value", "message"), KINDS, ids=[kind[2] for kind in KINDS])
def test_every_type_of_a_parameter_says_what_is_wanted(
    kind: "click.ParamType[object]", value: str, message: str
) -> None:
    command = click.Command("it", params=[click.Option(["--option"], type=kind)])
    with pytest.raises(click.BadParameter) as caught:
        command.make_context("it", ["--option", value])
    what = as_event_log_error(caught.value).what
    assert what.startswith("--option") and message in what
