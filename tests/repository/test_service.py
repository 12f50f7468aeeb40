"""docs/service.md: its tables of environment variables and of extras are those of the code."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from packaging.requirements import Requirement

from eventlog.cli.main import BUILT_IN
from tests.harness.requirements import CHECKOUT, DISTRIBUTION

PAGE = (CHECKOUT / "docs/service.md").read_text()
SETTINGS = (
    "projections.cli.settings",
    "projections.cli.replication.settings",
    "eventlog.cli.stream_environment",
)
EVERY_COMMAND = "every command"
# Read by OpenSSL when the client of Alpine calls `load_default_certs`.
READ_BY_A_LIBRARY = {"SSL_CERT_FILE", "SSL_CERT_DIR"}
READ_BY_A_UNIT = {"PROJECT_OPTIONS": "eventlog-project@", "WEB_OPTIONS": "eventlog-web@"}
READ_BY_OUTPUT = {"NO_COLOR"}  # by `bad_news`, wherever a command colours its output, and by rich

_VARIABLE = re.compile(r"_?[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def table_under(heading: str) -> dict[str, list[str]]:
    """The rows of the first table of a section: first cell, and the others."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return {first: cells for first, *cells in rows[2:]}


def quoted(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((CHECKOUT / f"{module.replace('.', '/')}.py").read_text())


def functions_of(module: str) -> dict[str, Function]:
    return {node.name: node for node in tree_of(module).body if isinstance(node, Function)}


def variables_in(tree: ast.AST) -> set[str]:
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and _VARIABLE.fullmatch(text)}


def variables_of(path: Path) -> set[str]:
    """The variables that a module reads: names in one that uses the environment."""
    text = path.read_text()
    is_reader = re.search(r"\bos\.environ\b|\bos\.getenv\b|\benvvar\b|_VARIABLE = ", text)
    return variables_in(ast.parse(text)) if is_reader else set()


def read_by(module: str, name: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The variables that a function reads: itself, in its module, and in the settings."""
    if (module, name) in seen:
        return
    seen.add((module, name))
    function = functions_of(module)[name]
    yield from variables_in(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            for other in (module, *SETTINGS):
                if node.id in functions_of(other):
                    yield from read_by(other, node.id, seen)


def commands_by_variable() -> dict[str, set[str]]:
    """The commands that read each variable."""
    found: dict[str, set[str]] = {}
    group = "eventlog.commands"
    points = [
        *(EntryPoint(name, f"eventlog.cli.{place}", group) for name, place in BUILT_IN.items()),
        *(p for p in entry_points(group=group) if p.dist and p.dist.name == DISTRIBUTION),
    ]
    for point in points:
        roots = [point.attr]
        for name, function in functions_of(point.module).items():
            decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
            if any(text.startswith(f"{point.attr}.command(") for text in decorators):
                roots.append(name)
        for root in roots:
            for variable in read_by(point.module, root, set()):
                found.setdefault(variable, set()).add(point.name)
    return found


def test_the_table_has_each_variable_that_the_code_reads_and_no_other() -> None:
    modules = [p for d in ("eventlog", "projections") for p in (CHECKOUT / d).rglob("*.py")]
    read = set().union(*map(variables_of, modules)) | READ_BY_A_LIBRARY | set(READ_BY_A_UNIT)
    assert read >= {"EVENTLOG_HOME", "ALPINE_API_URL", "NOTIFY_SOCKET"}
    assert set().union(*map(quoted, table_under("Configure"))) == read


def test_the_table_names_the_commands_that_read_each_variable() -> None:
    by_variable = commands_by_variable()
    modules = ("main", "global_options", "command")
    of_every_command = {n for m in modules for n in variables_of(CHECKOUT / f"eventlog/cli/{m}.py")}
    for names, (_, readers) in table_under("Configure").items():
        for name in quoted(names) - READ_BY_A_LIBRARY - set(READ_BY_A_UNIT) - READ_BY_OUTPUT:
            if name in of_every_command:
                assert readers.startswith(EVERY_COMMAND), name
            else:
                assert quoted(readers) == by_variable[name], name


def test_what_a_unit_or_a_library_reads_is_read_by_it() -> None:
    for name, unit in READ_BY_A_UNIT.items():
        assert f"${name}" in (CHECKOUT / f"tools/ops/{unit}.service").read_text()
    client = (CHECKOUT / "projections/alpine/client.py").read_text()
    assert "load_default_certs()" in client


def test_the_table_has_each_extra_and_the_packages_that_it_brings() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    found = {
        next(iter(quoted(first))): quoted(cells[0])
        for first, cells in table_under("Install").items()
        if quoted(first)
    }
    assert found == {
        extra: {Requirement(line).name for line in lines}
        for extra, lines in project["optional-dependencies"].items()
    }
