"""The extremes of any part of a column are those of looking at all of it."""

import random
from array import array

import pytest

from projections.web.outcomes import extremes
from projections.web.outcomes.extremes import Choose, extremes_of


@pytest.mark.parametrize("choose", [min, max])
def test_an_extreme_of_any_part_is_that_of_all_its_values(
    choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extremes, "STEP", 4)
    chance = random.Random(3)
    for count in (1, 3, 4, 5, 30):
        values = [float(chance.randrange(12)) for _ in range(count)]  # some are equal
        found = extremes_of(array("d", values), choose)
        for start in range(count):
            for end in range(start + 1, count + 1):
                expected = choose(values[start:end])
                assert found.value(start, end) == expected
                assert found.position(start, end) == values.index(expected, start, end)
