"""The mirror in the console: none without a mirror, and never `replicated` on too few servers."""

from dataclasses import asdict
from pathlib import Path

import pytest

from eventlog.plumbing import MirrorRecord, write_record
from projections.monitoring.status import projections_status
from projections.web.views.vitals import mirror_figures
from tests.harness.read_side import append
from tests.harness.signals import signals


def test_a_home_without_a_mirror_has_no_figures_of_one(home: Path) -> None:
    append(home, *signals(3))
    assert mirror_figures(projections_status(home).get("mirror")) is None


@pytest.mark.parametrize(("replicas", "is_replicated"), [(None, False), (1, False), (3, True)])
def test_only_three_servers_replicate(
    home: Path, replicas: int | None, is_replicated: bool
) -> None:
    append(home, *signals(3))
    record = MirrorRecord(stream="EVENTLOG_main", acked=2, state="mirroring", replicas=replicas)
    write_record(home / "data", "mirror.json", asdict(record))
    found = mirror_figures(projections_status(home)["mirror"])
    assert found is not None
    assert (found["lag_entries"], found["state"]) == (1, "mirroring")
    assert found["is_replicated"] is is_replicated
