"""The commands of an operator who restores, and of a witness: output, exit codes, usage."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eventlog import EventLog, LogDiverged, UnsafePath, back_up, restore_home
from eventlog.plumbing import CommandContext
from projections.cli.evidence.group import evidence
from projections.errors import ProjectionError
from projections.evidence.formats.keys import COSIGNER, parse_vkey
from projections.evidence.formats.note import parse_signatures
from tests.harness.read_side import project
from tests.harness.signals import a_signal, signals
from tests.projections.evidence.additions import WITNESS, add_cosignature

NOW = "2025-11-19T00:00:00.000000Z"


def run(home: Path, *words: object) -> Result:
    return CliRunner().invoke(
        evidence,
        [str(word) for word in words],
        obj=CommandContext(home=str(home)),
        help_option_names=["-h", "--help"],  # as in `eventlog`: a command keeps its help option
    )


def done(home: Path, *words: object) -> str:
    found = run(home, *words)
    assert (found.exit_code, found.exception) == (0, None), found.output
    return found.stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(5))
    done(home, "key", "log.example/main")
    return home


def test_a_restored_home_signs_again(home: Path, tmp_path: Path) -> None:
    backup, new, key_file = tmp_path / "backup", tmp_path / "new", tmp_path / "key"
    shutil.copy(home / "evidence" / "key", key_file)
    back_up(home, backup, now=NOW)
    assert json.loads(done(home, "checkpoint", "--backed-up", backup, "--json"))["size"] == 5
    newest = done(home, "checkpoint")
    restore_home(backup, new)
    resume = ("resume", "--newest", newest, "--key-file", key_file)
    assert run(new, "checkpoint").exit_code == 1  # an EventLogError: `main` ends with 3
    assert json.loads(done(new, *resume, "--json")) == {
        "path": str(new / "evidence" / Path(newest).name),
        "size": 5,
        "is_new": True,
    }
    assert done(new, *resume) == done(new, "checkpoint")
    (tmp_path / "other").write_text(Path(newest).read_text().replace("\n5\n", "\n4\n"))
    found = run(new, "resume", "--newest", tmp_path / "other", "--key-file", key_file)
    assert (found.exit_code, found.stdout) == (1, "")
    shutil.rmtree(new / "logs")
    with EventLog(new) as log:
        log.append_many(signals(5, start=100))
    assert isinstance(run(new, *resume).exception, LogDiverged)


def test_a_witness_cosigns_and_the_proof_counts_it(home: Path, tmp_path: Path) -> None:
    key_file, growth, kept = tmp_path / "witness", tmp_path / "growth", tmp_path / "kept"
    vkey = (home / "evidence" / "vkey").read_text().strip()
    witness = done(home, "witness-key", "w.example.org", key_file)
    assert (parse_vkey(witness).kind, key_file.stat().st_mode & 0o777) == (COSIGNER, 0o600)
    done(home, "checkpoint")
    growth.write_text(done(home, "consistency", "--from", 0) + "\n")
    words = ("audit", growth, kept, "--key", vkey, "--cosign", key_file)
    assert isinstance(run(home, *words).exception, ProjectionError)
    line = done(home, *words, "--first")
    assert line.startswith("\N{EM DASH} w.example.org ")
    assert line.count("\n") == 0
    as_json = done(home, "audit", growth, kept, "--key", vkey, "--cosign", key_file, "--json")
    assert json.loads(as_json)["cosignature"].startswith("\N{EM DASH} w.example.org ")
    answer, proof = tmp_path / "answer", tmp_path / "proof"
    answer.write_text(line + "\n")
    said = done(home, "cosigned", answer, "--key", witness)
    assert said.startswith("the checkpoint of 5 entries was seen by w.example.org not later than 2")
    done(home, "prove", 2, "--output", proof)
    assert "seen by w.example.org" in done(
        home, "check", proof, "--key", vkey, "--key", witness, "--quorum", 1
    )
    answer.write_text(line[:-2] + "\n")
    assert run(home, "cosigned", answer, "--key", witness).exit_code == 1


def test_a_witness_signs_no_time_before_its_file_was_there(home: Path, tmp_path: Path) -> None:
    """FILE may be a pipe that the operator fills late."""
    key_file, pipe = tmp_path / "witness", tmp_path / "pipe"
    vkey = (home / "evidence" / "vkey").read_text().strip()
    witness = parse_vkey(done(home, "witness-key", "w.example.org", key_file))
    done(home, "checkpoint")
    growth = done(home, "consistency", "--from", 0) + "\n"
    os.mkfifo(pipe)
    written_s: list[int] = []

    def write_late() -> None:
        with pipe.open("w") as file:  # returns once the command has opened it
            begun_s = int(time.time())
            while int(time.time()) == begun_s:
                time.sleep(0.01)
            written_s.append(int(time.time()))
            file.write(growth)

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write_late)
        words = ("audit", pipe, tmp_path / "kept", "--key", vkey, "--first", "--cosign", key_file)
        (line,) = parse_signatures(done(home, *words) + "\n")
        writing.result()
    time_s = witness.verify(
        growth.partition("\n\n")[2].partition("\n\n")[0].encode() + b"\n", line.value
    )
    assert time_s is not None
    assert time_s >= written_s[0]


def test_an_audit_that_refuses_says_so_to_a_program(home: Path, tmp_path: Path) -> None:
    growth, vkey = tmp_path / "growth", (home / "evidence" / "vkey").read_text().strip()
    growth.write_text("nothing\n")
    found = run(home, "audit", growth, tmp_path / "kept", "--key", vkey, "--first", "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout) == {
        "proved": False,
        "reason": "the file does not begin with the size that it continues; give what `eventlog"
        " evidence consistency` prints",
    }


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["cosigned", "{file}", "--key", "{vkey}"], "the vkey of a log"),
        (["cosigned", "{file}", "--key", "x"], "--key: "),
        (["check", "{file}", "--key", "{vkey}", "--quorum", "1"], "--quorum 1 needs as many"),
        (["check", "{file}", "--key", "{vkey}", "--key", "{vkey}"], "one key of a log is needed"),
        (["check-statement", "{file}", "--key", "{vkey}", "--quorum", "4"], "0 were named"),
        (["witness-key", "two words", "{file}.new"], "NAME must be printable"),
        (["resume", "--newest", "{file}"], "--key-file"),
        (["resume", "--newest", "{file}.none", "--key-file", "{file}"], "does not exist"),
    ],
)
def test_wrong_usage_is_named(home: Path, tmp_path: Path, words: list[str], problem: str) -> None:
    file = tmp_path / "file"
    file.write_text("nothing\n")
    vkey = (home / "evidence" / "vkey").read_text().strip()
    found = run(home, *(word.format(file=file, vkey=vkey) for word in words))
    assert (found.exit_code, problem in found.output) == (2, True), found.output


def test_a_checkpoint_that_was_cosigned_late_is_chosen_by_its_size(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Witnesses answer after the next checkpoint was signed."""

    def said(code: int, *words: object) -> str:
        caplog.clear()
        found = run(home, *words)
        assert found.exit_code == code, found.output
        return caplog.text

    proof, whole = tmp_path / "proof", tmp_path / "statement"
    vkey = (home / "evidence" / "vkey").read_text().strip()
    witness = replace(WITNESS, name="w.example.org").verifier.to_text()
    quorum = ("--key", vkey, "--key", witness, "--quorum", 1)
    done(home, "checkpoint")
    with EventLog(home) as log:
        log.append_many(signals(2, start=100))
    done(home, "checkpoint")
    by_newest = said(0, "prove", 2, "--output", proof)
    assert "entry 2, signal of s-2, by the checkpoint of 7 entries" in by_newest
    assert "--size" not in by_newest
    add_cosignature(home, 5, 1764412800, by="w.example.org")
    hint = "that of 5 entries has a cosignature, which this one lacks: choose with --size"
    assert hint in said(0, "prove", 2, "--output", proof)
    assert "with --size" in said(1, "check", proof, *quorum)
    assert "--size" not in said(0, "prove", 6, "--output", proof)
    assert "--size" not in said(0, "prove", 2, "--size", 5, "--output", proof)
    assert "of 5 in the log" in done(home, "check", proof, *quorum)
    assert hint in said(0, "statement", "--output", whole)
    assert "with --size" in said(1, "check-statement", whole, *quorum)
    done(home, "statement", "--size", 5, "--output", whole)
    assert "all 5 entries" in done(home, "check-statement", whole, *quorum)
    none = tmp_path / "none"
    assert "such as 5, 7" in said(1, "statement", "--size", 6, "--output", none)
    assert "no checkpoint of 6 entries is kept" in said(1, "prove", 2, "--size", 6)
    assert "does not cover entry 6" in said(1, "prove", 6, "--size", 5, "--output", none)
    assert "no checkpoint covers entry 8" in said(1, "prove", 8, "--size", 5, "--output", none)
    assert not none.exists()


def test_a_number_can_be_a_signal_id(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(home) as log:
        log.append(a_signal(1, signal_id="5"))
    done(home, "checkpoint")
    project(home)
    done(home, "prove", 5, "--output", tmp_path / "proof")
    assert "entry 5, signal of s-5, " in caplog.text
    done(home, "prove", "--signal-id", 5, "--output", tmp_path / "proof")
    assert "entry 6, signal of 5, " in caplog.text


def test_the_page_is_written_into_the_directory_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert done(Path(), "page") == "verify.html"
    with EventLog(tmp_path) as log:
        log.append_many(signals(1))
    assert isinstance(run(Path(), "page").exception, UnsafePath)
