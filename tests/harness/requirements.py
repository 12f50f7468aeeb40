"""What a test needs that a checkout does not bring: system tools, and the material beside it.

Invariant: with CI=true nothing is skipped for want of either; it fails and says what is missing.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def needs_tool(command: str, *, apt: str) -> str:
    """The path of `command`, which Debian has in the package `apt`."""
    assert (command, apt) in _tools_installed(), f"tools/apt.txt must list {command} and {apt}"
    path = shutil.which(command)
    if path is None:
        _missing(f"{command} is not installed: sudo apt-get install {apt}")
    return path


def needs_shared(name: str) -> Path:
    """The path of `name` in the directory `shared` beside the checkout."""
    path = CHECKOUT.parent / "shared" / name
    if not path.exists():
        _missing(f"../shared/{name} is absent: it is kept beside the checkout, not in it")
    return path


def _tools_installed() -> set[tuple[str, str]]:
    """Commands and packages that tools/test installs where it may."""
    lines = (CHECKOUT / "tools/apt.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {(command, package) for command, package, *_ in rows}


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
