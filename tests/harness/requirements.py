"""Requirements of tests beyond Python packages: system tools, test data and real prices.

Invariant: with CI=true a missing system tool fails the test and is named; only tests on real
prices, which the repository does not hold, are skipped there.
"""

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TEST_DATA = CHECKOUT / "tests/data"
DISTRIBUTION = "signal-eventlog"  # the name that is installed, as in pyproject.toml
PRICES_VARIABLE = "EVENTLOG_TEST_PRICES"


def needs_tool(command: str, *, apt: str) -> str:
    """Return the path of `command`, which Debian has in the package `apt`."""
    assert (command, apt) in _listed_tools(), f"tools/apt.txt must list {command} and {apt}"
    path = shutil.which(command)
    if path is None:
        reason = f"{command} is not installed: sudo apt-get install {apt}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def needs_prices() -> Path:
    """Return the directory of real daily prices that EVENTLOG_TEST_PRICES names, or skip."""
    directory = os.environ.get(PRICES_VARIABLE)
    if not directory:
        pytest.skip(f"{PRICES_VARIABLE} is not set: it names a directory of daily price files")
    return Path(directory)


def _listed_tools() -> set[tuple[str, str]]:
    """Return the commands and packages of tools/apt.txt."""
    lines = (CHECKOUT / "tools/apt.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {(command, package) for command, package, *_ in rows}
