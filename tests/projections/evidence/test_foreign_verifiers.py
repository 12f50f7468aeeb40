"""Programs that are not ours accept our proofs, and refuse each with one byte changed.

Each runs in a process of its own. tools/_setup installs what is not of Debian: the extra
`verifiers` from PyPI, and `.verifiers` from npm.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.formats.keys import parse_secret
from projections.evidence.proofs.growth import Growth
from tests.harness.requirements import CHECKOUT, needs_tool
from tests.projections.evidence.proofs.test_proof import proof
from tests.projections.evidence.vectors import tree, vectors

KEY = parse_secret(vectors()["secret"])
VKEY = KEY.verifier.to_text()
PROGRAMS = Path(__file__).parent / "verifiers"
PACKAGES = CHECKOUT / ".verifiers" / "node_modules"
GO_PACKAGES = Path("/usr/share/gocode")  # where Debian has the sources of Go packages

Accepts = Callable[[list[Path]], list[bool]]


def run(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(word) for word in words]
    return subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_by_one(*words: object, scratch: Path | None = None, **env: str) -> Accepts:
    """A program that takes one proof, and exits with 0 if it accepts it."""

    def accepts(files: list[Path]) -> list[bool]:
        last = () if scratch is None else (scratch,)
        return [
            run(*words, VKEY, "inclusion", file, *last, **env).returncode == 0 for file in files
        ]

    return accepts


def openssl(scratch: Path) -> Accepts:
    needs_tool("openssl", apt="openssl")
    needs_tool("xxd", apt="xxd")
    return one_by_one("bash", PROGRAMS / "openssl.sh", scratch=scratch)


def sigstore_of_npm(_scratch: Path) -> Accepts:
    node = needs_tool("node", apt="nodejs")
    if not (PACKAGES / "@sigstore").is_dir():
        missing("the packages of npm are not installed: run tools/test, which installs them")
    return one_by_one(node, PROGRAMS / "sigstore.cjs", NODE_PATH=str(PACKAGES))


def sigstore_of_pypi(_scratch: Path) -> Accepts:
    def accepts(files: list[Path]) -> list[bool]:
        done = run(sys.executable, PROGRAMS / "sigstore_python.py", VKEY, "inclusion", *files)
        assert done.returncode == 0, done.stderr
        return [line == "accepted" for line in done.stdout.splitlines()]

    return accepts


def metamorphic(_scratch: Path) -> Accepts:
    return one_by_one(sys.executable, PROGRAMS / "metamorphic.py")


def go(scratch: Path) -> Accepts:
    return one_by_one(compiled(scratch))


def compiled(scratch: Path) -> Path:
    """The program in Go, built from the packages of Debian alone."""
    compiler = needs_tool("go", apt="golang-go")
    if not (GO_PACKAGES / "src/golang.org/x/mod/sumdb").is_dir():
        missing("Go's package is not installed: sudo apt-get install golang-golang-x-mod-dev")
    source, program = scratch / "src" / "verify", scratch / "verify"
    shutil.copytree(PROGRAMS / "go", source)
    paths = {"GOPATH": f"{scratch}:{GO_PACKAGES}", "GOCACHE": str(scratch / "cache")}
    offline = {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    done = run(compiler, "build", "-o", program, "verify", **paths, **offline)
    assert done.returncode == 0, done.stderr
    return program


def missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def changed(data: bytes, at: int) -> bytes:
    """The file with one character of base64 replaced by another."""
    return data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]


def write(folder: Path, *contents: bytes) -> list[Path]:
    files = [folder / f"file-{number}" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


@pytest.mark.parametrize(
    "program",
    [
        openssl,
        metamorphic,
        pytest.param(go, marks=pytest.mark.slow),
        pytest.param(sigstore_of_npm, marks=pytest.mark.slow),
        pytest.param(sigstore_of_pypi, marks=pytest.mark.slow),
    ],
    ids=lambda program: program.__name__,
)
def test_a_proof_is_accepted_and_no_changed_one(
    tmp_path: Path, program: Callable[[Path], Accepts]
) -> None:
    accepts = program(tmp_path)
    first, data = proof(1).to_bytes(), proof(256).to_bytes()
    line, path = data.index(b"extra ") + 10, data.index(b"index 256\n") + len("index 256\n") + 3
    root, signature = data.index(b"300\n") + 8, data.rindex(b"vectors K/bF") + 20
    wrong = [changed(data, at) for at in (line, path, root, signature)]
    wrong.append(data.replace(b"index 256\n", b"index 255\n"))
    files = write(tmp_path, first, data, *wrong)
    assert accepts(files) == [True, True] + [False] * len(wrong)


def checkpoint(size: int) -> bytes:
    return sign_head(SignedHead(origin=KEY.name, size=size, root=tree().root(size)), KEY).to_bytes()


@pytest.mark.parametrize("program", ["metamorphic", pytest.param("go", marks=pytest.mark.slow)])
def test_growth_is_accepted_and_no_changed_one(tmp_path: Path, program: str) -> None:
    words: tuple[object, ...] = (sys.executable, PROGRAMS / "metamorphic.py")
    if program == "go":
        words = (compiled(tmp_path),)
    path = tree().consistency(300, 600)
    data = Growth(old_size=300, path=path, checkpoint=checkpoint(600)).to_bytes()
    forked = sign_head(SignedHead(origin=KEY.name, size=300, root=tree().root(299)), KEY).to_bytes()
    hashes, signature = data.index(b"\n") + 10, data.rindex(b"vectors K/bF") + 20
    wrong = [changed(data, hashes), changed(data, data.index(b"600\n") + 8)]
    wrong.append(changed(data, signature))
    old, fork, right, *files = write(tmp_path, checkpoint(300), forked, data, *wrong)

    def accepts(old: Path, growth: Path) -> bool:
        return run(*words, VKEY, "consistency", old, growth).returncode == 0

    assert accepts(old, right)
    assert not accepts(fork, right)
    assert not any(accepts(old, file) for file in files)
