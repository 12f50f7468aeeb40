"""The page Evidence and the proofs of the console: what was signed, now and as of a past time."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from projections.evidence.formats.keys import parse_vkey
from projections.evidence.proofs.check import check_proof
from projections.evidence.signing.signing import create_key, sign_checkpoint
from projections.web.answers import Redactor
from projections.web.views.verdict import verdict
from projections.web.views.vitals import take_sample
from tests.harness.command import eventlog
from tests.harness.console import WebConsole, console
from tests.harness.log_checks import tree_contents
from tests.harness.raw_log import EPOCH, RawLog
from tests.harness.read_side import append, project
from tests.harness.signals import a_signal, signals
from tests.projections.evidence.additions import (
    WITNESS,
    add_cosignature,
    add_stamp,
    checkpoint_path,
    set_written,
)
from tests.projections.top.test_view import stored_payload

START_S = int(EPOCH.timestamp()) + 60  # after the last entry


def text(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of 2 and of 4 entries, 10 and 30 s after them; the first has more, later still.

    A fifth entry is not signed. The entries are of 2025. No test changes it.
    """
    home = tmp_path_factory.mktemp("evidence") / "home"
    log = RawLog(home)
    for number, size in ((1, 2), (3, 4), (5, None)):
        numbers = (number, number + 1) if size else (number,)
        log.add([("signal", stored_payload(a_signal(each))) for each in numbers])
        if size == 2:
            create_key(home, "log.example/main")
        if size:
            sign_checkpoint(home)
    project(home)
    add_cosignature(home, 2, START_S + 20)
    add_stamp(home, 2, START_S + 25)
    for size, later_s in ((2, 10), (4, 30)):
        set_written(home, size, START_S + later_s)
    return home


@pytest.fixture(scope="module")
def web(home: Path) -> Iterator[WebConsole]:
    with console(home, "--no-login") as found:
        yield found


def test_it_shows_what_was_signed(home: Path, web: WebConsole) -> None:
    before = tree_contents(home / "evidence")
    found = web.get("/api/evidence")
    seen = {"name": WITNESS.name, "at": text(START_S + 20)}
    assert found["rows"][1] == {
        "size": 2,
        "written_at": text(START_S + 10),
        "cosignatures": [seen],
        "stamps": [text(START_S + 25)],
    }
    assert [row["size"] for row in found["rows"]] == [4, 2]
    assert found["vkey"] == (home / "evidence" / "vkey").read_text().strip()
    assert found["newest"] == checkpoint_path(home, 4).read_text()
    assert found["left_out"] == 0
    command = json.loads(eventlog("status", "--json", home=home).out)["evidence"]
    for key in ("size", "lag_entries", "is_restored"):
        assert found["evidence"][key] == command[key]
        assert web.get("/api/status")["evidence"][key] == command[key]
    assert (found["evidence"]["size"], found["evidence"]["lag_entries"]) == (4, 1)
    assert tree_contents(home / "evidence") == before


@pytest.mark.parametrize(
    ("after_s", "sizes", "cosigned", "stamped"),
    [(5, [], 0, 0), (15, [2], 0, 0), (21, [2], 1, 0), (26, [2], 1, 1), (35, [4, 2], 1, 1)],
)
def test_as_of_a_time_nothing_is_shown_that_was_signed_later(
    web: WebConsole,
    after_s: int,
    sizes: list[int],
    cosigned: int,
    stamped: int,
) -> None:
    found = web.get("/api/evidence", as_of=text(START_S + after_s))
    assert [row["size"] for row in found["rows"]] == sizes
    assert sum(len(row["cosignatures"]) for row in found["rows"]) == cosigned
    assert sum(len(row["stamps"]) for row in found["rows"]) == stamped
    # The vkey has no time: it is shown with what it signed.
    assert (found["vkey"] is not None) == bool(sizes)
    assert found["newest"] is None
    assert found["evidence"]["size"] == (sizes[0] if sizes else None)
    assert found["evidence"]["lag_entries"] == 5 - (sizes[0] if sizes else 0)


def test_as_of_an_entry_nothing_is_shown_that_was_signed_after_it(web: WebConsole) -> None:
    assert web.get("/api/evidence", as_of_seq=5)["rows"] == []
    assert web.get("/api/evidence", as_of_seq=0)["rows"] == []
    assert web.get("/api/status", as_of_seq=4)["evidence"] is None


