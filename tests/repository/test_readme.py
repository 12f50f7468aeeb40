"""README and docs: every example is run, and every command, option and public name is documented.

The fenced blocks of README.md, and then of the pages in SESSION, are one session in one scratch
directory, from top to bottom:

    sh         run as it is, must print nothing and exit 0; saved instead if it begins with `# x.sh`
    python     saved under the name in its first line, `# x.py`; a console block runs it
    console    `$ ` begins a command; the lines below it are its output, `...` matches anything
    text       a picture, not run
    json       a log, which test_the_lines_in_the_format_document_are_a_log checks

A comment `<!-- not run by ...: tests/test_x.py ... -->` above a block names the test that does it.

Invariant: a block that cannot be run, or that nothing runs, fails.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, OutputChecker
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest

import eventlog
import eventlog.plumbing
import projections
from eventlog.cli.global_options import OptionAfterCommand
from eventlog.cli.main import BUILT_IN, cli
from eventlog.format.line import CHAIN_START, decode, next_chain, stored_chain
from tests.harness.command import eventlog as run_eventlog
from tests.harness.deadline import DEADLINE_S
from tests.harness.log_checks import segments_in
from tests.harness.requirements import CHECKOUT, DISTRIBUTION, needs_tool
from tests.harness.signals import closed, signals

README = CHECKOUT / "README.md"
PAGES = (README, CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").glob("*.md")))
# In this order: each page continues in the directory of the page before it.
SESSION_NAMES = [
    "tutorial",
    "python",
    "format",
    "schema",
    "operations",
    "service",
    "quants",
    "extending",
    "legacy",
    "commands",
]
SESSION = (README, *(CHECKOUT / f"docs/{name}.md" for name in SESSION_NAMES))
# Pages on which a public name must be explained: a mention in the changelog is no documentation.
REFERENCE_PAGES = [page for page in PAGES if page.name not in ("CHANGELOG.md", "guarantees.md")]
PUBLIC = (eventlog, eventlog.plumbing, projections)
COMMANDS_PAGE = CHECKOUT / "docs/commands.md"
READER_LINES_MAX = 20

_BLOCK = re.compile(
    r"(?:<!-- (?P<note>.*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_NAMED = re.compile(r"# ([a-z_]+\.(?:sh|py))\n")
_TEXT_OUTSIDE_BLOCKS = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    kind: str
    text: str
    note: str  # the comment above it

    @property
    def name(self) -> str | None:
        """The file that its first line names."""
        found = _NAMED.match(self.text)
        return found[1] if found else None


class Step(NamedTuple):
    """A command of the session, and its expected output; None: no output."""

    page: str
    line: int
    command: str
    output: str | None


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    text = page.read_text()
    return tuple(
        Block(
            page.name,
            text.count("\n", 0, found.start("kind")) + 1,
            found["kind"],
            found["text"],
            found["note"] or "",
        )
        for found in _BLOCK.finditer(text)
    )


def blocks_of_session() -> tuple[Block, ...]:
    return tuple(block for page in SESSION for block in blocks_of(page))


def block_named(name: str) -> str:
    (found,) = (block.text for block in blocks_of_session() if block.name == name)
    return found


def steps_of(blocks: tuple[Block, ...]) -> Iterator[Step]:
    for block in blocks:
        if block.note.startswith("not run"):
            continue
        match block.kind:
            case "sh" if block.name is None:
                yield Step(block.page, block.line, block.text, None)
            case "console":
                yield from _console_steps(block)


def _console_steps(block: Block) -> Iterator[Step]:
    assert block.text.startswith("$ "), (
        f"{block.page} line {block.line}: a console block begins with $"
    )
    line = block.line + 1
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield Step(block.page, line, command, output)
        line += part.count("\n")


class Ended(NamedTuple):
    """The exit code and the output of a step."""

    code: int
    output: str


class Session:
    """The session of README and docs, run once in a directory, as a reader would type it."""

    def __init__(self, cwd: Path) -> None:
        needs_tool("jq", apt="jq")
        blocks = blocks_of_session()
        for block in blocks:
            if block.name is not None:
                (cwd / block.name).write_text(block.text)
        self.steps = list(steps_of(blocks))
        self.cwd = cwd
        self.ended = self._run()

    def _run(self) -> list[Ended]:
        outputs = self.cwd / "outputs"
        outputs.mkdir()
        script = "".join(
            f"{{\n{step.command}\n}} </dev/null >{outputs}/{number}.out 2>&1\n"
            f"echo $? >{outputs}/{number}.code\n"
            for number, step in enumerate(self.steps)
        )
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.cwd,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,  # some 65 commands
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [
            Ended(
                int((outputs / f"{number}.code").read_text()),
                (outputs / f"{number}.out").read_text(),
            )
            for number in range(len(self.steps))
        ]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("readme"))


@pytest.mark.slow  # the first one runs the whole session
@pytest.mark.parametrize(
    "number",
    range(len(list(steps_of(blocks_of_session())))),
    ids=[f"{step.page}-line-{step.line}" for step in steps_of(blocks_of_session())],
)
def test_each_example_prints_what_its_page_shows(session: Session, number: int) -> None:
    step, ended = session.steps[number], session.ended[number]
    assert ended.code == 0, f"{step.command}\n{ended.output}"
    wanted = step.output or ""
    assert OutputChecker().check_output(wanted, ended.output, ELLIPSIS), (
        f"{step.page} line {step.line}: {step.command}\n"
        f"expected:\n{wanted}\nprinted:\n{ended.output}"
    )


def test_each_block_of_the_session_is_run() -> None:
    commands = "\n".join(step.command for step in steps_of(blocks_of_session()))
    for block in blocks_of_session():
        where = f"{block.page}: the block in line {block.line}"
        assert block.kind in {"sh", "python", "console", "text", "json"}, (
            f"{where} has no known kind"
        )
        assert block.kind != "python" or block.name, f"{where} has no name in its first line"
        assert not block.name or block.name in commands, f"nothing runs {block.name}"
        if block.note:
            test = re.search(r"(?<!run by )tests/(?:\w+/)*test_(?!readme)\w+\.py", block.note)
            assert test and (CHECKOUT / test[0]).exists(), f"{where}: no test runs it instead"


# The reader


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A log of 40 entries in several segments, with text that is easy to get wrong."""
    odd = {"reasoning": 'a "quote", a \\, \n\u2028 ü 漢 \x7f', "nested": {"a": 1, "chain": "no"}}
    home = tmp_path / "a home"
    with eventlog.EventLog(home, segment_bytes=4_000) as log:
        for signal in signals(20):
            log.append({**signal, **odd})
        log.append_many(closed(number) for number in range(1, 21))
    assert len(segments_in(home)) > 2
    return home


