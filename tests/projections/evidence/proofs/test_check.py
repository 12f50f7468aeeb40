"""`evidence check` and the other commands: exit codes, and what is shown."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eventlog import EventLog
from projections.errors import NotProved
from projections.evidence.formats.checkpoint import Cosignature, Stamp
from projections.evidence.formats.keys import COSIGNER, parse_secret
from projections.evidence.proofs.check import check_proof
from projections.evidence.proofs.proof import parse_proof
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in
from tests.harness.signals import signals
from tests.projections.evidence.proofs.test_proof import WITNESS, proof
from tests.projections.evidence.vectors import lines, vectors

KEY = parse_secret(vectors()["secret"]).verifier


def test_a_proof_shows_the_entry_the_log_and_who_has_seen_it() -> None:
    found = check_proof(proof(1).to_bytes(), [KEY, WITNESS.verifier], quorum=1)
    assert (found.origin, found.size, found.entry.seq) == (KEY.name, 300, 2)
    assert found.to_text() == [
        "PROVED: entry 2 of 300 in the log eventlog.example/vectors",
        "  recorded_at 2025-11-18T02:00:01.123456Z (the operator's own clock)",
        "  seen by witness.example/vectors not later than 2025-11-29T10:40:00Z",
        lines()[1].decode(),
    ]
    time = "2025-11-29T10:40:00Z"
    assert found.to_json()["not_later_than"] == [
        {"by": "witness", "name": WITNESS.name, "time": time}
    ]
    stamp = Stamp(name=WITNESS.name, time_s=1764412800)
    assert replace(found, stamps=(stamp,)).to_json()["not_later_than"] == [
        {"by": by, "name": WITNESS.name, "time": time} for by in ("witness", "authority")
    ]


def test_a_quorum_counts_witnesses_that_were_named_and_have_signed() -> None:
    data = proof(1).to_bytes()
    assert check_proof(data, [KEY]).cosignatures == ()
    for keys, quorum in (([KEY], 1), ([KEY, WITNESS.verifier], 2)):
        with pytest.raises(NotProved, match="cosigned"):
            check_proof(data, keys, quorum=quorum)
    with pytest.raises(NotProved, match="twice"):
        check_proof(data, [KEY, WITNESS.verifier, WITNESS.verifier], quorum=2)
    own = parse_secret(vectors()["secret"])
    for key in (replace(WITNESS, name="b"), replace(own, kind=COSIGNER)):  # under another name
        with pytest.raises(NotProved, match="counts as one"):
            check_proof(data, [KEY, WITNESS.verifier, key.verifier], quorum=1)
    for keys in ([], [WITNESS.verifier], [KEY, replace(KEY, name="other")]):
        with pytest.raises(NotProved, match="one key of a log"):
            check_proof(data, keys)


def test_no_name_of_others_controls_the_terminal() -> None:
    found = check_proof(proof(1).to_bytes(), [KEY, WITNESS.verifier])
    hostile = "\N{RIGHT-TO-LEFT OVERRIDE}\x1b[2J\x9b31m"
    seen = (Cosignature(name=hostile, time_s=1),)
    stamps = (Stamp(name=hostile, time_s=1),)
    text = replace(found, origin=hostile, cosignatures=seen, stamps=stamps).to_text()
    assert "\n".join(text).count("\\u202e\\x1b[2J\\x9b31m") == 3
    assert all(line.isprintable() for line in text)


def test_a_line_that_is_no_entry_is_not_shown_as_one() -> None:
    with pytest.raises(NotProved, match="is not an entry"):
        check_proof(proof(256).to_bytes(), [KEY])


WITHOUT_CRYPTOGRAPHY = """
import sys
sys.modules["cryptography"] = None
from eventlog.cli.main import main
main()
"""


@pytest.mark.parametrize("words", [("check", "FILE", "--key", "x"), ("checkpoint",)])
def test_without_cryptography_a_command_names_the_extra(
    home: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "proof"
    file.write_bytes(proof(1).to_bytes())
    given = [str(file) if word == "FILE" else word for word in words]
    command = [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY, "--home", str(home), "evidence", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "pip install 'signal-eventlog[evidence]'" in done.stderr


@pytest.mark.slow
def test_from_the_first_key_to_a_checked_proof(home: Path, tmp_path: Path) -> None:
    with EventLog(home) as log:
        log.append_many(signals(3))
    assert eventlog("evidence", "key", "a b", home=home).code == 2
    made = eventlog("evidence", "key", "log.example/main", home=home)
    vkey = made.out.decode().strip()
    assert (made.code, vkey) == (0, (home / "evidence" / "vkey").read_text().strip())
    file = tmp_path / "2.tlog-proof"
    prove = ("evidence", "prove", "2", "--output", str(file))
    nowhere = eventlog("evidence", "page", "--output", tmp_path / "none" / "x.html")
    assert (nowhere.code, "do:    create the directory" in nowhere.err) == (3, True), nowhere.err
    early = eventlog(*prove, home=home)
    assert (early.code, early.out) == (1, b"")
    assert "NOT PROVED: no checkpoint was signed yet" in early.err
    signed = eventlog("evidence", "checkpoint", "--json", home=home)
    assert signed.answers[0]["size"] == 3
    assert Path(signed.answers[0]["path"]).is_file()
    assert eventlog(*prove, home=home).code == 0
    for bad in ("0", "a/b", "..", "1" * 19):
        assert eventlog("evidence", "prove", bad, home=home).code == 2
    assert parse_proof(file.read_bytes()).line + b"\n" == lines_in(home)[1]
    check = ("evidence", "check", str(file), "--key", vkey)
    checked = eventlog(*check, home=tmp_path / "no home")
    assert checked.code == 0
    assert checked.out.decode().startswith("PROVED: entry 2 of 3 in the log log.example/main\n")
    refused = eventlog("evidence", "check", str(file), "--key", vectors()["vkey"], home=home)
    assert refused.code == 1
    assert "NOT PROVED: " in refused.err
    assert eventlog("evidence", "check", str(file), "--key", "x", home=home).code == 2
    growth, kept = tmp_path / "growth", tmp_path / "kept"
    growth.write_bytes(eventlog("evidence", "consistency", "--from", "0", home=home).out)
    audit = ("evidence", "audit", str(growth), str(kept))
    first = (*audit, "--first", "--key")
    assert eventlog(*first, vectors()["vkey"], home=home).code == 1
    assert eventlog(*audit, "--key", vkey, home=home).code == 3
    assert not kept.exists()
    assert eventlog(*first, vkey, home=home).code == 0
    assert kept.read_bytes() == Path(signed.answers[0]["path"]).read_bytes()
