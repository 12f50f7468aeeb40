"""`status` and /metrics: what was signed, how old it is, and what waits for a checkpoint."""

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from projections.evidence.signing.signing import create_key, sign_checkpoint
from projections.monitoring.evidence_status import evidence_status
from projections.monitoring.metrics import exposition
from projections.monitoring.snapshot import take_snapshot
from projections.monitoring.status import status
from tests.harness.command import eventlog
from tests.harness.log_checks import tree_contents
from tests.harness.raw_log import swap
from tests.harness.read_side import append
from tests.harness.signals import signals
from tests.projections.evidence.additions import add_cosignature, add_stamp, set_written

KEYS = [
    *("size", "checkpoint_age_seconds", "cosignature_age_seconds", "stamp_age_seconds"),
    *("is_restored", "lag_entries", "lag_seconds"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A log of three entries with a key."""
    home = tmp_path / "home"
    append(home, *signals(3))
    create_key(home, "log.example/main")
    return home


def figures(home: Path) -> dict[str, Any]:
    found = evidence_status(home)
    assert found is not None
    return found


def metrics(home: Path) -> dict[str, float]:
    text = exposition(asyncio.run(take_snapshot(home, []))).decode()
    found = re.findall(r"^(eventlog_evidence_\w+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_a_home_without_evidence_says_so(tmp_path: Path) -> None:
    append(tmp_path, *signals(1))
    assert status(tmp_path)["evidence"] is None
    assert metrics(tmp_path) == {}


def test_what_there_is_not_is_null(home: Path) -> None:
    found = figures(home)
    assert list(found) == KEYS
    assert found == {**dict.fromkeys(KEYS), **found, "lag_entries": 3, "is_restored": False}
    assert found["size"] is found["checkpoint_age_seconds"] is None
    assert 0 < found["lag_seconds"] < 60
    assert set(metrics(home)) == {"eventlog_evidence_lag_entries", "eventlog_evidence_lag_seconds"}


def test_it_has_the_size_the_ages_and_what_is_not_signed(home: Path) -> None:
    now_s = int(time.time())
    sign_checkpoint(home)
    append(home, *signals(2, start=4))
    set_written(home, 3, now_s - 50)
    add_cosignature(home, 3, now_s - 40)
    add_stamp(home, 3, now_s - 30)
    set_written(home, 3, now_s - 50)
    before = tree_contents(home)
    found = figures(home)
    assert tree_contents(home) == before
    assert (found["size"], found["lag_entries"]) == (3, 2)
    for name, age_s in (("checkpoint", 50), ("cosignature", 40), ("stamp", 30)):
        assert age_s <= found[f"{name}_age_seconds"] < age_s + 20
        assert found[f"{name}_age_seconds"] == pytest.approx(
            metrics(home)[f"eventlog_evidence_{name}_age_seconds"], abs=20
        )
    assert metrics(home)["eventlog_evidence_size"] == 3
    (home / "evidence" / "restored").touch()
    assert figures(home)["is_restored"] is True


def test_a_log_that_ends_before_what_was_signed_is_reported(home: Path, tmp_path: Path) -> None:
    sign_checkpoint(home)
    append(tmp_path / "other", *signals(1))
    swap(home, tmp_path / "other")
    found = figures(home)
    assert (found["lag_entries"], found["lag_seconds"]) == (None, None)
    assert found["problem"] == "3 entries were signed, and the log ends before that"


def test_a_directory_that_cannot_be_read_is_reported(home: Path) -> None:
    shutil.rmtree(home / "evidence")
    (home / "evidence").symlink_to(home)
    found = figures(home)
    assert found["problem"].startswith("evidence/ cannot be read: ")
    assert found.keys() == {*KEYS, "problem"}


def test_the_text_output_has_the_same_figures(home: Path) -> None:
    sign_checkpoint(home)
    done = eventlog("status", home=home)
    section = done.out.decode().partition("evidence:\n")[2].splitlines()
    lines = [line.split() for line in section]
    assert lines[0] == ["size", "3"]
    assert ["lag_entries", "0"] in lines
    assert ["stamp_age", "-"] in lines
    found = json.loads(eventlog("status", "--json", home=home).out)
    assert list(found) == ["log", "projections", "evidence", "backup"]
    assert list(found["evidence"]) == KEYS
