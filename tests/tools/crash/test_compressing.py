"""Power may fail at any step of compressing a segment; a step that is left out is detected (W6)."""

from collections.abc import Iterator

import pytest

from tools.crash.check import Subject, simulation
from tools.crash.compressing import (
    COMPRESS_MUTANTS,
    compress_on_a_lying_disk,
    explore_compress,
)
from tools.crash.explorer import Explorer, Failure
from tools.crash.states import ORDERED

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with simulation():
        yield


def test_power_may_fail_at_any_step_of_compressing_and_moving() -> None:
    explorer = Explorer(Subject())
    explore_compress(explorer)
    assert explorer.states > 100


def test_a_disk_that_stores_wrong_bytes_loses_no_segment() -> None:
    compress_on_a_lying_disk(Explorer(Subject()))


@pytest.mark.parametrize("name", ["no-file-sync", "no-directory-sync", "unlink-before-rename"])
def test_leaving_out_a_step_loses_a_segment(name: str) -> None:
    with COMPRESS_MUTANTS[name].applied() as disk, pytest.raises(Failure):
        explore_compress(Explorer(Subject()), disk)


def test_only_reading_back_detects_a_disk_that_stores_wrong_bytes() -> None:
    with COMPRESS_MUTANTS["no-read-back"].applied(), pytest.raises(Failure):
        compress_on_a_lying_disk(Explorer(Subject()))


def test_moving_to_another_directory_needs_its_sync_where_names_keep_their_order() -> None:
    mutant = COMPRESS_MUTANTS["no-directory-sync"]
    with mutant.applied() as disk, pytest.raises(Failure):
        explore_compress(Explorer(Subject(), models=(ORDERED,)), disk, runs=("to closed",))
