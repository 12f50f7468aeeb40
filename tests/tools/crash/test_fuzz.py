"""A short run of the fuzzer; `python -m tools.crash.fuzz` is a longer one."""

import random
from pathlib import Path

import pytest

from tools.crash import fuzz


def test_a_hostile_line_is_refused_with_a_message_or_stored_exactly() -> None:
    refused, stored = fuzz.fuzz_validation(20_000, random.Random(20251118))
    assert refused > 1_000
    assert stored > 1_000


@pytest.mark.slow
def test_reader_and_verify_report_any_file_contents_without_crashing(tmp_path: Path) -> None:
    assert fuzz.fuzz_reader(100, random.Random(20251118), tmp_path) > 50