def read_by(script: str, home: Path) -> "subprocess.CompletedProcess[str]":
    """Runs the reader of docs/format.md, without access to the packages of this project."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(home)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def check_by_shell(home: Path) -> "subprocess.CompletedProcess[str]":
    needs_tool("jq", apt="jq")
    return subprocess.run(
        ["sh", "-c", block_named("check.sh"), "check.sh", str(home)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_the_reader_has_20_lines_of_standard_python() -> None:
    text = block_named("reader.py")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= READER_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                assert {alias.name.split(".")[0] for alias in names} <= sys.stdlib_module_names
            case ast.ImportFrom(module=str(module)):
                assert module.split(".")[0] in sys.stdlib_module_names


def test_the_reader_reads_what_the_log_reads(home: Path) -> None:
    done = read_by(block_named("reader.py"), home)
    *lines, head = done.stdout.splitlines()
    with eventlog.EventLog(home) as log:
        entries = list(log.read())
    assert lines == [f"{e.seq} {e.event} {e.payload['signal_id']}" for e in entries]
    assert head == f"40 entries, head chain {entries[-1].chain}"
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shell_check_finds_the_same_head(home: Path) -> None:
    done = check_by_shell(home)
    status = json.loads(run_eventlog("status", "--json", home=home).out)["log"]
    assert done.stdout == f"whole, head chain {status['chain']}\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.99])
def test_reader_and_shell_find_a_flipped_bit(home: Path, place: float) -> None:
    segment = segments_in(home)[1]
    data = bytearray(segment.read_bytes())
    data[int(len(data) * place)] ^= 1
    segment.write_bytes(data)
    assert "damaged" in read_by(block_named("reader.py"), home).stderr
    shell = check_by_shell(home)
    assert shell.returncode == 1
    assert shell.stdout.startswith("damaged")


def test_the_reader_finds_a_missing_segment(home: Path) -> None:
    segments_in(home)[1].unlink()
    done = read_by(block_named("reader.py"), home)
    assert done.returncode == 1
    assert "does not follow entry" in done.stderr


def test_the_reader_does_not_return_an_unfinished_line(home: Path) -> None:
    segment = segments_in(home)[-1]
    segment.write_bytes(segment.read_bytes()[:-10])
    done = read_by(block_named("reader.py"), home)
    assert done.returncode == 1
    assert "was never finished" in done.stderr


def test_the_lines_in_the_format_document_are_a_log() -> None:
    """The worked example can be copied and hashed by hand."""
    (example,) = (b for b in blocks_of(CHECKOUT / "docs/format.md") if b.kind == "json")
    chain = CHAIN_START
    for seq, line in enumerate(example.text.encode().splitlines(keepends=True), 1):
        chain = next_chain(chain, line)
        assert stored_chain(line) == chain
        assert decode(line).seq == seq


# Everything is documented, and nothing else


def commands() -> dict[str, click.Command]:
    """The commands of this distribution: the built-in ones, and those that `projections` adds."""
    context = click.Context(cli)
    found = {name: command for name in BUILT_IN if (command := cli.get_command(context, name))}
    for point in entry_points(group="eventlog.commands"):
        ours = point.dist is not None and point.dist.name == DISTRIBUTION
        if ours:
            found[point.name] = point.load()
    return found


def section_of(name: str) -> str:
    """The section of docs/commands.md on a command, up to the next heading of its level."""
    text = _TEXT_OUTSIDE_BLOCKS.sub("", COMMANDS_PAGE.read_text())
    head = rf"^## {re.escape(name)}\n" if name != "eventlog" else r"^# Commands\n"
    found = re.search(rf"{head}(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def options_in(section: str) -> set[str]:
    """The options in the first cells of the tables of a section."""
    cells = re.findall(r"^\| (`-[^|]*(?:\\\|[^|]*)*) \|", section, re.MULTILINE)
    return {
        option for cell in cells for option in re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", cell)
    }


def options_of(command: click.Command) -> set[str]:
    """The names of each option of a command and of its subcommands; not the global ones again."""
    own = (p for p in command.params if not isinstance(p, OptionAfterCommand))
    found = {name for p in own if isinstance(p, click.Option) for name in p.opts}
    if isinstance(command, click.Group) and command is not cli:
        found = found.union(*map(options_of, command.commands.values()))
    return found


def test_each_command_and_each_option_is_documented_and_no_other() -> None:
    for name, command in {"eventlog": cli, **commands()}.items():
        section = section_of(name)
        assert section, f"docs/commands.md has no section on {name}"
        assert options_in(section) - {"-h", "--help"} == options_of(command), name


def test_the_readme_lists_each_command_and_no_other() -> None:
    section = README.read_text().partition("\n## Commands")[2].partition("\n##")[0]
    assert set(re.findall(r"^\| `([a-z-]+)", section, re.MULTILINE)) == set(commands())


@pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)
def test_each_public_name_is_documented_and_can_be_imported(package: ModuleType) -> None:
    text = "".join(page.read_text() for page in REFERENCE_PAGES)
    for name in package.__all__:
        assert re.search(rf"`[^`\n]*\b{name}\b", text), f"{package.__name__}.{name}"
        assert getattr(package, name) is not None


def test_the_table_of_plumbing_lists_each_of_its_names_and_no_other() -> None:
    text = (CHECKOUT / "docs/extending.md").read_text().partition("\n## eventlog.plumbing\n")[2]
    cells = " ".join(re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE))
    listed = re.findall(r"`(?:await )?(\w+)", cells)
    assert sorted(listed) == sorted(eventlog.plumbing.__all__)


def is_module_or_its_attribute(name: str) -> bool:
    """Whether a dotted name can be imported, or its last part is an attribute of what can."""
    module, _, attribute = name.rpartition(".")
    if find_spec(module) is None:
        return False
    return hasattr(import_module(module), attribute) or find_spec(name) is not None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_each_file_and_module_that_a_page_names_exists(page: Path) -> None:
    for code in re.findall(r"`([^`\n]+)`", page.read_text()):
        for path in re.findall(r"\b(?:eventlog|projections|tests|tools|docs)/[\w./-]*\w", code):
            found = CHECKOUT / path
            assert found.exists() or found.with_suffix(".py").exists(), path
        for name in re.findall(r"(?<![\w./-])(?:eventlog|projections|tools)(?:\.\w+)+", code):
            assert is_module_or_its_attribute(name), name


def heading_links(page: Path) -> set[str]:
    """The anchors that a page offers, made from its headings as GitHub makes them."""
    text = _TEXT_OUTSIDE_BLOCKS.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_has_a_target(page: Path) -> None:
    text = _TEXT_OUTSIDE_BLOCKS.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if not path.startswith("http"):
            found = page.parent / path if path else page
            assert found.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in heading_links(found), f"{page.name} links to {target}"


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    """https://keepachangelog.com: versions newest first, each with its kinds of change."""
    text = (CHECKOUT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.*?)\]", text, re.MULTILINE)[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_demo_and_the_tests_are_commands_of_the_checkout() -> None:
    text = README.read_text().partition("## Two commands")[2].partition("\n## ")[0]
    for name in set(re.findall(r"\b(tools/[a-z]+)", text)):
        assert os.access(CHECKOUT / name, os.X_OK), f"{name} cannot be run"
