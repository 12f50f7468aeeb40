"""A slice of the fuzzing that `python -m tools.crash.fuzz` does for longer."""

import random
from pathlib import Path

import pytest

from tools.crash import fuzz


def test_a_hostile_line_is_refused_in_words_or_stored_exactly() -> None:
    refused, stored = fuzz.door(20_000, random.Random(20251118))
    assert refused > 1_000
    assert stored > 1_000


@pytest.mark.slow
def test_whatever_stands_in_the_files_reader_and_verify_only_report_it(tmp_path: Path) -> None:
    assert fuzz.reader(100, random.Random(20251118), tmp_path) > 50
