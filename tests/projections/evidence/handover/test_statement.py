"""Statements: all lines of a log and their figures, or a reason."""

import json
import random
from collections.abc import Callable
from io import BytesIO
from itertools import count
from pathlib import Path

import pytest

from eventlog import EventLog
from projections import SignalStore
from projections.errors import NotProved, ProjectionError
from projections.evidence.formats.checkpoint import SignedHead, sign_head
from projections.evidence.formats.keys import (
    COSIGNER,
    SigningKey,
    VerifierKey,
    new_key,
    parse_secret,
)
from projections.evidence.formats.merkle import RunningRoot, leaf_hash
from projections.evidence.formats.note import cosign, parse_note, with_signatures
from projections.evidence.handover.check_statement import CheckedStatement, check_statement
from projections.evidence.handover.statement import PIECE_BYTES, head_bytes
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.command import eventlog
from tests.harness.log_checks import lines_in
from tests.harness.read_side import project
from tests.harness.signals import signals
from tests.projections.evidence.handover.homes import LINES, ORIGIN, signed_home, statement_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("statement") / "home"


@pytest.fixture(scope="module")
def key(home: Path) -> VerifierKey:
    return signed_home(home)


@pytest.fixture(scope="module")
def data(home: Path, key: VerifierKey) -> bytes:
    return statement_of(home)


@pytest.fixture
def check(key: VerifierKey, tmp_path: Path) -> Callable[..., CheckedStatement]:
    def found(data: bytes, *keys: VerifierKey, quorum: int = 0) -> CheckedStatement:
        file = BytesIO(data)
        return check_statement(file, [key, *keys], quorum=quorum, scratch_parent=tmp_path)

    return found


Check = Callable[..., CheckedStatement]


def test_a_statement_holds_its_checkpoint_and_all_lines(home: Path, data: bytes) -> None:
    (checkpoint,) = (home / "evidence").glob("*.checkpoint")
    lines = b"".join(lines_in(home))
    assert data == b"eventlog statement v1\n" + checkpoint.read_bytes() + b"\n" + lines


def test_its_figures_are_those_of_stats_over_the_same_lines(
    home: Path, data: bytes, check: Check, tmp_path: Path
) -> None:
    found = check(data)
    project(home)
    with SignalStore.open(home) as store:
        assert found.stats == store.stats()
        assert list(found.by_strategy) == store.stats(by="strategy")
    assert (found.origin, found.size) == (ORIGIN, LINES)
    assert list(tmp_path.iterdir()) == []  # the table is gone


def test_lines_behind_the_checkpoint_are_in_neither_statement_nor_figures(
    home: Path, data: bytes, check: Check
) -> None:
    before = check(data)
    with EventLog(home) as log:
        log.append_many(signals(3, start=9000))
    assert statement_of(home) == data
    assert check(statement_of(home)) == before


def test_no_line_can_be_left_out_added_moved_or_changed(
    home: Path, data: bytes, check: Check
) -> None:
    lines = lines_in(home)[:LINES]
    head = data[: data.index(lines[0])]
    other = lines[7].replace(b"150.0", b"151.0") if b"150.0" in lines[7] else lines[7][:-1] + b" \n"
    for changed in (
        lines[1:],
        lines[:-1],
        lines[:100] + lines[101:],
        [*lines, *lines_in(home)[LINES:], lines[-1]],
        [*lines[:5], lines[6], lines[5], *lines[7:]],
        [*lines[:7], other, *lines[8:]],
        [*lines[:-1], lines[-1][:-1]],
        [*lines, b"\n"],
        [],
    ):
        with pytest.raises(NotProved):
            check(head + b"".join(changed))


def test_no_byte_can_be_changed(data: bytes, check: Check) -> None:
    chance = random.Random(3)
    for at in [*range(0, 200, 7), *chance.sample(range(len(data)), 25)]:
        with pytest.raises(NotProved):
            check(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])


def test_lines_that_were_signed_but_are_no_log_are_refused(
    home: Path, key: VerifierKey, check: Check
) -> None:
    """The owner of the key signs a selection of the lines: each follows no line before it."""
    signer = SigningKey(name=ORIGIN, kind=key.kind, seed=secret_of(home).seed)
    lines = lines_in(home)[:LINES][::2]
    running = RunningRoot()
    for line in lines:
        running.add(leaf_hash(line[:-1]))
    head = SignedHead(origin=ORIGIN, size=len(lines), root=running.root())
    cherries = head_bytes(sign_head(head, signer).to_bytes()) + b"".join(lines)
    with pytest.raises(NotProved, match="entry 2 is missing: the line says seq 3"):
        check(cherries)


