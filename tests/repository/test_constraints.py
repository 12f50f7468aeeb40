"""What is installed has exact versions, and the hashes of what a registry may give for them."""

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.harness.requirements import CHECKOUT

CONSTRAINTS = CHECKOUT / "tools" / "constraints.txt"
BROWSER = CHECKOUT / "tests" / "browser"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


def requirements() -> dict[str, list[str]]:
    """The hashes of each `name==version`; a backslash continues a line."""
    text = CONSTRAINTS.read_text().replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    return {
        line.split()[0]: HASH.findall(line) for line in lines if line and not line.startswith("#")
    }


def test_every_constraint_has_a_version_and_a_hash() -> None:
    found = requirements()
    assert len(found) > 50
    assert [name for name in found if not re.fullmatch(r"[A-Za-z0-9_.-]+==[^*<>=~!]+", name)] == []
    assert [name for name, hashes in found.items() if not hashes] == []


def test_hashes_are_of_one_package_each() -> None:
    hashes = [hash_ for found in requirements().values() for hash_ in found]
    assert hashes, "no package has a hash"
    assert len(hashes) == len(set(hashes))


def test_what_the_tools_install_is_compared_with_the_hashes() -> None:
    setup = (CHECKOUT / "tools" / "_setup").read_text().replace("\\\n", " ")
    code = [line for line in setup.splitlines() if not line.lstrip().startswith("#")]
    installs = [line for line in code if '"${install[@]}" --' in line and "apt" not in line]
    assert sum("--require-hashes" in line for line in installs) == 2
    assert [line for line in installs if "--require-hashes" not in line] == [
        '    "${install[@]}" --no-index --no-deps --no-build-isolation --editable .'
    ]
    assert [line for line in code if "pip install" in line and "install=(" not in line] == []


def test_every_package_of_npm_has_a_version_and_a_hash_and_names_no_registry() -> None:
    wanted = json.loads((BROWSER / "package.json").read_text())["dependencies"]
    lock = json.loads((BROWSER / "package-lock.json").read_text())["packages"]
    assert lock.pop("")["dependencies"] == wanted
    assert {name.removeprefix("node_modules/") for name in lock} == set(wanted)
    for name, version in wanted.items():
        found = lock[f"node_modules/{name}"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert found["version"] == version
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", found["integrity"])
        assert "resolved" not in found


@pytest.mark.slow
def test_another_file_of_a_pinned_version_is_refused(tmp_path: Path) -> None:
    """Whatever a package index or a mirror gives, only the bytes that are named are installed."""
    (pinned,) = (name for name in requirements() if name.startswith("iniconfig=="))
    version = pinned.removeprefix("iniconfig==")
    wheel = tmp_path / f"iniconfig-{version}-py3-none-any.whl"
    info = f"iniconfig-{version}.dist-info"
    with ZipFile(wheel, "w") as archive:
        for name, text in (
            ("METADATA", f"Metadata-Version: 2.1\nName: iniconfig\nVersion: {version}"),
            ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"),
            ("RECORD", ""),
        ):
            archive.writestr(f"{info}/{name}", text)
    own = tmp_path / "own.txt"
    own.write_text(f"{pinned} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")

    def install(constraints: Path) -> subprocess.CompletedProcess[str]:
        words = ["-m", "pip", "--isolated", "install", "--no-index", "--find-links", str(tmp_path)]
        words += ["--target", str(tmp_path / "out"), "--require-hashes", "--constraint"]
        words += [str(constraints), "iniconfig"]
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)

    assert install(own).returncode == 0
    refused = install(CONSTRAINTS)
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
