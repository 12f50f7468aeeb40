"""Compact columns: they widen without a change of what they hold."""

from array import array

from projections.web.outcomes.columns import Names, extended


def test_a_column_becomes_as_wide_as_its_greatest_number() -> None:
    column, expected = array("B"), []
    for number, typecode in ((255, "B"), (256, "H"), (65_536, "I"), (2**32, "q"), (1, "q")):
        column = extended(column, [7, number])
        expected += [7, number]
        assert column.typecode == typecode
        assert column.tolist() == expected


def test_names_keep_their_numbers_when_there_are_more_than_a_byte_holds() -> None:
    names = Names()
    names.extend(["b", "a", "b"])
    names.extend([f"n{number}" for number in range(300)])
    assert [names.texts[code] for code in names.column[:3]] == ["b", "a", "b"]
    assert names.texts[names.column[-1]] == "n299"
    assert names.among(3) == ["a", "b"]
    assert names.among(4) == ["a", "b", "n0"]
    assert (names.code("n299"), names.code("unknown")) == (301, -1)
