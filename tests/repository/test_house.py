"""Rules of this repository that no linter checks; pyproject.toml has those that one does.

Invariant: a rule names paths that exist, so that none is dropped by a move.
"""

import ast
import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.harness.requirements import (
    CHECKOUT,
    DISTRIBUTION,
    PRICES_VARIABLE,
    needs_prices,
    needs_tool,
)

MODULE_LINES_MAX = 400  # the aim is about 300; a longer module surely has two jobs
FUNCTION_LINES_MAX = 60  # the aim is about 40, docstring included
# Path of a module that may be longer: why.
LONGER = {"eventlog/plumbing.py": "a list of names, each of which takes three lines"}

# The pure core: every byte and every time is passed in, so that properties can cover all of them.
PURE = (
    "eventlog/format",
    "eventlog/schema",
    "eventlog/append/batch.py",
    "projections/signals",
    "projections/export/column_kinds.py",
    "projections/export/csv_lines.py",
    "projections/queries/filters.py",
    "projections/queries/selection.py",
    "projections/queries/statistics.py",
    "projections/queries/times.py",
    "projections/doctor/finding.py",
    "projections/evidence/formats",
    "projections/evidence/proofs/check.py",
    "projections/evidence/proofs/entry_line.py",
    "projections/evidence/proofs/growth.py",
    "projections/evidence/proofs/proof.py",
    "projections/evidence/stamps/der_order.py",
    "projections/evidence/stamps/stamp.py",
    "projections/evidence/handover/statement.py",
    "projections/evidence/handover/tile_paths.py",
)
IMPURE = {"asyncio", "io", "logging", "os", "pathlib", "random", "secrets", "shutil", "socket"}
IMPURE |= {"sqlite3", "subprocess", "tempfile", "threading", "time", "uuid"}
IMPURE |= {"open", "datetime.now"}

# Modules that may import a name on first use (PEP 562), so that a command loads only what it needs.
LAZY = {"eventlog/__init__.py", "eventlog/plumbing.py", "projections/__init__.py"}
FORBIDDEN_HOOKS = {"__getattr__", "__getattribute__", "__setattr__"}

MODULES = sorted(p for d in ("eventlog", "projections") for p in (CHECKOUT / d).rglob("*.py"))


def of_each_module() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(CHECKOUT)))


def names_used(tree: ast.Module) -> Iterator[str]:
    """Top-level names of imports, called builtins, and `a.b` of called attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.split(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module)):
                yield module.split(".")[0]
            case ast.Call(func=ast.Name(id=name)):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=attr)):
                yield f"{owner}.{attr}"


@of_each_module()
def test_a_module_docstring_states_an_invariant(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert re.search(r"^Invariant: \S", docstring, re.MULTILINE), f"{path.name} names no Invariant:"


@of_each_module()
def test_modules_and_functions_stay_within_their_length_limits(path: Path) -> None:
    text = path.read_text()
    name = str(path.relative_to(CHECKOUT))
    lines = text.count("\n")
    assert lines <= MODULE_LINES_MAX or name in LONGER, f"{name} has {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{name}: {node.name} has {lines} lines"


@of_each_module()
def test_no_module_uses_attribute_hooks_or_metaclasses(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name):
                assert name not in FORBIDDEN_HOOKS or str(path.relative_to(CHECKOUT)) in LAZY
            case ast.ClassDef(keywords=keywords):
                assert all(keyword.arg != "metaclass" for keyword in keywords), path.name


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if any(p.is_relative_to(CHECKOUT / each) for each in PURE)],
    ids=lambda p: str(p.relative_to(CHECKOUT)),
)
def test_the_pure_core_never_sees_a_clock_a_disk_or_the_environment(path: Path) -> None:
    assert set(names_used(ast.parse(path.read_text()))) & IMPURE == set()


@pytest.mark.parametrize("name", sorted({*PURE, *LAZY, *LONGER}))
def test_each_path_that_a_rule_names_exists(name: str) -> None:
    """A rule for a module that was moved would silently check nothing."""
    path = CHECKOUT / name
    assert path.is_file() or any(path.rglob("*.py"))


def texts_of_the_repository() -> Iterator[tuple[str, str]]:
    """Path and text of each file of the repository, except this one, which names what it bans."""
    for folder, folders, files in os.walk(CHECKOUT):
        folders[:] = [f for f in folders if f == ".ci" or not f.startswith((".", "__pycache__"))]
        for path in (Path(folder, name) for name in files if name != ".git"):
            if path != Path(__file__).resolve():
                yield str(path.relative_to(CHECKOUT)), path.read_text(errors="replace")


def test_the_repository_contains_no_machine_path_and_no_registry_address() -> None:
    """A clone works in any directory and with any registry."""
    foreign = re.compile(
        r"/(?:work|root|workspace)/|pypi\.org|pythonhosted|registry\.npmjs|deb\.debian"
    )
    found = [
        f"{name}: {text[: match.start()].count(chr(10)) + 1}: {match[0]}"
        for name, text in texts_of_the_repository()
        for match in foreign.finditer(text)
    ]
    assert found == []


def test_only_the_ci_script_looks_outside_the_checkout() -> None:
    """A clone stands alone; .ci/run uses real prices if they are kept beside the checkout."""
    outside = re.compile(r"\.\./shared|[\"']shared/|needs_shared")
    found = [name for name, text in texts_of_the_repository() if outside.search(text)]
    assert found == [".ci/run"]


def required_by(name: str, extra: str) -> Iterator[tuple[str, str]]:
    """The packages that an installed one requires on this machine, each with an extra or ""."""
    try:
        requirements = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:  # bench is not installed everywhere
        return
    for child in requirements:
        if child.marker is None or child.marker.evaluate({"extra": extra}):
            yield from ((child.name, child_extra) for child_extra in ("", *child.extras))


def test_no_page_installs_the_distribution_named_only_eventlog() -> None:
    """`eventlog` in a public registry is a different project: ours is signal-eventlog, or `.`."""
    by_name = re.compile(r"pip install[^`\n]*(?<!signal-)\beventlog(?!-env|/)\b")
    found = [name for name, text in texts_of_the_repository() if by_name.search(text)]
    assert found == []


def test_every_installed_package_is_pinned() -> None:
    """A new release of a dependency must not change the result of a test run."""
    lines = (CHECKOUT / "tools/constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    found: set[tuple[str, str]] = set()
    todo = {(DISTRIBUTION, "dev"), (DISTRIBUTION, "bench")}
    while todo:
        found |= todo
        todo = {child for name, extra in todo for child in required_by(name, extra)} - found
    names = {canonicalize_name(name) for name, _ in found}
    assert names - pinned == {DISTRIBUTION}


@pytest.mark.parametrize("ci", ["true", ""])
def test_without_real_prices_a_test_is_skipped_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv(PRICES_VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match=PRICES_VARIABLE):
        needs_prices()


def test_real_prices_are_read_from_the_directory_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(PRICES_VARIABLE, str(tmp_path))
    assert needs_prices() == tmp_path


@pytest.mark.parametrize(("ci", "outcome"), [("true", "Failed"), ("", "Skipped")])
def test_a_missing_tool_skips_by_name_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BaseException, match="apt-get install strace") as raised:
        needs_tool("strace", apt="strace")
    assert raised.typename == outcome
