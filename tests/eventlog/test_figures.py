"""Figures for people: the right plural, the right unit, no digit that says nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.figures import (
    bytes_text,
    count_text,
    decimal_text,
    duration_text,
    figure_text,
    price_text,
    time_text,
)


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "segment", "0 segments"),
        (1, "segment", "1 segment"),
        (2, "entry", "2 entries"),
        (1, "entry", "1 entry"),
        (3, "key", "3 keys"),
        (12_345, "signal", "12,345 signals"),
    ],
)
def test_a_noun_is_in_the_plural_unless_there_is_one(count: int, noun: str, text: str) -> None:
    assert count_text(count, noun) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1,023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024, "10 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (204 * 1024**2, "204 MiB"),
        (64 * 1024**3, "64 GiB"),
        (5000 * 1024**5, "5,000 PiB"),
    ],
)
def test_a_size_has_the_unit_that_fits(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (0.35, "0.3 s"),
        (12.4, "12 s"),
        (119, "119 s"),
        (660.4, "11 min"),
        (3 * 3600, "3.0 h"),
        (30 * 3600, "30 h"),
        (5 * 86_400, "5 days"),
        (-90, "-90 s"),
    ],
)
def test_a_duration_has_the_unit_in_which_a_person_would_say_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.249999999999996, "12.25"),
        (60.5, "60.5"),
        (100.0, "100"),
        (0.0, "0"),
        (-0.001, "0"),
        (-3.14159, "-3.14"),
        (1_234_567.891, "1,234,567.89"),
        (math.inf, "inf"),
    ],
)
def test_a_decimal_has_two_digits_at_most(value: float, text: str) -> None:
    assert decimal_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(150.5, "150.5"), (147.0, "147"), (97_123.45, "97123.45"), (0.1 + 0.2, "0.3")],
)
def test_a_price_keeps_its_digits_without_the_noise_of_doubles(value: float, text: str) -> None:
    assert price_text(value) == text


@pytest.mark.parametrize("stored", ["Z", "+00:00"])
@pytest.mark.parametrize(
    ("places", "kept"), [(None, ".123456"), (6, ".123456"), (3, ".123"), (0, "")]
)
def test_a_time_has_a_numeric_offset_and_the_places_that_are_wanted(
    stored: str, places: int | None, kept: str
) -> None:
    text = time_text(f"2025-11-18T02:00:00.123456{stored}", places)
    assert text == f"2025-11-18T02:00:00{kept}+00:00"


@pytest.mark.parametrize("text", ["", "soon", "2025-11-18", "2025-11-18T02:00:00+01:00"])
def test_a_text_that_is_no_utc_time_is_kept(text: str) -> None:
    assert time_text(text) == time_text(text, places=0) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("recorded_at", "2025-11-18T02:00:00.5Z", "2025-11-18T02:00:00.5+00:00"),
        ("reason", "2025-11-18T02:00:00Z", "2025-11-18T02:00:00Z"),
        ("reason", "a\x1b[31m", "a\\x1b[31m"),
        ("wal_bytes", 1536, "1.5 KiB"),
        ("lag_seconds", 660.4, "11 min"),
        ("p95_s", 0.35, "0.3 s"),
        ("entries", 12_345, "12,345"),
        ("entry_price", 97_123.45, "97123.45"),
        ("win_rate", 60.549, "60.55"),
        ("last_error", None, "-"),
    ],
)
def test_the_key_of_a_figure_gives_its_unit(key: str, value: object, text: str) -> None:
    assert figure_text(key, value) == text


@given(st.integers(0, 2**60))
def test_a_size_as_text_is_within_a_twentieth_of_the_size(count: int) -> None:
    number, unit = bytes_text(count).replace(",", "").split(" ")
    factors = {"byte": 1, "bytes": 1} | {
        f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)
    }
    assert abs(float(number) * factors[unit] - count) <= 0.051 * count
