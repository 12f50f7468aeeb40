"""The two forms in which the time of now is stored."""

import re
import time
from datetime import UTC, datetime

import pytest

from eventlog.clock import now_recorded, now_stored


@pytest.mark.parametrize(
    "ns",
    [
        0,
        999,
        1_000,
        1_700_000_000_000_000_000,
        1_700_000_000_999_999_999,
        1_700_000_001_000_000_000,
        253_402_300_799_999_999_999,  # the last of the year 9999
        -1,  # a clock from before 1970
    ],
)
def test_both_forms_are_utc_to_the_microsecond_regardless_of_earlier_calls(
    ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.fromtimestamp(ns // 10**9, UTC).replace(microsecond=ns % 10**9 // 1000)
    text = moment.isoformat(timespec="microseconds")
    assert now_recorded() != text  # another second is remembered
    monkeypatch.setattr(time, "time_ns", lambda: ns)
    assert now_stored() == text
    assert now_recorded() == text.removesuffix("+00:00") + "Z"


def test_the_clock_advances() -> None:
    seen = [now_recorded() for _ in range(1000)]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text) for text in seen)
    assert seen == sorted(seen)