def secret_of(home: Path) -> SigningKey:
    return parse_secret((home / "evidence" / "key").read_text().rstrip("\n"))


def test_a_statement_of_another_log_or_without_lines_is_refused(data: bytes, check: Check) -> None:
    other = new_key("other.example").verifier
    file = BytesIO(data)
    with pytest.raises(NotProved, match=r"the key of 'other\.example'"):
        check_statement(file, [other], scratch_parent=Path("/nonexistent"))
    header = b"eventlog statement v1\n"
    for bad in (b"", header.replace(b"1", b"2"), data[:60], header + b"x" * 2**21):
        with pytest.raises(NotProved):
            check(bad)


def test_witnesses_count_towards_a_quorum(home: Path, data: bytes, check: Check) -> None:
    witness = new_key("witness.example", COSIGNER)
    head = data[: data.index(lines_in(home)[0])]
    note = parse_note(head.removeprefix(b"eventlog statement v1\n")[:-1])
    signed = with_signatures(note, [cosign(note.text, witness, 1764412800)]).to_bytes()
    cosigned = data.replace(head, head_bytes(signed))
    found = check(cosigned, witness.verifier, quorum=1)
    assert found.to_json()["not_later_than"] == [
        {"by": "witness", "name": "witness.example", "time": "2025-11-29T10:40:00Z"}
    ]
    with pytest.raises(NotProved, match="0 of the witnesses have cosigned the checkpoint of 300"):
        check(data, witness.verifier, quorum=1)


def test_a_file_without_newlines_is_read_in_bounded_pieces(
    home: Path, data: bytes, check: Check
) -> None:
    """A hostile file costs no more memory than a piece of it."""
    head = data[: data.index(lines_in(home)[0])]

    class Endless(BytesIO):
        reads = count()

        def read(self, size: int | None = -1, /) -> bytes:
            assert size == PIECE_BYTES
            assert next(self.reads) < 3
            return b"x" * PIECE_BYTES

    with pytest.raises(NotProved, match="is longer than"):
        check_statement(Endless(head), [secret_of(home).verifier], scratch_parent=home.parent)


def test_a_log_that_is_not_the_one_that_was_signed_gives_no_statement(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    signed_home(first)
    with EventLog(second) as log:
        log.append_many(signals(LINES))
    (first / "evidence").rename(second / "evidence")
    done = eventlog("evidence", "statement", "--output", tmp_path / "file", home=second)
    assert done.code == 3
    assert "does not have the root that was signed" in done.err
    assert not (tmp_path / "file").exists()
    with pytest.raises(ProjectionError, match="does not have the root"):
        statement_of(second)


def test_the_commands_write_and_check_a_statement(
    home: Path, data: bytes, key: VerifierKey, tmp_path: Path
) -> None:
    file, vkey = tmp_path / "main.statement", key.to_text()
    done = eventlog("evidence", "statement", "--output", file, home=home)
    assert (done.code, file.read_bytes()) == (0, data), done.err
    shown = eventlog("evidence", "check-statement", file, "--key", vkey)
    assert shown.code == 0
    project(home)
    for part in (eventlog("stats", "--by", "strategy", home=home).out, b"PROVED: all 300 entries"):
        assert part.split(b"\n")[0] in shown.out
    as_json = json.loads(eventlog("evidence", "check-statement", file, "--key", vkey, "--json").out)
    assert (as_json["proved"], as_json["size"], len(as_json["by_strategy"])) == (True, 300, 2)
    file.write_bytes(data[:-1])
    refused = eventlog("evidence", "check-statement", file, "--key", vkey, "--json")
    assert refused.code == 1
    assert "NOT PROVED" in refused.err
    assert not json.loads(refused.out)["proved"]


def test_without_a_checkpoint_there_is_no_statement(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.append_many(signals(1))
    create_key(tmp_path, ORIGIN)
    with pytest.raises(NotProved, match="no checkpoint was signed yet"):
        statement_of(tmp_path)
    sign_checkpoint(tmp_path)
    assert statement_of(tmp_path)
