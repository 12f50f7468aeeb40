"""A line that was signed is shown as an entry only where each reader of JSON reads it alike."""

import pytest

from projections.errors import NotProved
from projections.evidence.proofs.check import check_proof
from tests.projections.evidence.foreign_lines import ACCEPTED, LOG, REFUSED, foreign_proof


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_entry_is_shown(name: str) -> None:
    found = check_proof(foreign_proof(ACCEPTED[name]), [LOG.verifier])
    assert found.entry.line == ACCEPTED[name] + b"\n"
    assert all(line.isprintable() for line in found.to_text())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_entry_or_can_be_read_in_two_ways_is_refused(name: str) -> None:
    with pytest.raises(NotProved):
        check_proof(foreign_proof(REFUSED[name]), [LOG.verifier])
