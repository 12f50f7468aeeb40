"""The global options have one effect, wherever they stand."""

import json
import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from eventlog import EventLog
from eventlog.cli.command import CommandContext
from eventlog.cli.global_options import (
    NOTE,
    accepting_global_options,
    apply_global_options,
    global_options,
)
from eventlog.cli.main import cli
from tests.harness.forked import forked
from tests.harness.signals import signals

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.fixture
def program() -> click.Group:
    """A program with the global options, a command, and a group with another command."""

    @click.command()
    @click.option("--text", default="")
    @click.pass_obj
    def one(obj: CommandContext, text: str) -> None:
        click.echo(json.dumps([obj.home, logging.getLogger().level, text]))

    @click.group()
    def many() -> None:
        pass

    many.add_command(one)

    @click.group(params=global_options())
    @click.pass_context
    def root(ctx: click.Context, /, **_options: object) -> None:
        apply_global_options(ctx)

    for command in (one, many):
        root.add_command(accepting_global_options(command))
    return root


def run(program: click.Group, words: str, **env: str) -> list[object]:
    done = CliRunner().invoke(program, words.split(), env=env)
    assert done.exit_code == 0, done.output
    found: list[object] = json.loads(done.stdout)
    return found


WARNING, INFO, DEBUG, ERROR = logging.WARNING, logging.INFO, logging.DEBUG, logging.ERROR


@pytest.mark.parametrize(
    ("words", "home", "level"),
    [
        ("one", ".", WARNING),
        ("--home a one", "a", WARNING),
        ("one --home a", "a", WARNING),
        ("one --home=a", "a", WARNING),
        ("--home a one --home b", "b", WARNING),
        ("one --home a --home b", "b", WARNING),
        ("many one --home a", "a", WARNING),
        ("many --home a one", "a", WARNING),
        ("many --home a one --home b", "b", WARNING),
        ("one -v", ".", INFO),
        ("-v one -v", ".", DEBUG),
        ("many -v one -v", ".", DEBUG),
        ("one -vv", ".", DEBUG),
        ("one --verbose", ".", INFO),
        ("one -q", ".", ERROR),
        ("many one --quiet", ".", ERROR),
    ],
)
def test_an_option_after_the_command_acts_as_before_it(
    program: click.Group, words: str, home: str, level: int
) -> None:
    assert run(program, words) == [home, level, ""]


def test_the_value_of_another_option_is_not_taken_for_a_global_option(
    program: click.Group,
) -> None:
    assert run(program, "one --text --home") == [".", WARNING, "--home"]


def test_an_option_after_the_command_replaces_the_variable(program: click.Group) -> None:
    assert run(program, "one", EVENTLOG_HOME="v")[0] == "v"
    assert run(program, "one --home a", EVENTLOG_HOME="v")[0] == "a"
    assert run(program, "--home b one", EVENTLOG_HOME="v")[0] == "b"


def test_a_command_keeps_the_meaning_of_its_own_options() -> None:
    @click.command()
    @click.option("-v", "--volume", default="")
    @click.option("--home", default="")
    def loud(volume: str, home: str) -> None:
        click.echo(f"{volume} {home}")

    @click.group(params=global_options())
    def root(**_options: object) -> None:
        pass

    root.add_command(accepting_global_options(loud))
    done = CliRunner().invoke(root, ["loud", "-v", "11", "--home", "flat", "--verbose"])
    assert (done.exit_code, done.output) == (0, "11 flat\n")


def test_the_command_itself_is_not_changed() -> None:
    @click.command()
    def plain() -> None:
        """Do it."""

    accepting_global_options(plain)
    assert (plain.params, plain.epilog) == ([], None)


def test_each_command_takes_the_home_after_its_name(tmp_path: Path) -> None:
    with EventLog(tmp_path / "home") as log:
        log.append_many(signals(2))
    assert forked("cat", "--home", tmp_path / "home", home="elsewhere").out.count(b"\n") == 2
    nowhere = ("--home", tmp_path / "nowhere", "--log-format", "json")
    done = forked("parked", "list", *nowhere, home=tmp_path / "home")
    assert done.code == 3
    assert json.loads(done.err)["where"] == str(tmp_path / "nowhere")


def test_the_help_of_each_command_names_them() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        found = cli.get_command(context, name)
        assert found is not None and found.epilog is not None
        assert found.epilog.endswith(NOTE), name
