"""The man pages are made from the help, and say all of it."""

import re
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from eventlog.cli.main import cli
from eventlog.cli.manual import man_pages, program_with
from tests.harness.requirements import CHECKOUT, needs_tool

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["entry-points"]["eventlog.commands"]


@pytest.fixture(scope="module")
def program() -> click.Group:
    return program_with(COMMANDS)


@pytest.fixture(scope="module")
def pages(program: click.Group) -> dict[str, str]:
    return man_pages(program, "1.2.3")


def plain(page: str) -> str:
    """The words of a page, without its requests and escapes."""
    text = re.sub(r"\\f[BR]", "", page)
    for escape, char in {r"\-": "-", r"\(aq": "'", r"\(ti": "~", r"\(ha": "^", r"\&": ""}.items():
        text = text.replace(escape, char)
    return " ".join(text.replace(r"\e", "\\").split())


def test_there_is_a_page_for_the_program_each_command_and_each_subcommand(
    pages: dict[str, str],
) -> None:
    assert {"eventlog.1", "eventlog-append.1", "eventlog-parked-retry.1"} <= set(pages)
    listed = {f"eventlog-{name}.1" for name in (*COMMANDS, "help", "completion", "cat")}
    assert listed <= set(pages)


def test_a_page_says_what_the_help_says(program: click.Group, pages: dict[str, str]) -> None:
    root = click.Context(program, info_name="eventlog", help_option_names=["-h", "--help"])
    for name in ("append", "export", "completion"):
        command = program.commands[name]
        page = plain(pages[f"eventlog-{name}.1"])
        assert command.help is not None
        for paragraph in command.help.replace("\b", "").split("\n\n"):
            words = " ".join(paragraph.removeprefix("\nExample:").split())
            assert words.replace("`", "").removeprefix("Example: ") in page
        context = click.Context(command, info_name=name, parent=root)
        for param in command.get_params(context):
            record = param.get_help_record(context) if isinstance(param, click.Option) else None
            if record is not None:
                assert " ".join(" ".join(record).replace("`", "").split()) in page


def test_pages_are_the_same_for_the_same_commands(
    program: click.Group, pages: dict[str, str]
) -> None:
    assert man_pages(program_with(COMMANDS), "1.2.3") == pages
    assert '"eventlog 1.2.3"' in pages["eventlog.1"]


def test_the_pages_have_no_commands_of_other_packages(pages: dict[str, str]) -> None:
    assert "eventlog-foreign.1" not in pages
    without = man_pages(program_with({}), "1")
    assert set(pages) - set(without) == {
        *(f"eventlog-{name}.1" for name in COMMANDS),
        *(f"eventlog-parked-{name}.1" for name in ("list", "retry", "discard")),
        "eventlog-mirror-create.1",
        *(name for name in pages if name.startswith("eventlog-evidence-")),
    }


def test_text_never_becomes_a_request_of_roff() -> None:
    @click.command()
    def odd() -> None:
        """Do it.

        .so /etc/passwd \\" and \\fBbold

        \b
        Example:
          .first 'line' -- a~b^c
        """

    program = click.Group("eventlog", commands={"odd": odd}, params=cli.params, help="Odd.")
    page = man_pages(program, "1")["eventlog-odd.1"]
    assert '\n\\&.so /etc/passwd \\e" and \\efBbold\n' in page
    assert "\n  .first \\(aqline\\(aq \\-\\- a\\(tib\\(hac\n" in page


def test_roff_renders_each_page_without_a_warning(pages: dict[str, str], tmp_path: Path) -> None:
    groff = needs_tool("groff", apt="groff-base")
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
    words = [groff, "-man", "-Tutf8", "-ww", *sorted(map(str, tmp_path.glob("*.1")))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"LC_ALL": "C"})
    assert done.stderr == ""
    shown = re.sub("\x1b\\[[0-9;]*m", "", done.stdout)
    for words_shown in ("EVENTLOG-APPEND(1)", "--skip-invalid", "eventlog parked retry --all"):
        assert words_shown in shown
