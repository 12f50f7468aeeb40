"""After an accepted loss no line is handed over that is not signed, and the lost one is named."""

from io import BytesIO
from pathlib import Path

import pytest

from eventlog import EventLog
from eventlog.format.line import next_chain, stored_chain
from projections.errors import ProjectionError
from projections.evidence.handover.export import export_evidence
from projections.evidence.handover.publish import publish
from projections.evidence.handover.write_statement import write_statement
from projections.evidence.signing.signing import create_key, sign_checkpoint
from tests.harness.log_checks import lines_in
from tests.harness.signals import signals
from tests.projections.evidence.handover.homes import ORIGIN, signed_home, write_trades
from tests.projections.evidence.tree.test_lost_leaves import accept, damage


@pytest.fixture
def lossy(tmp_path: Path) -> Path:
    """300 signed lines, of which one was lost, and more that are not signed."""
    home = tmp_path / "home"
    signed_home(home)
    damage(home, lines_in(home), [3])
    assert accept(home) == []
    write_trades(home, start=9000, signals=2)
    return home


def test_a_statement_of_a_log_with_a_loss_writes_no_line(lossy: Path) -> None:
    file = BytesIO()
    with pytest.raises(ProjectionError, match="entry 3 is missing") as error:
        write_statement(lossy, file)
    assert "repair --from" in error.value.do
    assert file.getvalue() == b""


def test_an_export_and_published_lines_say_which_line_was_lost(lossy: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    with pytest.raises(ProjectionError, match="entry 3 is missing"):
        export_evidence(lossy, tmp_path / "export")
    with pytest.raises(ProjectionError, match="entry 3 is missing"):
        publish(lossy, public, with_entries=True)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    counted: list[int] = []
    done = publish(lossy, public, on_unsalted=counted.append)
    assert (done.size, done.unsalted, counted) == (300, 299, [299])  # not those behind


def test_an_export_names_an_entry_that_is_wrong(tmp_path: Path) -> None:
    """Its sha256 is not that of its signal: another program has appended it."""
    home = tmp_path / "home"
    with EventLog(home) as log:
        log.append_many(signals(2))
    (segment,) = (home / "logs").glob("0*.jsonl")
    segment.write_bytes(forged(segment.read_bytes()))
    create_key(home, ORIGIN)
    sign_checkpoint(home)
    with pytest.raises(ProjectionError, match="an entry that was signed is wrong"):
        export_evidence(home, tmp_path / "export")


def forged(data: bytes) -> bytes:
    """The same log with another hash in its last signal, and the chain that fits."""
    first, last = data.splitlines(keepends=True)
    at = last.index(b'"sha256":"') + 10
    last = last[:at] + b"0" * 64 + last[at + 64 :]
    chain = next_chain(stored_chain(first), last)
    return first + last[:-67] + chain.encode() + last[-3:]
