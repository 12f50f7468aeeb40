"""`eventlog help`, and the list of commands."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from eventlog.cli.main import cli

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def output(*words: str) -> str:
    done = CliRunner().invoke(cli, words, prog_name="eventlog", terminal_width=80)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("words", ["", "append", "help", "parked", "parked retry"])
def test_help_prints_what_the_option_prints(words: str) -> None:
    assert output("help", *words.split()) == output(*words.split(), "--help")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "append",
            "--segment-bytes N  Start a new segment at this size. Default: 64 MiB. [1 or more]",
        ),
        ("wait", "--timeout SECONDS Give up after this time. Default: wait for ever. [0 or more]"),
    ],
)
def test_the_help_gives_bounds_in_words(words: str, text: str) -> None:
    shown = " ".join(output("help", *words.split()).split())
    assert " ".join(text.split()) in shown
    assert "x>=" not in shown


def test_the_list_of_commands_imports_nothing_that_only_one_of_them_needs() -> None:
    """A start takes three times as long with what the daemons import."""
    code = (
        "import sys; from eventlog.cli.main import main; sys.argv = ['eventlog', '--help']\n"
        "try: main()\n"
        "finally: print({'asyncio', 'httpx', 'sqlite3', 'ssl'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Commands:" in done.stdout and "rejoin" in done.stdout
    assert done.stderr == "set()\n"


def groups() -> Iterator[tuple[str, ...]]:
    context = click.Context(cli)
    yield ()
    for name in cli.list_commands(context):
        if isinstance(cli.get_command(context, name), click.Group):
            yield (name,)


@pytest.mark.parametrize("words", list(groups()))
def test_the_list_of_commands_has_one_whole_line_for_each(words: tuple[str, ...]) -> None:
    text = output(*words, "--help").partition("Commands:\n")[2]
    listed = [line for line in text.split("\n\n")[0].splitlines() if line]
    assert len(listed) > (0 if words else 2)
    for line in listed:
        assert line[:3].strip() and len(line) <= 80, "a name begins it, so it is not wrapped"
        assert line.endswith(".") and not line.endswith("..")


def test_a_summary_of_another_package_is_wrapped_but_never_cut() -> None:
    from eventlog.cli.global_options import accepting_global_options

    summary = f"Do {'this and that and ' * 9}nothing else."
    group = click.Group("it", commands={"far": click.Command("far", help=f"{summary}\n\nMore.")})
    found = accepting_global_options(group)
    text = found.get_help(click.Context(found, info_name="it", terminal_width=80))
    assert summary in " ".join(text.split())


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_both_options_print_the_version(option: str) -> None:
    assert output(option).startswith("eventlog ")
