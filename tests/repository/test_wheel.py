"""The published wheel is built from the source distribution and runs in an empty environment."""

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.harness.requirements import CHECKOUT

pytestmark = pytest.mark.slow
PACKAGES = {"eventlog", "projections"}
VERSION = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source distribution and the wheel that was made from it."""
    out = tmp_path_factory.mktemp("dist")
    # Without isolation the backend is the pinned one of this environment: nothing is fetched.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, CHECKOUT, cwd=out)
    return out


@pytest.fixture(scope="module")
def bin_dir(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment that holds the wheel and its dependencies, nothing else."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=dist)
    pip: tuple[str | Path, ...] = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        venv / "bin/python",
        "install",
        "--quiet",
    )
    constraints = CHECKOUT / "tools/constraints.txt"
    (wheel,) = dist.glob("*.whl")
    pip += ("--disable-pip-version-check", "--require-hashes", "--constraint", constraints)
    run(*pip, f"{wheel.as_uri()}#sha256={sha256(wheel.read_bytes()).hexdigest()}", cwd=dist)
    return venv / "bin"


def test_the_wheel_holds_exactly_the_two_packages(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == PACKAGES | {
        f"signal_eventlog-{VERSION}.dist-info"
    }
    modules = {str(p.relative_to(CHECKOUT)) for d in PACKAGES for p in (CHECKOUT / d).rglob("*.py")}
    typed = {f"{package}/py.typed" for package in PACKAGES}
    static = CHECKOUT / "projections/web/static"
    pages = {str(p.relative_to(CHECKOUT)) for p in static.rglob("*") if p.is_file()}
    handover = (CHECKOUT / "projections/evidence/handover").glob("*.html")
    pages |= {str(path.relative_to(CHECKOUT)) for path in handover}
    assert {
        "projections/web/static/page.html",
        "projections/evidence/handover/verify.html",
    } <= pages
    assert {name for name in names if name.split("/")[0] in PACKAGES} == modules | typed | pages


def test_the_source_distribution_holds_no_tools_and_no_tests(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        names = {name.split("/")[1] for name in tar.getnames()}
    papers = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert names == PACKAGES | papers | {"hatch_build.py", "man"}


def test_the_source_distribution_holds_the_man_pages(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    # In a process of its own: click keeps the help options of a command that a test has parsed.
    program = "import json, sys; from hatch_build import man_pages_of; from pathlib import Path;"
    program += "print(json.dumps(man_pages_of(Path(sys.argv[1]), sys.argv[2])))"
    pages = json.loads(run(sys.executable, "-c", program, CHECKOUT, VERSION, cwd=CHECKOUT))
    assert {"eventlog.1", "eventlog-append.1", "eventlog-parked-retry.1"} <= set(pages)
    with tarfile.open(sdist) as tar:
        members = [member for member in tar.getmembers() if "/man/" in member.name]
        files = [(member.name, tar.extractfile(member)) for member in members]
        found = {Path(name).name: file.read().decode() for name, file in files if file is not None}
    assert found == pages
    assert not (CHECKOUT / "man").exists(), "a page is made, and never stored"


def test_the_command_runs_in_an_empty_environment(bin_dir: Path, tmp_path: Path) -> None:
    assert VERSION in run(bin_dir / "eventlog", "--version", cwd=tmp_path)
    assert "append" in run(bin_dir / "eventlog", "--help", cwd=tmp_path)
    assert VERSION in run(bin_dir / "python", "-m", "eventlog", "--version", cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_both_packages_import_in_an_empty_environment(bin_dir: Path, tmp_path: Path) -> None:
    run(bin_dir / "python", "-W", "error", "-c", "import eventlog, projections", cwd=tmp_path)
