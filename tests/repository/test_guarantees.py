"""docs/guarantees.md names a test for each promise, and each is there."""

import ast
import re
from functools import cache

import pytest

from tests.harness.requirements import CHECKOUT

GUARANTEES = (CHECKOUT / "docs/guarantees.md").read_text()
# A promise is a list item at the margin, its tests are the items below it.
PROMISES = [
    (found[1] or "", found[2])
    for found in re.finditer(
        r"^- (?:\*\*(\w+)\.\*\* )?(.*?)(?=^- |^#|\Z)",
        GUARANTEES[GUARANTEES.index("\n## Append\n") :],
        re.DOTALL | re.MULTILINE,
    )
]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", GUARANTEES)))
# What the log must survive, by the failure catalogue; the rest is held by later rows.
IDS = {f"W{number}" for number in range(1, 16)} | {f"T{number}" for number in range(1, 7)}
IDS |= {"R1", "R2", "R3", "R4", "R6", "R7", "R8", "R9", "R10", "P1", "P3", "S1", "S3"}


@cache
def functions_in(path: str) -> frozenset[str]:
    """Names of all functions of a module."""
    tree = ast.parse((CHECKOUT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_each_test_that_proves_a_promise_exists(path: str, name: str) -> None:
    assert name in functions_in(path)


def test_each_fault_of_a_promise_is_in_the_table_of_faults() -> None:
    table = GUARANTEES.partition("\n## The faults\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| (\w+) \| ", table, re.MULTILINE)) - {"id"}
    assert explained == {fault for fault, _ in PROMISES if fault}


def test_each_promise_has_a_test_and_each_failure_has_a_promise() -> None:
    for _, text in PROMISES:
        tests = re.findall(r"^  - `tests/[\w/]+\.py::test_\w+`$", text, re.MULTILINE)
        assert tests, f"nothing proves: {text}"
    assert {fault for fault, _ in PROMISES} >= IDS