def test_a_proof_is_made_for_what_a_checkpoint_covers(home: Path, web: WebConsole) -> None:
    key = parse_vkey(web.get("/api/evidence")["vkey"])
    before = tree_contents(home / "data" / "tree")
    for seq in (1, 4):
        answer = web.request(f"/api/proofs/{seq}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"].endswith(f'"entry-{seq}.tlog-proof"')
        found = check_proof(answer.content, [key])
        assert (found.entry.seq, found.size) == (seq, 4)
        assert web.get(f"/api/signals/{seq}")["signed_size"] == 4
    assert tree_contents(home / "data" / "tree") == before
    assert web.get("/api/signals/1", as_of_seq=5)["signed_size"] is None


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/api/proofs/5", 409, "no checkpoint covers entry 5 yet"),
        ("/api/proofs/1?as_of_seq=5", 409, "a proof is made as of now"),
        ("/api/proofs/6", 404, "there is no entry 6"),
        ("/api/proofs/5?as_of_seq=4", 404, "there is no entry 5"),
        ("/api/proofs/0", 404, "there is no entry 0"),
        (f"/api/proofs/{10**30}", 404, "there is no entry"),
    ],
)
def test_a_proof_that_there_is_not_is_refused_in_words(
    web: WebConsole, path: str, status: int, reason: str
) -> None:
    answer = web.request(path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(reason)
    assert answer.json()["do"]


def test_a_tree_that_cannot_prove_an_entry_is_not_built_by_the_console(
    home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "home"
    shutil.copytree(home, copy)
    leaves = bytearray((copy / "data" / "tree" / "0").read_bytes())
    leaves[40] ^= 1  # of entry 2, which the path of entry 1 holds
    (copy / "data" / "tree" / "0").write_bytes(leaves)
    with console(copy, "--no-login") as web:
        assert web.request("/api/proofs/1").status_code == 503
        assert (copy / "data" / "tree" / "0").read_bytes() == leaves
        shutil.rmtree(copy / "data" / "tree")
        assert [check["text"] for check in checks(copy)] == ["A checkpoint covers 4 of 5 entries"]
        answer = web.request("/api/proofs/1")
        assert answer.status_code == 503
        assert "eventlog evidence prove 1" in answer.json()["do"]
        assert not (copy / "data" / "tree").exists()
        shutil.rmtree(copy / "evidence")
        found = web.get("/api/evidence")
        assert (found["evidence"], found["vkey"], found["rows"]) == (None, None, [])
        (copy / "evidence").symlink_to(copy)
        answer = web.request("/api/evidence")
        assert answer.status_code == 503
        assert str(copy) not in answer.text
        assert web.get("/api/signals/1")["signed_size"] is None


def checks(home: Path) -> list[dict[str, object]]:
    found = take_sample(home, Redactor(home)).checks
    return [check for check in found if check["name"] == "evidence"]


def reasons(home: Path) -> list[tuple[str, str]]:
    """Level and text of the reasons that lead to the page."""
    sample = take_sample(home, Redactor(home))
    found = verdict({}, problem=None, findings=None, evidence=sample.evidence)["reasons"]
    assert isinstance(found, list)
    return [(one["level"], one["text"]) for one in found if one["href"] == "/evidence"]


def test_the_overview_names_what_keeps_entries_from_being_signed(
    home: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "home"
    append(copy, *signals(1))
    assert (checks(copy), reasons(copy)) == ([], [])
    shutil.copytree(home / "evidence", copy / "evidence")
    (check,) = checks(copy)
    assert (check["state"], reasons(copy)[0][0]) == ("bad", "bad")
    shutil.rmtree(copy / "logs")
    shutil.copytree(home / "logs", copy / "logs")
    (check,) = checks(copy)
    assert (check["state"], check["at"]) == ("warn", text(START_S + 30))
    assert reasons(copy) == [("warn", "No checkpoint covers the last 1 entry")]
    (copy / "evidence" / "restored").touch()
    assert reasons(copy) == [("warn", "This home was restored, and signs nothing yet")]
    (copy / "evidence" / "restored").unlink()
    sign_checkpoint(copy)
    assert checks(copy)[0]["state"] == "ok"
    assert reasons(copy) == []
