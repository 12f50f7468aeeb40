"""Payloads: the limits and words of validation are shared, its strictness is not."""

import pytest

from eventlog import InvalidSignal
from eventlog.plumbing import FIELD_LIMITS
from eventlog.schema.validation import validate
from projections.signals.payloads import read_signal
from tests.harness.signals import a_signal

STORED = {
    **a_signal(1, signal_id="s-1", timestamp="2025-11-18T02:00:00.000000+00:00"),
    "asset_type": "stock",
    "data_source": "test",
    "sha256": "0" * 64,
}


@pytest.mark.parametrize(
    "changed",
    [
        {"symbol": "x" * 300},
        {"symbol": "BRK B"},
        {"strategy": "s" * 300},
        {"strategy": "two\nlines"},
        {"asset_type": "a" * 300},
        {"entry_price": 2**60 + 1},
        {"note": "\x00", "v": 7},
    ],
    ids=str,
)
def test_a_stored_signal_that_validation_would_refuse_today_stays_a_row(
    changed: dict[str, object],
) -> None:
    payload = {**STORED, **changed}
    given = {key: value for key, value in payload.items() if key != "sha256"}
    with pytest.raises(InvalidSignal):
        validate(given, now=str, new_id=str)
    read = read_signal(payload)
    assert not isinstance(read, str), read
    assert read[0][0] == "s-1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("signal_id", "a\u202eb"),
        ("action", "HOLD"),
        ("confidence", 100.5),
        ("strategy", 7),
    ],
)
def test_a_refusal_and_a_skipped_payload_use_the_same_words(key: str, value: object) -> None:
    payload = {**STORED, key: value}
    words = FIELD_LIMITS.words["text" if key == "strategy" else key]
    with pytest.raises(InvalidSignal, match=f"must be {words}"):
        validate({k: v for k, v in payload.items() if k != "sha256"}, now=str, new_id=str)
    reason = read_signal(payload)
    assert isinstance(reason, str)
    assert reason.startswith(f"{key} is not ")
    assert words in reason or key == "strategy"  # which must not be empty either
